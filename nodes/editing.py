"""The node of text editing."""

from __future__ import annotations

from typing import Any

from .. import oneshot_core as core
from . import bridge
from .api import io
from .queue_checks import edit_checks, problem
from .sockets import Latent, encoders_input, generator_input, schema, seed_input
from .values import checked

OPTIMISATION = "latent optimisation"


class StyleCLIPEdit(io.ComfyNode):
    """Latents changed by a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The settings hang on the chosen method; any number of codes, and pictures before and after."""
        return schema(
            node_id="StyleCLIPEdit",
            aliases=("text edit", "edit latent", "styleclip", "prompt"),
            shows=True,
            display_name="StyleCLIP Edit",
            description="Changes latents until CLIP sees the text in their pictures. The edited latents can "
            "be drawn by the source and by every generator adapted from it.",
            inputs=[
                generator_input(
                    "Who draws while editing; usually the source, whose pictures CLIP knows best."
                ),
                encoders_input(),
                Latent.Input(
                    "latent", tooltip="What to edit: any number of codes; each is edited by itself."
                ),
                io.String.Input(
                    "text",
                    default="",
                    placeholder="a smiling person",
                    multiline=True,
                    tooltip="What the pictures should show, such as: a smiling person. The demo's CLIP "
                    "knows the words of portraits only.",
                ),
                io.String.Input(
                    "neutral_text",
                    default="",
                    placeholder="a person",
                    tooltip="What they show now, in the same words, such as: a person. Then only the "
                    "difference counts. Empty: plain StyleCLIP.",
                ),
                io.DynamicCombo.Input(
                    "method",
                    options=[io.DynamicCombo.Option(OPTIMISATION, _optimisation_inputs())],
                    tooltip="latent optimisation: a search per latent, any text, slowest.",
                ),
            ],
            outputs=[
                Latent.Output("edited", display_name="latent", tooltip="The edited latents (w+)."),
                io.Image.Output("images", display_name="edited", tooltip="Their pictures."),
                io.Image.Output("before", display_name="before", tooltip="The pictures before the edit."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, text: str | None = None, neutral_text: str | None = None, method: Any = None
    ) -> bool | str:
        """Refuse texts that cannot be read; a dynamic combo is handed on whether it is asked for or not."""
        checks = edit_checks(bridge.queued("StyleCLIPEdit"))
        return problem(cls, {"text": text, "neutral_text": neutral_text}, *checks)

    @classmethod
    @checked
    def execute(
        cls, generator: Any, encoders: Any, latent: Any, text: str, neutral_text: str, method: dict[str, Any]
    ) -> io.NodeOutput:
        """Edit."""
        config = _config(method)
        core.check_edit(generator, latent, text, config)  # before CLIP is fetched
        notes = _notes(generator, encoders, text, neutral_text)
        run = bridge.NodeProgress(config.steps * core.count_of(latent))
        with bridge.working("views, the number of latents or the generator's size", "Nothing is kept"):
            needed = core.editing_bytes(generator, encoders.clip, config.batch_size, config.views)
            device = bridge.make_room(needed)
            with core.gradients():
                result = core.edit_latents(
                    generator.to(device), encoders.to(device).clip, latent, text, config,
                    neutral_text=neutral_text, callbacks=[run.report],
                )  # fmt: skip
        images, before = bridge.to_comfy(result.images), bridge.to_comfy(result.before)
        notes = [*notes, *bridge.said(run.notes)]
        curves = {"losses": [core.plot_points(result.losses)], "text": notes, "notes": notes}
        shown = bridge.compared(("before", before), ("edited", images))
        return io.NodeOutput(result.latent, images, before, ui={**curves, **shown})


def _notes(generator: Any, encoders: Any, text: str, neutral_text: str) -> list[str]:
    """Refuse what CLIP cannot read; say what it hardly knows, of the pictures and of the texts."""
    clip = encoders.clip_name
    unread = core.check_texts(encoders.clip, text, neutral_text)
    return bridge.said([*core.encoder_notes(generator, clip, ""), *unread])


def _config(method: dict[str, Any]) -> Any:
    """Settings of the edit, from the inputs of the chosen method."""
    names = ("steps", "learning_rate", "l2_weight", "views", "seed")
    return core.EditConfig(**{name: method[name] for name in names})


def _optimisation_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps", default=100, min=1, max=10_000, tooltip="Optimiser steps; StyleCLIP uses 40 to 300."
        ),
        io.Float.Input(
            "learning_rate", default=0.1, min=0.0001, max=10.0, step=0.001, tooltip="Step size of Adam."
        ),
        io.Float.Input(
            "l2_weight",
            default=0.008,
            min=0.0,
            max=10.0,
            step=0.0001,
            tooltip="How strongly the latent is held near where it was: lower edits more, higher keeps more.",
        ),
        io.Int.Input(
            "views",
            default=0,
            min=0,
            max=32,
            tooltip="Random crops that CLIP sees per step instead of the whole picture, against edits that "
            "please CLIP but show nothing; 0: the whole picture, as StyleCLIP.",
        ),
        seed_input("Decides the random crops; without views nothing is random."),
    ]
