"""The node of inversion: pictures of people as latents of a generator."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from .. import oneshot_core as core
from ..oneshot_core.recipe import MOST_STEPS
from . import bridge
from .api import io
from .file_kinds import E4E_ENCODERS
from .pictures import framed_batch
from .sockets import Alignment, Latent, encoders_input, generator_input, schema, seed_input
from .values import checked

NVIDIA, ROSINALITY, II2S, E4E = "projector (nvidia)", "projector (rosinality)", "ii2s", "e4e"
LOWER = "the number of pictures, or use a smaller perceptual net"
KEPT = "The inversion goes on from its last step when it is queued again"


class OneShotInvertImage(io.ComfyNode):
    """The latents whose pictures are given pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Every method brings its own inputs; the picture is expected to be aligned."""
        return schema(
            node_id="OneShotInvertImage",
            aliases=("gan inversion", "projector", "e4e", "ii2s", "photo", "encode"),
            shows=True,
            display_name="Invert Image",
            description="Finds the latents whose pictures are given photos, so that they can be edited and "
            "drawn by adapted generators. Faces are aligned first (Align Face).",
            inputs=[
                generator_input("The source generator: photos are inverted with it, whoever draws them."),
                encoders_input("Its perceptual net compares pictures; from Load Encoders."),
                io.Image.Input("image", tooltip="Aligned pictures; each of a batch is inverted by itself."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(II2S, [_steps(), _prior(), _seed()]),
                        io.DynamicCombo.Option(NVIDIA, [_steps(), _space(), _rate(), _seed()]),
                        io.DynamicCombo.Option(ROSINALITY, [_steps(), _space(), _rate(), _seed()]),
                        io.DynamicCombo.Option(E4E, [_e4e_file(), _refinement(), _seed()]),
                    ],
                    tooltip="ii2s: held among likely latents, so that edits work. projector: NVIDIA's and "
                    "rosinality's programs, nearest in w+. e4e: an encoder, at once, if you have its file.",
                ),
                Alignment.Input(
                    "alignment",
                    optional=True,
                    tooltip="From Align Face; stored with the latent.",
                ),
            ],
            outputs=[
                Latent.Output("latent", display_name="latent", tooltip="One code per picture."),
                io.Image.Output(
                    "reconstruction", display_name="reconstruction", tooltip="What the generator makes of it."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, method: Any = None, **_: Any) -> str:
        """Run again when the encoder's file changed."""
        name = method.get("e4e_file") if isinstance(method, dict) else None
        return E4E_ENCODERS.stamp(name) if name else ""

    @classmethod
    @checked
    def execute(
        cls, generator: Any, encoders: Any, image: Tensor, method: dict[str, Any], alignment: Any = None
    ) -> io.NodeOutput:
        """Invert."""
        pictures, _, notes = framed_batch(image, None, generator.size, core.Frame())
        quads = None if alignment is None else [alignment.of(n, len(pictures)) for n in range(len(pictures))]
        config = _config(method)
        steps = 1 if config is None else config.steps * len(pictures)
        run = bridge.NodeProgress(steps)
        with bridge.working(LOWER, KEPT):
            device = bridge.make_room(core.search_bytes(generator, encoders))
            with core.gradients():  # what is moved in inference mode could not be taken back through
                placed, net = generator.to(device), encoders.to(device).perceptual
                start = _encoded(placed, pictures, method, quads)
                found = core.inverted(
                    placed, pictures, net, config, start, quads,
                    callbacks=[run.report], kept=bridge.kept_results("inversions"), poll=run.check,
                )  # fmt: skip
        drawn = bridge.to_comfy(found.images)
        notes = bridge.said([*notes, *run.notes, *core.likelihood_notes(generator, found.latent)])
        curves = {"losses": [core.plot_points(found.losses)], "text": notes, "notes": notes}
        shown = bridge.compared(("photo", bridge.to_comfy(pictures)), ("inverted", drawn))
        return io.NodeOutput(found.latent, drawn, ui={**curves, **shown})


def _config(method: dict[str, Any]) -> Any:
    """Settings of the optimisation; None where an encoder's code is taken as it is."""
    kind = method["method"]
    if kind == E4E:
        steps = method["refinement"]
        return None if not steps else core.inversion_config("refinement", steps=steps, seed=method["seed"])
    own = {name: method[name] for name in ("space", "learning_rate", "prior") if name in method}
    return core.inversion_config(kind, steps=method["steps"], seed=method["seed"], **own)


def _encoded(generator: Any, pictures: Tensor, method: dict[str, Any], quads: Any) -> Any:
    """The encoder's latent; None for the other methods."""
    if method["method"] != E4E:
        return None
    encoder = E4E_ENCODERS.read(method["e4e_file"], partial(core.load_e4e, mean_latent=generator.mean_latent))
    return core.encode_pictures(generator, encoder.to(generator.generator.const.device), pictures)


def _steps() -> io.Input:
    return io.Int.Input(
        "steps",
        default=1000,
        min=1,
        max=MOST_STEPS,
        tooltip="Optimiser steps per picture; the published programs have 1000.",
    )


def _prior() -> io.Input:
    return io.Float.Input(
        "prior",
        default=0.001,
        min=0.0,
        max=100.0,
        step=0.0001,
        tooltip="How strongly the code is held among likely ones: higher is easier to edit, lower is nearer "
        "to the picture.",
    )


def _space() -> io.Input:
    return io.Combo.Input(
        "space",
        options=["w", "w+"],
        default="w",
        tooltip="w: one code for all slots, edits work best. w+: one per slot, nearer to the picture.",
    )


def _rate() -> io.Input:
    return io.Float.Input(
        "learning_rate",
        default=0.1,
        min=0.0001,
        max=10.0,
        step=0.001,
        tooltip="Highest step size of Adam.",
    )


def _e4e_file() -> io.Input:
    return io.Combo.Input(
        "e4e_file",
        options=bridge.names(bridge.ENCODERS),
        tooltip="The encoder's file in models/oneshot_encoders, such as e4e_ffhq_encode.pt; it belongs to "
        "one generator.",
    )


def _refinement() -> io.Input:
    return io.Int.Input(
        "refinement",
        default=0,
        min=0,
        max=MOST_STEPS,
        tooltip="Optimiser steps from the encoder's code on, 100 to 300, for more likeness; 0: none.",
    )


def _seed() -> io.Input:
    return seed_input("Decides the noise of the steps.")
