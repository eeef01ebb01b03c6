"""Nodes that read and write files: generators, encoders, latents, the demo's pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.choices import DEMO_PHOTO, DEMO_PICTURES, PERCEPTUAL_NETS, TARGET_LOOKS
from . import bridge
from .api import io
from .file_kinds import CLIPS, GENERATORS, LATENTS, PERCEPTUAL_FILES, PREFIX_CHECK
from .queue_checks import problem
from .sockets import Encoders, Generator, Latent, advanced, prefix_input, schema
from .values import checked

AUTOMATIC = "automatic"
CLIP_MODELS = [
    bridge.DEMO,
    "ViT-B-32:openai",
    "ViT-B-16:openai",
    "ViT-L-14:openai",
    "ViT-B-32:laion2b_s34b_b79k",
    "ViT-B-16:laion2b_s34b_b88k",
]
FORMATS = {"safetensors": ".safetensors", "rosinality": ".pt"}


class LoadStyleGAN(io.ComfyNode):
    """A generator from a file, or the demo's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One choice of file, the demo among them; beside the generator the node says what the file was."""
        return schema(
            node_id="LoadStyleGAN",
            aliases=("stylegan2", "load generator", "gan", "checkpoint", "pkl"),
            display_name="Load StyleGAN2",
            description="Reads a StyleGAN2 generator, with its discriminator where the file has one, without "
            "ever running code from the file: .safetensors, state dicts of rosinality, NVIDIA, BasicSR, "
            "genforce and MMGeneration (.pt, .pth), NVIDIA .pkl, TensorFlow .pkl.",
            inputs=[
                io.Combo.Input(
                    "generator_name",
                    options=bridge.generator_names(),
                    default=bridge.DEMO,
                    tooltip="A file in models/oneshot_stylegan, output/oneshot_stylegan or models/stylegan; "
                    "'demo' is the small portrait generator that comes with this pack (128 px, no download).",
                )
            ],
            outputs=[
                Generator.Output("generator", display_name="generator", tooltip="The generator."),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="What was found: size, widths, discriminator, format, source.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, generator_name: str) -> str:
        """Run again when the file changed."""
        if generator_name == bridge.DEMO:
            return bridge.DEMO
        return GENERATORS.stamp(generator_name)

    @classmethod
    @checked
    def execute(cls, generator_name: str) -> io.NodeOutput:
        """Load."""
        if generator_name == bridge.DEMO:
            bundle = core.demo_generator()
        else:
            bundle = GENERATORS.read(generator_name, core.load)
        info = bundle.summary()
        kind, *_ = info.splitlines()
        notes = list(bundle.provenance.notes)
        shown = {"text": [info], "notes": notes, "status": [f"{kind}, {bundle.critic()}", *notes]}
        return io.NodeOutput(bundle, info, ui=shown)


MORE_CLIPS = (
    "Further CLIP models, whose losses are added by weight: NAME*WEIGHT, several joined by +. StyleGAN-NADA "
    "and Mind the Gap use ViT-B-32:openai and ViT-B-16:openai."
)


class OneShotLoadEncoders(io.ComfyNode):
    """CLIP and the perceptual net on one wire."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Both networks by name or by file, on one output; their files are read when they are first used."""
        files = [AUTOMATIC, *bridge.names(bridge.ENCODERS)]
        return schema(
            node_id="OneShotLoadEncoders",
            aliases=("clip", "lpips", "load clip", "perceptual"),
            display_name="Load Encoders (CLIP, LPIPS)",
            description="The networks that compare pictures: CLIP and a perceptual net. Each is loaded when "
            "it is first used.",
            inputs=[
                io.Combo.Input(
                    "clip",
                    options=CLIP_MODELS,
                    default=bridge.DEMO,
                    tooltip="CLIP model, as open_clip names it (model:weights). The method uses "
                    "ViT-B-32:openai. 'demo' comes with this pack and knows the demo's portraits only.",
                ),
                io.Combo.Input(
                    "perceptual",
                    options=list(PERCEPTUAL_NETS),
                    default=bridge.DEMO,
                    tooltip="Perceptual net (LPIPS). The method uses alex; vgg sees finer texture but costs "
                    "more than the generator itself at 1024 px.",
                ),
                io.Boolean.Input(
                    "download",
                    default=True,
                    tooltip="Whether weights that are missing may be downloaded into "
                    "models/oneshot_encoders, checked by their hash. Off: an error says which file is "
                    "missing and where to get it.",
                ),
                advanced(
                    io.Combo,
                    "clip_file",
                    options=files,
                    default=AUTOMATIC,
                    tooltip="Weights of the CLIP model from a file in models/oneshot_encoders.",
                ),
                advanced(
                    io.Combo,
                    "perceptual_file",
                    options=files,
                    default=AUTOMATIC,
                    tooltip="ImageNet weights of the perceptual net's backbone from a file in "
                    "models/oneshot_encoders.",
                ),
                advanced(
                    io.String,
                    "more_clips",
                    default="",
                    placeholder="ViT-B-16:openai*0.5",
                    tooltip=MORE_CLIPS,
                ),
            ],
            outputs=[
                Encoders.Output(
                    "encoders", display_name="encoders", tooltip="CLIP and the perceptual net, on one wire."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, clip: str | None = None, clip_file: str | None = None, more_clips: str | None = None
    ) -> bool | str:
        """Refuse a file for the demo's CLIP, which has its own, one that is not there, unreadable models."""

        def check(model: str, file: str) -> None:
            if file != AUTOMATIC:
                core.EncoderChoice(model, file)
                CLIPS.path(file)

        given = {"clip": clip, "clip_file": clip_file, "more_clips": more_clips}
        return problem(cls, given, (("clip", "clip_file"), check), (("more_clips",), core.further_clips))

    @classmethod
    def fingerprint_inputs(cls, clip_file: str, perceptual_file: str, **_: Any) -> str:
        """Run again when a file changed."""
        chosen = ((CLIPS, clip_file), (PERCEPTUAL_FILES, perceptual_file))
        return " ".join([AUTOMATIC, *(kind.stamp(name) for kind, name in chosen if name != AUTOMATIC)])

    @classmethod
    @checked
    def execute(
        cls, clip: str, perceptual: str, download: bool, clip_file: str, perceptual_file: str, more_clips: str
    ) -> io.NodeOutput:
        """Remember the choice; nothing is loaded yet."""
        paths = [
            None if name == AUTOMATIC else str(kind.path(name))
            for kind, name in ((CLIPS, clip_file), (PERCEPTUAL_FILES, perceptual_file))
        ]
        more = core.further_clips(more_clips)
        choice = core.EncoderChoice(clip, paths[0], perceptual, paths[1], more)
        encoders = choice.open(
            bridge.encoder_folder(), allow_download=download, progress=bridge.download_progress
        )
        text = bridge.said(choice.notes())
        return io.NodeOutput(encoders, ui={"text": text, "notes": text})


class OneShotDemoTarget(io.ComfyNode):
    """A target picture that comes with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One choice of look; the picture has the size of the demo generator, 128 px."""
        return schema(
            node_id="OneShotDemoTarget",
            aliases=("demo", "style picture", "example"),
            display_name="Demo Target Picture",
            description="One of the pictures that come with this pack: targets for trying the demo, and a "
            "photo of three people.",
            inputs=[
                io.Combo.Input(
                    "look",
                    options=list(DEMO_PICTURES),
                    default=TARGET_LOOKS[0],
                    tooltip="The look of the picture; or a drawn photo of three people, for Align Face.",
                )
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="The picture, 128 px; the photo has 640 x 400."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, look: str) -> io.NodeOutput:
        """Load the picture."""
        picture = core.demo_photo() if look == DEMO_PHOTO else core.demo_target(look)
        return io.NodeOutput(bridge.to_comfy(picture))


class OneShotSaveGenerator(io.ComfyNode):
    """A generator to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Runs with nothing linked behind it; the output is the file's name as Load StyleGAN2 lists it.

        The hidden prompt and workflow, which ComfyUI gives output nodes, go into the header of a safetensors
        file.
        """
        return schema(
            node_id="OneShotSaveGenerator",
            aliases=("export generator", "save stylegan", "rosinality"),
            display_name="Save Generator",
            description="Writes a generator into the output folder, where Load StyleGAN2 finds it.",
            is_output_node=True,
            inputs=[
                Generator.Input("generator", tooltip="The generator to save: adapted, blended or any other."),
                prefix_input(GENERATORS.prefix("generator")),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="safetensors",
                    tooltip="safetensors: this pack's format with settings, a cover picture and the workflow "
                    "in its header. rosinality: a .pt for the programs built on rosinality's StyleGAN2 "
                    "(float32).",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["float32", "float16"],
                    default="float32",
                    tooltip="Number format of the weights; float16 halves the file (safetensors only).",
                ),
                io.Boolean.Input(
                    "with_discriminator",
                    default=True,
                    tooltip="Keep the discriminator, with which a further adaptation of this generator goes "
                    "more surely; without it that starts a fresh one. Off: about half the size.",
                ),
            ],
            outputs=[GENERATORS.output()],
        )

    @classmethod
    def validate_inputs(
        cls, filename_prefix: str | None = None, format: str | None = None, dtype: str | None = None
    ) -> bool | str:
        """Refuse a place outside the output folder, and what the format does not know."""
        values = {"filename_prefix": filename_prefix, "format": format, "dtype": dtype}
        return problem(cls, values, PREFIX_CHECK, (("format", "dtype"), core.check_format))

    @classmethod
    @checked
    def execute(
        cls,
        generator: Any,
        filename_prefix: str,
        format: Any,
        dtype: Any,
        with_discriminator: bool,
    ) -> io.NodeOutput:
        """Write the file and report it."""
        own = format == "safetensors"
        cover, notes = _cover(generator) if own else (None, [])
        kept = with_discriminator

        def write(path: Path) -> None:
            card = core.model_card(generator, cover, title=path.stem.rstrip("_"))
            texts = {**card, **bridge.workflow_metadata(cls.hidden)} if own else {}
            core.save(generator, path, format=format, dtype=dtype, with_discriminator=kept, metadata=texts)

        _, listed, told = GENERATORS.save(filename_prefix, write, *notes, extension=FORMATS[format])
        return io.NodeOutput(listed, ui={**told, "notes": notes})


def _cover(generator: Any) -> tuple[Any, list[str]]:
    """The cover picture; none, with a note, where memory does not suffice: the file matters more."""

    def draw() -> Any:
        bridge.place([generator.generator], core.sampling_bytes(generator, 1))
        return core.draw_cover(generator)

    cover = bridge.unless_memory_is_full(draw)
    return cover, [] if cover is not None else bridge.said(["saved without a cover picture: out of memory"])


class OneShotSaveLatent(io.ComfyNode):
    """A latent to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Runs with nothing linked behind it; the output is the name as Load StyleGAN Latent lists it."""
        return schema(
            node_id="OneShotSaveLatent",
            aliases=("save w", "save latent code"),
            display_name="Save StyleGAN Latent",
            description="Writes latents, with where they came from, into the output folder, where Load "
            "StyleGAN Latent finds them.",
            is_output_node=True,
            inputs=[
                Latent.Input("latent", tooltip="The latents to save, any number of codes."),
                prefix_input(LATENTS.prefix("latent")),
            ],
            outputs=[LATENTS.output()],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """Refuse a place outside the output folder."""
        return problem(cls, {"filename_prefix": filename_prefix}, PREFIX_CHECK)

    @classmethod
    @checked
    def execute(cls, latent: Any, filename_prefix: str) -> io.NodeOutput:
        """Write the file and report it."""
        _, listed, told = LATENTS.save(filename_prefix, partial(core.save_latent, latent))
        return io.NodeOutput(listed, ui=told)


class OneShotLoadLatent(io.ComfyNode):
    """A latent from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A choice of files without a default: the demo, which other loaders start with, has none."""
        files = bridge.names(bridge.LATENTS)
        return schema(
            node_id="OneShotLoadLatent",
            aliases=("load w", "projected latent", "e4e", "inversion"),
            display_name="Load StyleGAN Latent",
            description="Reads latents that Save StyleGAN Latent, or `oneshot search`, wrote, and w and w+ "
            "codes of other programs' projectors and encoders: .npz, .npy, .pt, .pth, plain .safetensors.",
            inputs=[
                io.Combo.Input(
                    "latent_name",
                    options=files,
                    tooltip="A file in models/oneshot_latents or output/oneshot_latents: .safetensors, .npz, "
                    ".npy, .pt or .pth.",
                )
            ],
            outputs=[
                Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The latents of the file. Other programs' files do not say which generator they "
                    "belong to: use the one they were made with.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, latent_name: str) -> str:
        """Run again when the file changed."""
        return LATENTS.stamp(latent_name)

    @classmethod
    @checked
    def execute(cls, latent_name: str) -> io.NodeOutput:
        """Load, and tell what was assumed about another program's file."""
        latent = LATENTS.read(latent_name, core.load_latent)
        text = bridge.said(core.latent_notes(latent))
        return io.NodeOutput(latent, ui={"text": text, "notes": text})
