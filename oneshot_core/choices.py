"""What users may choose from, by name; without torch, so that menus and help texts cost nothing."""

from __future__ import annotations

DEMO = "demo"  # the shipped generator, and the encoders that suit it
FITS = ("crop", "stretch", "letterbox")
PRESETS = ("oneshot_clip", "stylegan_nada", "mind_the_gap", "few_shot")
PROFILES = ("default", "official")
AUTO = "auto"  # the choice is made where the device and the generator are known
PRECISIONS = (AUTO, "float32", "bfloat16")
PERCEPTUAL_NETS = (DEMO, "alex", "vgg", "squeeze")
DEVICES = ("auto", "cpu", "cuda", "mps")
# What becomes of a run that is kept already.
KEPT_RUNS = USE, GO_ON, TRAIN_AGAIN = ("use it", "go on", "train again")
NOISE_MODES = ("const", "none", "random")
# How z is drawn from a seed: as this pack does, or as NVIDIA's programs, whose published seeds it then shows.
SEED_DRAWS = OWN_DRAW, NVIDIA_DRAW = ("own", "nvidia")
# Parts of a generator that a method may train; mapping: what a latent means, rgb: colours. Affine layers
# apart from convolutions: frozen alone, style edits stay exact (NADA's StyleGAN3 does so).
STYLE_OFFSETS = "style offsets"  # biases of all affine layers, those of rgb too: what a look is (`looks`)
PARTS = ("mapping", "constant", "affine", "convolution", "noise", "rgb", STYLE_OFFSETS)
LOOK_STRENGTHS = (-1.0, 2.0)  # allowed; beyond 0 and 1 a look is more than was learnt, or its opposite
# Looks of the shipped target pictures; the first is the demo's.
TARGET_LOOKS = (
    "comic", "oil painting", "line art", "cel shading", "pencil sketch", "watercolour", "stained glass",
    "blueprint",
)  # fmt: skip
DEMO_PHOTO = "photo of three people"
DEMO_PICTURES = (*TARGET_LOOKS, DEMO_PHOTO)  # that the demo ships
# What is done where nothing is said. The method trains 2000 steps and shows pictures of step 700.
STEPS, SEARCH_STEPS, SEARCH_RATE = 1000, 1000, 0.01
METHOD_STEPS = {"oneshot_clip": STEPS, "stylegan_nada": 300, "mind_the_gap": 600, "few_shot": 1000}
# Of aligned photos: FFHQ's side; how far a picture that is put back fades in, as a share of its side; the
# deviation of what smooths a video's squares, in frames.
ALIGNED_PX, FEATHER, SMOOTH_FRAMES = 1024, 0.1, 2.0
LARGEST = "largest"  # of several faces
SEARCH_METHODS = ("clip", "ii2s")  # ii2s: Mind the Gap's inversion, one code per slot
DEMO_TARGET = f"{DEMO}:"  # before a look: the shipped picture of it
