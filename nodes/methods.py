"""The node of the method: which table an adaptation follows, and what is changed of it."""

from __future__ import annotations

from typing import Any

from ..oneshot_core.choices import METHOD_STEPS, PRESETS
from .api import io
from .queue_checks import method_checks, problem
from .recipes import method_recipe
from .sockets import Method, advanced, profile_input, schema
from .values import checked

TOOLTIPS = {
    "oneshot_clip": "One-Shot Adaptation of GAN in Just One CLIP: one picture and its counterpart",
    "stylegan_nada": "StyleGAN-NADA: texts or pictures say which change CLIP shall see; no discriminator",
    "mind_the_gap": "Mind the Gap: all pictures change as the counterpart does on its way to the target",
    "few_shot": "few-shot adaptation: distances between samples are kept; one or several pictures",
}
# Terms of each method, with their weights and what they ask for.
WEIGHTS: dict[str, tuple[tuple[str, float, str], ...]] = {
    "oneshot_clip": (
        ("adversarial", 1.0, "fooling the discriminator (texture)"),
        ("semantic", 10.0, "pictures keeping their mutual likeness in CLIP's eyes (content)"),
        ("patch", 1.0, "every crop staying closest to the same crop of the source picture (shapes)"),
        ("lpips", 1.0, "perceptual likeness of the reference picture to the target"),
        ("pixel", 1.0, "likeness of the reference picture to the target pixel by pixel (colours)"),
        ("text", 0.0, "changing as the texts say, beside the target; 1 is a good start"),
    ),
    "stylegan_nada": (
        ("direction", 1.0, "changing as the texts, or the way to the target, say"),
        ("global", 0.0, "being like the target text, whatever the picture was"),
        ("manifold", 0.0, "being as like the source picture as the texts are like each other"),
        ("part", 0.0, "crops changing as some part of what the texts name would"),
        ("texture", 0.0, "having the target's CLIP features themselves; needs a target"),
    ),
    "mind_the_gap": (
        ("across", 1.0, "changing as the counterpart does on its way to the target"),
        ("within", 0.5, "differing from the target as the source pictures differ from the counterpart"),
        ("reference_clip", 30.0, "likeness of the reference picture to the target in CLIP's eyes"),
        ("reference_pixel", 10.0, "the same pixel by pixel, at 256 px"),
        ("reference_lpips", 10.0, "the same in the perceptual net's eyes, at 256 px"),
    ),
    "few_shot": (
        ("adversarial", 1.0, "fooling the discriminator (texture)"),
        ("distance", 1000.0, "samples keeping their mutual distances inside the generator"),
    ),
}
READS_TEXTS = ("oneshot_clip", "stylegan_nada")


