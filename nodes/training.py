"""The node of the adaptation."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .. import oneshot_core as core
from ..oneshot_core.choices import KEPT_RUNS, USE
from ..oneshot_core.recipe import MOST_STEPS
from . import bridge
from .api import io, ui
from .evaluation import best_of_run
from .pictures import framed_batch
from .queue_checks import BEST, adapt_checks, check_snapshot, method_check, problem
from .recipes import ADAPT, recipe_of
from .sockets import (
    DEFAULTS,
    Generator,
    Latent,
    Method,
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

PREVIEW_SEEDS, LIVE_SEEDS = (0, 1, 2, 3, 4, 5), (0, 1, 2)
LOWER = "batch, the generator's size, or use precision bfloat16"
EVERY = "Steps between snapshots; each is a file of the generator."
KEPT = "The run goes on from its last saved step when it is queued again with the same inputs"
WEIGHTS = {
    "semantic_weight": ("semantic", 10.0, "pictures keeping their mutual likeness in CLIP's eyes (content)"),
    "patch_weight": (
        "patch",
        1.0,
        "every crop staying closest to the same crop of the source picture (shapes)",
    ),
    "adversarial_weight": ("adversarial", 1.0, "fooling the discriminator (texture)"),
    "lpips_weight": ("lpips", 1.0, "perceptual likeness of the reference picture to the target"),
    "pixel_weight": (
        "pixel",
        1.0,
        "likeness of the reference picture to the target pixel by pixel (colours)",
    ),
}


class OneShotAdapt(io.ComfyNode):
    """A generator that draws everything the source could, in the look of one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What is needed depends on the method; the adapted generator comes with pictures and a report."""
        return schema(
            node_id="OneShotAdapt",
            aliases=("one shot", "style transfer", "fine-tune", "train generator", "nada", "mind the gap"),
            shows=True,
            display_name="One-Shot Adapt",
            description="Trains a copy of the generator to draw in the look of the target. The run is kept "
            "in output/oneshot_runs: the same inputs again are loaded, a cancelled run goes on.",
            inputs=_inputs(),
            outputs=[
                Generator.Output(
                    "adapted",
                    display_name="adapted",
                    tooltip="The adapted generator with its discriminator (a snapshot has none).",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="Target, source row and adapted row, same latents, labelled.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What was done: steps, last losses, snapshots."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, kept_run: str = USE, **_: Any) -> float:
        """Run again where the user asks for it."""
        return 0.0 if kept_run == USE else math.nan

    @classmethod
    def validate_inputs(
        cls,
        steps: int | None = None,
        snapshot_step: int | None = None,
        snapshot_every: int | None = None,
        trained_parts: str | None = None,
        batch: int | None = None,
        reference_steps: int | None = None,
        random_steps: int | None = None,
    ) -> bool | str:
        """Refuse snapshots that will not exist, unknown parts, an empty schedule, what is no reference."""
        given = dict(locals())
        return problem(
            cls,
            {name: given[name] for name in given if name != "cls"},
            *adapt_checks(bridge.queued("OneShotAdapt")),
            (("snapshot_step", "steps", "snapshot_every"), check_snapshot),
            method_check(ADAPT, "trained_parts"),
            method_check(ADAPT, "batch", "reference_steps", "random_steps"),
        )

    @classmethod
    @checked
    def execute(
        cls,
        generator: Any,
        encoders: Any,
        **settings: Any,
    ) -> io.NodeOutput:
        """Train, or load what is there."""
        recipe, inputs = _prepared(generator, encoders, settings)
        kept, snapshot = settings["kept_run"], settings["snapshot_step"] or None
        result, preview, notes = _adapted(recipe, inputs, kept, snapshot)
        text, picture = _report(result, notes), ui.PreviewImage(preview, cls=cls).as_dict()
        shown = {"losses": [core.plot_points(result.losses)], "snapshots": _gallery(recipe, result)}
        told = {"text": [text], "status": [_far(result), *notes]}
        facts = {"notes": list(notes), "versions": [core.versions()]}
        return io.NodeOutput(result.bundle, preview, text, ui={**picture, **shown, **told, **facts})


def _prepared(generator: Any, encoders: Any, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The recipe of the node's inputs, bound to them, and the inputs, checked before any work."""
    target, mask, reference, method = map(settings.get, ("target", "mask", "reference", "method"))
    recipe = recipe_of(generator, settings, ADAPT, method)
    picture, area, notes = None, None, list[str]()
    if target is not None:
        picture, area, notes = framed_batch(target, mask, generator.size, recipe.aim.frame)
    given = core.Inputs(generator, encoders, picture, area, reference, tuple(notes))
    recipe, inputs = core.prepared(recipe, given, device=bridge.device())
    recipe.train_config().check_snapshot(max(0, settings["snapshot_step"]))
    bridge.said(inputs.notes)
    return recipe, inputs


