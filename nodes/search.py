"""The node of the latent search."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import oneshot_core as core
from ..oneshot_core.recipe import MOST_STEPS
from . import bridge
from .api import io, ui
from .pictures import framed
from .queue_checks import method_check, problem
from .recipes import SEARCH, recipe_of
from .sockets import (
    DEFAULTS,
    Latent,
    advanced,
    encoders_input,
    fit_input,
    generator_input,
    mask_input,
    precision_input,
    profile_input,
    schema,
    seed_input,
    target_input,
)
from .values import checked

KEPT = "The search goes on from its last step when it is queued again"
WEIGHTS = {
    "clip_weight": ("clip", 1.0, "likeness in CLIP's eyes; 0 gives the paper's pixel-only ablation"),
    "lpips_weight": ("lpips", 1.0, "perceptual likeness"),
    "pixel_weight": ("pixel", 1.0, "likeness pixel by pixel"),
    "deviation_weight": ("deviation", 0.01, "staying near the mean latent, where pictures look natural"),
}


class CLIPLatentSearch(io.ComfyNode):
    """The latent whose picture is the target's counterpart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Only space w comes out, one code; the weights of the terms are inputs of their own."""
        return schema(
            node_id="CLIPLatentSearch",
            aliases=("gan inversion", "projector", "counterpart", "find latent"),
            shows=True,
            display_name="CLIP Latent Search",
            description="Finds the latent of the generator whose picture is closest to the target in "
            "content: the counterpart from which the adaptation learns the look.",
            inputs=[
                generator_input("The source generator."),
                encoders_input(),
                target_input(),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.search.steps,
                    min=1,
                    max=MOST_STEPS,
                    tooltip="Optimiser steps; the method uses 1000, the demo is content with 100 at a "
                    "learning_rate of 0.05 and a deviation_weight of 3.",
                ),
                seed_input("Decides the noise and the augmented views of every step."),
                mask_input(),
                fit_input(),
                profile_input(),
                precision_input(),
                advanced(
                    io.Float,
                    "learning_rate",
                    default=DEFAULTS.search.learning_rate,
                    min=0.0001,
                    max=1.0,
                    step=0.0001,
                    tooltip="Step size of Adam on w.",
                ),
                *[
                    advanced(
                        io.Float,
                        name,
                        default=default,
                        min=0.0,
                        max=1000.0,
                        step=0.01,
                        tooltip=f"Weight of {meaning}.",
                    )
                    for name, (_, default, meaning) in WEIGHTS.items()
                ],
            ],
            outputs=[
                Latent.Output(
                    "reference", display_name="reference", tooltip="The latent found (space w, one code)."
                ),
                io.Image.Output(
                    "reconstruction",
                    display_name="reconstruction",
                    tooltip="The source generator's picture of it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        clip_weight: float | None = None,
        lpips_weight: float | None = None,
        pixel_weight: float | None = None,
        deviation_weight: float | None = None,
    ) -> bool | str:
        """Refuse weights that leave nothing."""
        given = dict(locals())
        values = {name: given[name] for name in WEIGHTS}
        return problem(cls, values, method_check(SEARCH, *WEIGHTS))

    @classmethod
    @checked
    def execute(
        cls, generator: Any, encoders: Any, target: Tensor, mask: Tensor | None = None, **settings: Any
    ) -> io.NodeOutput:
        """Search, in a folder that keeps what is found."""
        recipe = recipe_of(generator, settings, SEARCH)
        picture, area, notes = framed(target, mask, generator.size, recipe.aim.frame)
        inputs = core.Inputs(generator, encoders, picture, area, notes=tuple(notes))
        recipe, inputs = core.prepared(recipe, inputs, "search", bridge.device())
        bridge.said(inputs.notes)
        run = _progress(recipe.search.steps, picture)
        with bridge.working("the generator's size or use smaller encoders", KEPT):
            result = core.search_recipe(
                recipe, inputs, bridge.run_store(),
                place=lambda: core.Execution(bridge.make_room(core.search_bytes(generator, encoders))),
                callbacks=[run.report], poll=run.check,
            )  # fmt: skip
        image = bridge.to_comfy(result.reconstruction)
        sheet = core.to_tensor(_sheet(picture, "counterpart", result.reconstruction))
        shown = ui.PreviewImage(bridge.to_comfy(sheet), cls=cls).as_dict()
        text = [*inputs.notes, *bridge.said([*result.notes, *run.notes])]
        curves = {"losses": [core.plot_points(result.losses)], "text": text, "notes": text}
        return io.NodeOutput(result.latent, image, ui={**shown, **curves})


def _progress(steps: int, target: Tensor) -> Any:
    """Progress whose previews show the target and what was found so far."""
    return bridge.NodeProgress(steps, lambda found: _sheet(target, "counterpart so far", found))


def _sheet(target: Tensor, name: str, found: Tensor) -> Any:
    """Target and counterpart side by side, as the node shows them."""
    return core.labelled_grid([(name, found)], lead=("target", target))