class OneShotMethod(io.ComfyNode):
    """A method for One-Shot Adapt, with its own settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The settings hang on the chosen method; without this node One-Shot Adapt follows oneshot_clip."""
        known = "; ".join(f"{name}: {TOOLTIPS[name]}" for name in PRESETS)
        return schema(
            node_id="OneShotMethod",
            aliases=("stylegan-nada", "mind the gap", "few-shot", "cross-domain", "text to style", "preset"),
            display_name="One-Shot Method",
            description="Which method One-Shot Adapt follows: the paper's own, StyleGAN-NADA (texts), Mind "
            "the Gap or few-shot adaptation, with the settings of each.",
            inputs=[
                io.DynamicCombo.Input(
                    "preset",
                    options=[io.DynamicCombo.Option(name, _inputs(name)) for name in PRESETS],
                    tooltip=f"The method. {known}.",
                ),
                profile_input(),
                advanced(
                    io.Float,
                    "learning_rate",
                    default=0.002,
                    min=0.00001,
                    max=0.1,
                    step=0.00001,
                    tooltip="Step size of Adam; 0.002 is the methods' own.",
                ),
                advanced(
                    io.String,
                    "trained_parts",
                    default="",
                    placeholder="constant, affine, convolution, noise",
                    tooltip="Parts of the generator that are trained, separated by commas, as in One-Shot "
                    "Adapt. Empty: as the method does; few_shot trains all.",
                ),
                advanced(
                    io.String,
                    "target_weights",
                    default="",
                    placeholder="1, 0.5",
                    tooltip="Share of each picture where the target is a batch of several, separated by "
                    "commas. Empty: all the same.",
                ),
            ],
            outputs=[
                Method.Output(
                    "method", display_name="method", tooltip="For the input method of One-Shot Adapt."
                ),
                io.Int.Output(
                    "steps",
                    display_name="steps",
                    tooltip="How many steps the method trains by itself, for steps of One-Shot Adapt.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, trained_parts: str | None = None, target_weights: str | None = None, preset: Any = None
    ) -> bool | str:
        """Refuse unknown parts and weights; a dynamic combo is handed on whether it is asked for or not."""
        return problem(
            cls, {"trained_parts": trained_parts, "target_weights": target_weights}, *method_checks()
        )

    @classmethod
    @checked
    def execute(cls, preset: dict[str, Any], **settings: Any) -> io.NodeOutput:
        """Put the settings together."""
        recipe = method_recipe(preset, settings)
        text = [TOOLTIPS[recipe.method.preset], *_told(recipe)]
        return io.NodeOutput(recipe, METHOD_STEPS[recipe.method.preset], ui={"text": text})


def _told(recipe: Any) -> list[str]:
    """What the method works with, in words."""
    needs = recipe.preset(1024)[0].needs
    given = [
        name for name, wanted in (("a target", needs.target), ("its counterpart", needs.reference)) if wanted
    ]
    lines = [f"needs {' and '.join(given)}"] if given else []
    if recipe.aim.texts:
        lines.append(f"from {recipe.aim.source_text!r} to {', '.join(map(repr, recipe.aim.texts))}")
    return lines


def _inputs(name: str) -> list[io.Input]:
    """The inputs of one method."""
    inputs: list[io.Input] = [*_texts(name)] if name in READS_TEXTS else []
    inputs += [
        io.Float.Input(
            f"{term}_weight",
            default=weight,
            min=0.0,
            max=10_000.0,
            step=0.01,
            tooltip=f"Weight of {meaning}; 0 leaves it out.",
        )
        for term, weight, meaning in WEIGHTS[name]
    ]
    inputs.append(
        io.Int.Input(
            "batch",
            default=0,
            min=0,
            max=64,
            tooltip="Pictures per step with fresh latents; 0: the method's, 2 or 4. More needs more memory.",
        )
    )
    if name != "mind_the_gap":
        inputs.append(
            io.Float.Input(
                "mixing",
                default=-1.0,
                min=-1.0,
                max=1.0,
                step=0.01,
                tooltip="Probability that a step mixes two latents; below 0: the method's, 0.9 or never.",
            )
        )
    if name in ("oneshot_clip", "few_shot"):
        inputs.append(
            io.Float.Input(
                "discriminator_rate",
                default=0.0,
                min=0.0,
                max=0.1,
                step=0.00001,
                tooltip="Step size of the discriminator's Adam; 0: learning_rate. A short run gets more of "
                "the look from a higher one, such as 0.01.",
            )
        )
    return inputs


def _texts(name: str) -> list[io.Input]:
    inputs: list[io.Input] = [
        io.String.Input(
            "source_text",
            default="",
            placeholder="photo",
            tooltip="What the source draws, in a word or two, such as: photo. stylegan_nada needs both texts "
            "where no target is linked; oneshot_clip reads them with text_weight above 0.",
        ),
        io.String.Input(
            "target_text",
            default="",
            placeholder="sketch",
            multiline=True,
            tooltip="What the adapted generator shall draw, such as: sketch. Several texts, one per "
            "line, are mixed.",
        ),
        io.String.Input(
            "text_weights",
            default="",
            placeholder="1, 0.5",
            tooltip="Share of each target text, separated by commas. Empty: all the same.",
        ),
    ]
    if name == "stylegan_nada":
        inputs.append(
            io.Int.Input(
                "layers",
                default=-1,
                min=-1,
                max=64,
                tooltip="Layers that are trained in each step, those that the target text moves most; -1: as "
                "many as the method does (two thirds), 0: all.",
            )
        )
    return inputs
