"""Nodes that judge: one adapted generator, and several beside each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import oneshot_core as core
from . import bridge
from .api import io, ui
from .pictures import framed
from .queue_checks import compare_checks, evaluation_checks, problem
from .sockets import Generator, advanced, encoders_input, fit_input, generator_input, schema
from .values import checked

ROWS = 8
GENERATORS = tuple(f"generator_{number}" for number in range(1, ROWS + 1))
LOWER = "batch_size, or use smaller encoders"
KEPT = "Nothing was kept"
PICKING_SEEDS = "0-31"  # by which the best snapshot of a run is picked


class OneShotEvaluate(io.ComfyNode):
    """How good an adapted generator is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Figures, each with its scale, as text, JSON and a picture; a CLIP that took part is flagged."""
        return schema(
            node_id="OneShotEvaluate",
            aliases=("metrics", "clip score", "fid", "kid", "lpips", "diversity", "quality", "referee"),
            shows=True,
            is_output_node=True,
            display_name="Evaluate Adapted Generator",
            description="Judges an adapted generator: likeness to the target, direction of the change, who "
            "is found again, diversity, and KID and FID where reference pictures are given.",
            inputs=[
                generator_input("The generator that is judged.", "adapted"),
                generator_input("Its source, who was adapted: the scale of all figures.", "source"),
                _encoders(),
                _target("A batch counts as several targets."),
                _seeds("0-63"),
                _psi(),
                fit_input(),
                *_advanced(),
                advanced(
                    io.Boolean,
                    "download",
                    default=False,
                    tooltip="Whether the weights of FID's Inception (91 MB) may be downloaded into "
                    "models/oneshot_encoders where references are linked and they are missing.",
                ),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip="Pictures of the target's domain, for KID and FID: hundreds rather than few, and "
                    "not those it was adapted to. Needs the package torch-fidelity.",
                ),
            ],
            outputs=_outputs(
                "The source's and the adapted generator's pictures, the target and the figures."
            ),
        )

    @classmethod
    def validate_inputs(
        cls, seeds: str | None = None, psi: float | None = None, classes: str | None = None
    ) -> bool | str:
        """Refuse lists that cannot be read or are too short."""
        return problem(cls, {"seeds": seeds, "psi": psi, "classes": classes}, *evaluation_checks())

    @classmethod
    @checked
    def execute(
        cls, adapted: Any, source: Any, encoders: Any, target: Tensor, references: Any = None, **settings: Any
    ) -> io.NodeOutput:
        """Judge."""
        targets, notes = _targets(target, source.size, settings["fit"])
        with bridge.working(LOWER, KEPT):
            inception = None if references is None else _inception(settings["download"])
            others = [] if references is None else _targets(references, source.size, settings["fit"])[0]
            judges = core.Judges(encoders, inception)
            referee, place = _referee(source, targets, judges, settings, 1, others)
            found = referee.judge(place(adapted))
        return _shown(cls, found, [*notes, *found.notes])


class OneShotCompare(io.ComfyNode):
    """Adapted generators, or the snapshots of one run, beside each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A row per generator with its figures, the same latents in every row; the best comes out."""
        rows = [
            generator_input(f"Row {number}: an adapted or blended generator of the same source.", name, True)
            for number, name in enumerate(GENERATORS[1:], start=2)
        ]
        return schema(
            node_id="OneShotCompare",
            aliases=("xy plot", "grid", "snapshots", "when to stop", "best", "metrics"),
            shows=True,
            is_output_node=True,
            display_name="Compare Adapted Generators",
            description="Draws the same latents by several adapted generators, or by the snapshots of one "
            "run, a row each with its figures: the sheet to pick by.",
            inputs=[
                generator_input(
                    "Row 1: an adapted generator. With snapshots: whose run's snapshots are compared.",
                    GENERATORS[0],
                ),
                generator_input("The source of all rows, drawn above them.", "source"),
                _encoders(),
                _target("Of a batch the first counts."),
                io.Boolean.Input(
                    "snapshots",
                    default=False,
                    tooltip="Compare the snapshots of the run that made generator_1, as far as they are kept "
                    "in output/oneshot_runs: shows when to stop.",
                ),
                _seeds("0-31"),
                _psi(),
                fit_input(),
                *_advanced(),
                *rows,
            ],
            outputs=[
                *_outputs("The target, the source's row, and a row per generator with its figures."),
                Generator.Output(
                    "best",
                    display_name="best",
                    tooltip="The generator of the row with the highest score; what that is worth, see the "
                    "help. A snapshot has no discriminator.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        snapshots: bool | None = None,
        seeds: str | None = None,
        psi: float | None = None,
        classes: str | None = None,
    ) -> bool | str:
        """Refuse lists that cannot be read, and further generators beside snapshots."""
        values = {"snapshots": snapshots, "seeds": seeds, "psi": psi, "classes": classes}
        checks = compare_checks(bridge.queued("OneShotCompare"), GENERATORS[1:])
        return problem(cls, values, *evaluation_checks(), *checks)

    @classmethod
    @checked
    def execute(cls, source: Any, encoders: Any, target: Tensor, **settings: Any) -> io.NodeOutput:
        """Judge every row."""
        targets, notes = _targets(target[:1], source.size, settings["fit"])
        given = {name: settings[name] for name in GENERATORS if settings.get(name) is not None}
        rows = _snapshots(given) if settings["snapshots"] else _linked(given)
        with bridge.working(LOWER, KEPT):
            referee, place = _referee(source, targets, core.Judges(encoders), settings, len(rows))
            found = core.compare(referee, [(name, _placed(place, give)) for name, give in rows])
        _, best = rows[found.best]
        shown = _shown(
            cls, found, [*notes, *dict.fromkeys(note for _, one in found.rows for note in one.notes)]
        )
        return io.NodeOutput(*shown.args, best(), ui=shown.ui)


def best_of_run(inputs: Any, files: Mapping[int, Path]) -> tuple[int, str]:
    """The snapshot of a run with the highest score, and a sentence about it.

    Args:
        inputs: what the run works with.
        files: its snapshots by step.
    """
    settings = {"seeds": PICKING_SEEDS, "psi": 1.0, "classes": "", "batch_size": 8}
    referee, place = _referee(
        inputs.source, [inputs.target], core.Judges(inputs.encoders), settings, len(files)
    )
    scores = core.snapshot_scores(referee, files, place)
    step, last = core.best_step(scores), max(scores)
    told = f"step {step} has the highest score of {len(scores)} snapshots: {scores[step]:.3f}"
    return step, told if step == last else f"{told} (step {last}: {scores[last]:.3f})"


def _encoders() -> io.Input:
    return encoders_input(
        "Who judges: CLIP and the perceptual net. Link a Load Encoders of its own with another CLIP model "
        "than the one that took part in the adaptation, else CLIP-I only says how well that was optimised."
    )


def _target(batch: str) -> io.Input:
    return io.Image.Input(
        "target",
        tooltip=f"The picture that was adapted to, framed as it was for the adaptation. {batch}",
    )


def _seeds(default: str) -> io.Input:
    return io.String.Input(
        "seeds",
        default=default,
        placeholder="0-63",
        tooltip="Seeds and ranges of the pictures that are judged, at least two, such as 0-63; the first "
        "eight are shown. Figures of few pictures are rough.",
    )


def _psi() -> io.Input:
    return io.Float.Input(
        "psi",
        default=1.0,
        min=-2.0,
        max=2.0,
        step=0.01,
        tooltip="Truncation of the seeds: 1 judges the full variety. Compare only figures of the same psi.",
    )


def _advanced() -> list[io.Input]:
    return [
        advanced(
            io.String,
            "classes",
            default="",
            placeholder="0",
            tooltip="Of a conditional generator: class numbers, one for all or one per seed; empty: class 0.",
        ),
        advanced(
            io.Int,
            "batch_size",
            default=8,
            min=1,
            max=256,
            tooltip="Pictures drawn and judged at once; fewer need less memory. Does not change the figures.",
        ),
    ]


def _outputs(picture: str) -> list[io.Output]:
    return [
        io.String.Output("report", display_name="report", tooltip="The figures as text, and what to know."),
        io.String.Output(
            "values", display_name="values", tooltip="All figures and what they depend on, as JSON."
        ),
        io.Image.Output("picture", display_name="picture", tooltip=picture),
    ]


def _targets(pictures: Tensor, size: int, fit: str) -> tuple[list[Tensor], list[str]]:
    """Targets of a batch of pictures, and notes on them."""
    found = [framed(picture[None], None, size, core.Frame(fit)) for picture in pictures]
    notes = dict.fromkeys(note for _, _, told in found for note in told)
    return [target for target, _, _ in found], bridge.said(list(notes))


def _inception(download: bool) -> Any:
    return core.load_inception(
        folder=bridge.encoder_folder(),
        allow_download=download,
        device=bridge.device(),
        progress=bridge.download_progress,
    )


def _referee(
    source: Any, targets: list[Tensor], judges: Any, settings: dict[str, Any], rows: int, references: Any = ()
) -> tuple[Any, Callable[[Any], Any]]:
    """Who judges, on the device, and what puts a generator there."""
    seeds = core.parse_seeds(settings["seeds"])
    config = core.EvaluationConfig(
        seeds,
        psi=settings["psi"],
        classes=core.parse_classes(settings["classes"]),
        batch_size=settings["batch_size"],
    )
    run = bridge.NodeProgress(len(seeds) * (rows + 1))
    working = core.evaluation_bytes(source, judges, config.batch_size)

    def place(bundle: Any) -> Any:
        bridge.place([source.generator, bundle.generator], working)
        return bundle

    place(source)
    judges = core.Judges(judges.encoders.to(bridge.device()), judges.inception)
    referee = core.Referee(
        source,
        targets,
        judges,
        config,
        references=references,
        rows=rows,
        progress=lambda done, _: run.step(done),
        poll=run.check,
    )
    return referee, place


def _linked(given: dict[str, Any]) -> list[tuple[str, Callable[[], Any]]]:
    """A row per linked generator."""
    return [(f"{name[-1]}: {bundle.title}", _given(bundle)) for name, bundle in given.items()]


def _given(bundle: Any) -> Callable[[], Any]:
    return lambda: bundle


def _snapshots(given: dict[str, Any]) -> list[tuple[str, Callable[[], Any]]]:
    """A row per snapshot of the run that made the first generator."""
    if len(given) > 1:
        raise ValueError(f"snapshots compares those of one run; unlink {', '.join(list(given)[1:])}")
    (adapted,) = given.values()
    rows: list[tuple[str, Callable[[], Any]]] = core.snapshot_rows(
        core.kept_snapshots(bridge.run_store(), adapted)
    )
    return rows


def _placed(place: Callable[[Any], Any], give: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: place(give())


def _shown(node: Any, found: Any, notes: list[str]) -> io.NodeOutput:
    """Report, figures and sheet, which the page shows too."""
    text, values = found.text(), json.dumps(found.values(), allow_nan=False)
    sheet = bridge.to_comfy(core.to_tensor(found.sheet()))
    shown = ui.PreviewImage(sheet, cls=node).as_dict()
    return io.NodeOutput(text, values, sheet, ui={**shown, "text": [text], "notes": notes})
