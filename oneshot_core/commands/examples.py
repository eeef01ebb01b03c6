"""Examples of every verb, which its --help ends with; imports nothing."""

from __future__ import annotations

EXAMPLES = {
    "demo": """\
  oneshot demo                          adapt the demo's face generator to a drawing, into out/demo
  oneshot demo --target neon --out neon   another of the shipped targets
  oneshot demo --list                   name the shipped targets""",
    "info": """\
  oneshot info ffhq.pt                  what is in a checkpoint, without running anything in it
  oneshot info network.pkl --json       the same for a script
  oneshot info demo                     the demo's generator""",
    "convert": """\
  oneshot convert ffhq.pkl ffhq.safetensors
  oneshot convert ffhq.pkl ffhq.pt      for programs that read rosinality's format
  oneshot convert run.safetensors small.safetensors --dtype float16 --without-discriminator
  oneshot convert ffhq.pt pencil.safetensors --look pencil_look.safetensors:0.8
  oneshot convert e4e_ffhq_encode.pt e4e.safetensors --encoder --dtype float16""",
    "look": """\
  oneshot adapt --generator ffhq.pt --target pencil.png --out pencil --trained-parts "style offsets"
  oneshot look ffhq.pt pencil/adapted.safetensors pencil_look.safetensors
  oneshot sample --generator ffhq.pt --look pencil_look.safetensors:1.5 --seeds 0-7 --out pictures""",
    "search": """\
  oneshot search --generator ffhq.pt --target me.png --out found
  oneshot search --generator demo --target me.png --out found --steps 200
  oneshot search --generator ffhq.pt --target me.png --out found --weight clip=0   pixels and LPIPS only""",
    "adapt": """\
  oneshot adapt --generator ffhq.pt --target sketch.png --out sketch
  oneshot adapt --generator demo --target sketch.png --out sketch --steps 300 --search-steps 150
  oneshot adapt --generator ffhq.pt --target sketch.png --out paper --profile official --steps 2001
  oneshot adapt --generator ffhq.pt --target sketch.png --out plain --weight semantic=0 --weight patch=0

Run it twice: the second time it resumes where it was stopped, or says that it is done.""",
    "sample": """\
  oneshot sample --generator sketch/adapted.safetensors --seeds 0-15 --out pictures
  oneshot sample --generator sketch/adapted.safetensors --source ffhq.pt --seeds 0-7 --out pairs --psi 0.7
  oneshot sample --generator demo --seeds 0-7 --out mixed --mix-seeds 42 --mix-slots 4-7
  oneshot sample --generator demo --seeds 1,5,9 --out walk --interpolate 30 --loop
  oneshot sample --generator demo --seeds 0-4 --out sweep --sweep 0,0.3,0.6,1""",
    "edit": """\
  oneshot edit --generator ffhq.pt --seeds 0-3 --text "a person with a hat" --out hat
  oneshot edit --generator demo --seeds 0-3 --text "a person with a hat" --space style --out hat
  oneshot edit --generator ffhq.pt --latent me.npz --text "a face" --identity model_ir_se50.pth --out me
  oneshot edit --generator demo --seeds 0-7 --method mapper --text "a person with a hat" --out mapper
  oneshot edit --generator demo --seeds 8-15 --method mapper --mapper mapper/mapper.safetensors --out more
  oneshot edit --generator ffhq.pt --adapted sketch.pt --seeds 0-7 --method direction \\
    --direction smile.safetensors:2 --direction age.safetensors:-3 --out both

Without --mapper the method mapper trains one; the same command goes on where it was stopped.""",
    "evaluate": """\
  oneshot evaluate sketch --generator ffhq.pt --target sketch.png --out judged
  oneshot evaluate sketch --generator ffhq.pt --target sketch.png --out judged --clip ViT-L-14 --strict
  oneshot evaluate one two three --generator ffhq.pt --target sketch.png --out compared
  oneshot evaluate sketch --generator ffhq.pt --target sketch.png --out steps --snapshots
  oneshot evaluate sketch --generator ffhq.pt --target sketch.png --out judged --reference drawings""",
    "batch": """\
  oneshot batch plan.json --check           list the jobs, run nothing
  oneshot batch plan.json --out results     one job after the other, in this process
  oneshot batch plan.json --server http://127.0.0.1:8188   in the queue of a ComfyUI server
  oneshot batch plan.json --server http://127.0.0.1:8188 --check   ask the server, send nothing
  oneshot batch plan.json --server http://a:8188 --server http://b:8188   work goes to the idle one
  oneshot batch plan.json --ray local       each job on a GPU of its own; with an address: on a cluster

Run it again and it does what is missing. A small plan, for all pictures in a folder with two seeds:
  {"format": "oneshot-batch", "format_version": 1, "workflow": "demo",
   "defaults": {"generator": "demo", "steps": 300}, "grid": {"targets": "targets/*.png", "seeds": [0, 1]}}

docs/batch.md in the repository explains plans, workflows, checks and what is written, docs/scale.md clusters,
several servers and what thousands of targets cost.""",
    "recipe": """\
  oneshot recipe adapt --generator ffhq.pt --target sketch.png --steps 500 > sketch.json
  oneshot recipe sketch/adapted.safetensors       of a result, from its own header
  oneshot adapt --recipe sketch/adapted.safetensors --generator ffhq.pt --target sketch.png --out again""",
    "directions": """\
  oneshot directions text --generator ffhq.pt --from "a face" --to "a smiling face" --out smile.safetensors
  oneshot directions dictionary --generator ffhq.pt --out words.safetensors     once; then every text:
  oneshot directions text --generator ffhq.pt --dictionary words.safetensors --from hair --to "red hair" \\
      --out red.safetensors
  oneshot directions ganspace --generator ffhq.pt --count 20 --out components
  oneshot directions combine smile.safetensors red.safetensors:-0.5 --out both.safetensors
  oneshot directions convert fs3.npy --statistics S_mean_std --generator ffhq.pt --out styleclip.safetensors
  oneshot directions show --generator ffhq.pt --adapted sketch/adapted.safetensors   how far styles moved""",
    "align": """\
  oneshot align me.jpg --out aligned --size 1024           needs: pip install oneshot-stylegan[faces]
  oneshot align group.jpg --out aligned --face 2           the second face from the left
  oneshot align me.jpg --out aligned --points 210,143 268,140 240,205     no detector: eyes and mouth by hand
  oneshot align frames --out aligned --smooth 2            the frames of a video
  oneshot align car.jpg --out aligned --square --size 512  no face
  oneshot search --generator ffhq.pt --target me.jpg --quad aligned/me.json --out found""",
    "invert": """\
  oneshot invert aligned/me.png --generator ffhq.pt --out inverted
  oneshot invert aligned/me.png --generator ffhq.pt --out inverted --method nvidia --space w+
  oneshot invert aligned/*.png --generator ffhq.pt --out inverted --e4e e4e_ffhq_encode.pt --steps 200
  oneshot sample --generator sketch/adapted.safetensors --latent inverted/latents.safetensors --out new""",
    "paste": """\
  oneshot paste edited.png --photo me.jpg --quad aligned/me.json --out me_edited.png
  oneshot paste edited.png --photo me.jpg --quad aligned/me.json --mask hair.png --out me_edited.png
  oneshot paste edited --photo frames --quad aligned --out pasted      folders: the frames of a video""",
}