def _adapted(
    recipe: Any, inputs: Any, kept: str, snapshot: int | None
) -> tuple[Any, Tensor, tuple[str, ...]]:
    """Train, or load what is there; also the sheet of pictures, and the notes for the user."""
    sheet = core.LiveSheet(inputs.source, inputs.target, LIVE_SEEDS)
    run = bridge.NodeProgress(recipe.training.steps, sheet)
    picked = list[str]()
    with bridge.working(LOWER, KEPT), run.stoppable() as stop:

        def adapted(kept: str, snapshot: int | None) -> Any:
            return core.adapt_recipe(
                recipe,
                inputs,
                bridge.run_store(),
                place=lambda: _room(recipe, inputs),
                callbacks=[core.Progress(run.report, LIVE_SEEDS), core.Poll(run.check), stop],
                poll=run.check,
                kept=kept,
                snapshot=snapshot,
            )

        result = adapted(kept, None if snapshot == BEST else snapshot)
        if snapshot == BEST:
            step, told = best_of_run(inputs, result.snapshots)
            picked = bridge.said([told])
            result = result if step == result.step else adapted(USE, step)
        preview = _preview(result.bundle, inputs)
    return result, preview, (*picked, *inputs.notes, *bridge.said(run.notes))


def _room(recipe: Any, inputs: Any) -> Any:
    """Make room for the training; returns where and how it is done."""
    preset, _ = recipe.preset(inputs.source.size)
    given = inputs.source, inputs.encoders, inputs.aim, preset, recipe.training.precision
    return bridge.fastest_execution(core.training_bytes(*given))


def _gallery(recipe: Any, result: Any) -> list[dict[str, Any]]:
    """Pictures of the steps that can be chosen: the same people at each."""
    tiles = []
    for step, path in result.snapshots.items():
        try:
            if step != result.step:
                recipe.train_config().check_snapshot(step)  # others are left of runs with other settings
            cover = core.cover_of(path)
        except (ValueError, OSError):  # or damaged, or gone since: the store keeps to its size
            continue
        if cover is not None:
            tiles.append({"step": step, "chosen": step == result.step, **bridge.shown(cover)})
    return tiles


def _preview(adapted: Any, inputs: Any) -> Tensor:
    """Target, source row and adapted row, on the device."""
    bridge.place(
        [inputs.source.generator, adapted.generator], core.sampling_bytes(inputs.source, len(PREVIEW_SEEDS))
    )
    sheet = core.adaptation_sheet(inputs.source, adapted, inputs.target, inputs.reference, PREVIEW_SEEDS)
    return bridge.to_comfy(core.to_tensor(sheet))


def _inputs() -> list[io.Input]:
    return [
        generator_input("The source generator. Without a discriminator it gets a fresh one, see the help."),
        encoders_input(),
        io.Int.Input(
            "steps",
            default=DEFAULTS.training.steps,
            min=1,
            max=MOST_STEPS,
            tooltip="Optimiser rounds. The method trains 2000 and shows pictures of step 700; the look grows "
            "with the steps, the content slowly fades. The demo is content with 200, see the help.",
        ),
        seed_input("Decides every random draw of the run; CPU results repeat bit for bit."),
        io.Int.Input(
            "snapshot_step",
            default=0,
            min=BEST,
            max=MOST_STEPS,
            tooltip="Output the generator as it was after this step instead of the last; 0: the last, -1: "
            "the snapshot with the highest score, see the help. Snapshots are kept every snapshot_every "
            "steps; choosing another never trains again.",
        ),
        precision_input(),
        fit_input(),
        profile_input(),
        *_advanced_inputs(),
        target_input("several: all are targets, the first has the counterpart", optional=True),
        Latent.Input(
            "reference",
            optional=True,
            tooltip="The target's counterpart, from CLIP Latent Search: a latent in w or w+, one code. "
            "stylegan_nada and few_shot need none.",
        ),
        mask_input(),
        Method.Input(
            "method",
            optional=True,
            tooltip="From One-Shot Method, which then says everything about the method: profile, rates, "
            "weights, batch and the like here do not count. Without it: oneshot_clip.",
        ),
    ]


