"""The node that trains latent mappers."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.recipe import MOST_STEPS
from . import bridge
from .api import io
from .file_kinds import MAPPERS, PREFIX_CHECK
from .finding import text_inputs
from .queue_checks import problem, text_checks
from .sockets import (
    Latent,
    Mapper,
    advanced,
    encoders_input,
    generator_input,
    prefix_input,
    schema,
    seed_input,
)
from .values import checked

KEPT = "The training goes on from its last step when it is queued again"


class OneShotTrainMapper(io.ComfyNode):
    """A network that edits any latent for one text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Trained in a folder that keeps it; the file is written below the output folder too."""
        return schema(
            node_id="OneShotTrainMapper",
            aliases=("styleclip", "latent mapper", "text edit"),
            shows=True,
            is_output_node=True,
            display_name="Train Latent Mapper",
            description="Trains StyleCLIP's latent mapper: a small network that edits any latent for one "
            "text, each in its own way. The run is kept: a cancelled one goes on.",
            inputs=[
                generator_input("Who draws while training; usually the source."),
                encoders_input(),
                *text_inputs(),
                io.Int.Input(
                    "steps",
                    default=2000,
                    min=1,
                    max=MOST_STEPS,
                    tooltip="Optimiser steps; StyleCLIP has 50,000, which takes hours.",
                ),
                io.Combo.Input(
                    "groups",
                    options=["all", "coarse and medium", "coarse", "medium", "fine"],
                    default="coarse and medium",
                    tooltip="What it may change: coarse pose (4, 8 px), medium features (16, 32 px), fine "
                    "colours (from 64 px).",
                ),
                seed_input("Decides the network's start and the latents it is trained on."),
                prefix_input(MAPPERS.prefix("mapper")),
                *_advanced_inputs(),
            ],
            outputs=[
                Mapper.Output("mapper", display_name="mapper", tooltip="The mapper, for StyleCLIP Edit."),
                MAPPERS.output(),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, text: str | None = None, neutral_text: str | None = None, filename_prefix: str | None = None
    ) -> bool | str:
        """Refuse texts that cannot be read, and a place outside the output folder."""
        values = {"text": text, "neutral_text": neutral_text, "filename_prefix": filename_prefix}
        checks = text_checks(bridge.queued("OneShotTrainMapper"))
        return problem(cls, values, *checks, PREFIX_CHECK)

    @classmethod
    @checked
    def execute(
        cls, generator: Any, encoders: Any, text: str, neutral_text: str, filename_prefix: str,
        latent: Any = None, **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        """Train, keep and write it."""
        config = _config(settings)
        run = bridge.NodeProgress(config.steps)
        with bridge.working("the generator's size, or use a smaller CLIP", KEPT):
            device = bridge.make_room(core.editing_bytes(generator, encoders.clip, config.batch_size, 0))
            with core.gradients():
                mapper, losses = core.cached_mapper(
                    bridge.kept_results("mappers"), generator.to(device), encoders.to(device).clip, text,
                    config, latents=latent, neutral_text=neutral_text, callbacks=[run.report], poll=run.check,
                )  # fmt: skip
        write = partial(core.save_mapper, mapper)
        _, listed, told = MAPPERS.save(filename_prefix, write, mapper.summary())
        told["text"] += bridge.said(run.notes)
        curves = {"losses": [core.plot_points(losses)]} if losses else {}
        return io.NodeOutput(mapper, listed, ui={**told, **curves})


def _config(settings: dict[str, Any]) -> Any:
    chosen = settings["groups"]
    groups: dict[str, Any] = {
        name: chosen == "all" or name in chosen for name in ("coarse", "medium", "fine")
    }
    own = {name: settings[name] for name in ("steps", "seed", "learning_rate", "l2_weight")}
    return core.MapperConfig(**own, **groups)


def _advanced_inputs() -> list[io.Input]:
    return [
        advanced(
            io.Float,
            "learning_rate",
            default=0.5,
            min=0.0001,
            max=10.0,
            step=0.001,
            tooltip="Step size of Ranger.",
        ),
        advanced(
            io.Float,
            "l2_weight",
            default=0.8,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="How strongly latents are held near where they were: a mean, where the latent "
            "optimisation has a sum.",
        ),
        Latent.Input(
            "latent",
            optional=True,
            tooltip="Latents to train on, such as inverted photos, at least nine; without them "
            "random ones are drawn.",
        ),
    ]