def _advanced_inputs() -> list[io.Input]:
    def number(name: str, default: float, low: float, high: float, step: float, tooltip: str) -> io.Input:
        return advanced(io.Float, name, default=default, min=low, max=high, step=step, tooltip=tooltip)

    def whole(name: str, default: int, low: int, high: int, tooltip: str) -> io.Input:
        return advanced(io.Int, name, default=default, min=low, max=high, tooltip=tooltip)

    weights = [
        number(name, default, 0.0, 1000.0, 0.01, f"Weight of {meaning}; 0 leaves it out.")
        for name, (_, default, meaning) in WEIGHTS.items()
    ]
    return [
        number("learning_rate", 0.002, 0.00001, 0.1, 0.00001, "Step size of Adam; 0.002 is the method's."),
        number(
            "discriminator_rate",
            0.0,
            0.0,
            0.1,
            0.00001,
            "Step size of the discriminator's Adam; 0: learning_rate. A short run gets more of the look from "
            "a higher one, such as 0.01.",
        ),
        number(
            "ema_half_life",
            0.0,
            0.0,
            100_000.0,
            1.0,
            "Half-life of the moving average of the weights, in steps; the result is this average. 0: as "
            "published, but with the default profile at most an eighth of the steps done, so that short runs "
            "show what they learnt.",
        ),
        whole("batch", 2, 1, 64, "Pictures per random step; 2 is the method's. More needs more memory."),
        *weights,
        number("mixing", 0.9, 0.0, 1.0, 0.01, "Probability that a random step mixes two latents."),
        whole("reference_steps", 1, 0, 100, "Steps on the reference picture per cycle (published code: 1)."),
        whole("random_steps", 3, 0, 100, "Steps on random pictures per cycle (published code: 3)."),
        whole(
            "crop_px",
            0,
            0,
            1024,
            "Side of the compared crops in pixels; 0: an eighth of the picture, with profile official 128 px "
            "where that fits.",
        ),
        whole(
            "snapshot_every",
            DEFAULTS.training.snapshot_every,
            1,
            MOST_STEPS,
            EVERY,
        ),
        *_what_is_trained(),
    ]


def _what_is_trained() -> list[io.Input]:
    return [
        advanced(
            io.String,
            "trained_parts",
            default="",
            placeholder="constant, affine, convolution, noise",
            tooltip="Parts of the generator that are trained, separated by commas: constant, affine, "
            "convolution, noise, rgb, mapping, style offsets. Empty: all but rgb and mapping, as published. "
            "Without noise looks cannot come as grain; with rgb colours change more freely. style offsets "
            "alone, with a learning_rate of 0.05: a few thousand numbers, which Save Look keeps.",
        ),
        advanced(
            io.Combo,
            "kept_run",
            options=list(KEPT_RUNS),
            default=USE,
            tooltip="What becomes of a run that is kept for these inputs. use it: at its last step, or at "
            "the one at which it was stopped and kept. go on: one that was stopped goes on to its last "
            "step. train again: it is thrown away. A run that was interrupted goes on in any case.",
        ),
    ]


def _far(result: Any) -> str:
    """How far the generator has come that is given."""
    kept = "kept at " if result.step < result.steps and result.step not in result.snapshots else ""
    return f"{kept}step {result.step} of {result.steps}"


def _report(result: Any, notes: tuple[str, ...]) -> str:
    """What was done, as text."""
    curves = {
        name: [value for value in curve if math.isfinite(value)] for name, curve in result.losses.items()
    }
    losses = ", ".join(f"{name} {curve[-1]:.3f}" for name, curve in curves.items() if curve)
    steps = ", ".join(map(str, result.snapshots)) or "none"
    lines = [
        _far(result),
        f"losses: {losses}",
        f"snapshots: {steps}",
        *notes,
    ]
    return "\n".join(lines)
