"""What is known to be wrong when a graph is queued is said then, on its node, not after minutes of work.

ComfyUI hands `validate_inputs` the constant inputs that it names, None for those that are linked, and leaves
their types and ranges to it as well. What follows from the graph alone, who feeds whom, is looked up in it
(`graphs.Queued`, None where it is not known).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.choices import DEMO
from ..oneshot_core.recipe_values import nested
from .graphs import Queued
from .recipes import shares, values_of
from .values import fitting

LARGEST = 1024  # px: what fits no generator up to here is wrong for all
SMALLEST = 64
BEST = -1  # as a step: that of the snapshot with the highest score
Check = tuple[Sequence[str], Callable[..., object]]  # inputs, and who raises ValueError for what is wrong


class Problem(str):
    """An error's text, told once: ComfyUI repeats it for every input that a node has checked."""

    def __new__(cls, text: str) -> Problem:
        """Make one of an error's text."""
        found = super().__new__(cls, text)
        found._told = False
        return found

    _told: bool

    def __str__(self) -> str:
        """The text, and from the second time on where it stands."""
        text, self._told = ("see above" if self._told else str.__str__(self)), True
        return text


def problem(node: Any, values: Mapping[str, Any], *checks: Check) -> bool | str:
    """Check constant inputs: each for itself, then together.

    Args:
        node: the class, whose schema describes the inputs.
        values: by input id; None for linked ones.
        checks: each is done when all of its inputs are constant.

    Returns:
        True, or what is wrong.
    """
    given = {name: value for name, value in values.items() if value is not None}
    schema = node.GET_SCHEMA() if node.SCHEMA is None else node.SCHEMA
    try:
        known = fitting([one for one in schema.inputs if one.id in given], given)
        for names, check in checks:
            if all(name in known for name in names):
                check(*(known[name] for name in names))
    except ValueError as error:
        return Problem(str(error))
    return True


def check_classes(text: str) -> None:
    """Refuse a list of numbers, of classes or layers, that cannot be read; raises ValueError."""
    core.parse_classes(text)


def check_seeds(text: str) -> None:
    """Refuse a list of seeds that cannot be read, or is too long for any generator; raises ValueError."""
    core.check_count(len(core.parse_seeds(text)), SMALLEST)


def check_optional_seeds(text: str) -> None:
    """The same where empty means none."""
    if text.strip():
        core.parse_seeds(text)


def check_text(text: str) -> None:
    """Refuse an empty text; raises ValueError."""
    if not text.strip():
        raise ValueError("text is empty; say what the pictures should show, such as: a smiling person")


def method_check(entries: Mapping[str, str], *names: str) -> Check:
    """Check that inputs of a recipe leave something to train or search for.

    Args:
        entries: `ADAPT` or `SEARCH`.
        names: of the inputs.
    """

    def check(*values: Any) -> None:
        own = values_of(dict(zip(names, values, strict=True)), {name: entries[name] for name in names})
        recipe = core.Recipe.of(nested({**own, "training.precision": "float32"}))
        recipe.search_config()
        preset, _ = recipe.preset(LARGEST)
        for kind in preset.due:
            kind.check(LARGEST)

    return names, check


def method_checks() -> list[Check]:
    """Checks of OneShotMethod: parts that exist, weights that are numbers."""
    parts = {"trained_parts": "method.trained_parts"}

    def check_parts(text: str) -> None:
        core.Recipe.of(nested(values_of({"trained_parts": text}, parts)))

    return [(("trained_parts",), check_parts), (("target_weights",), shares)]


def check_snapshot(step: int, steps: int, every: int) -> None:
    """Refuse a step of which a run will keep no snapshot; raises ValueError."""
    core.TrainConfig(steps=steps, snapshot_every_steps=every).check_snapshot(0 if step == BEST else step)


# What the graph tells -----------------------------------------------------------------------------------

SOURCE_PICTURES = 1  # place among the outputs of SampleAdapted


def sample_checks(here: Queued | None) -> list[Check]:
    """Checks of SampleAdapted; its seeds, and how many there are, only count where no latent is linked."""
    linked = here is not None and here.giver("latent") is not None
    checks: list[Check] = [(("mix_seeds",), check_optional_seeds), (("classes",), check_classes)]
    if not linked:
        checks += [(("seeds",), check_seeds)]
        checks += [(("seeds", name), partial(_check_list, name)) for name in ("mix_seeds", "classes")]
    if here is None:
        return checks
    return [*checks, ((), partial(_check_source, here)), ((), partial(_check_latents, here, 1)),
            ((), partial(_check_one, here))]  # fmt: skip


def adapt_checks(here: Queued | None) -> list[Check]:
    """Checks of OneShotAdapt: what its method needs is linked; the reference is a counterpart, one code."""
    if here is None:
        return []
    return [((), partial(check, here)) for check in (_check_given, _check_counterpart, _check_one)]


def evaluation_checks() -> list[Check]:
    """Checks of OneShotEvaluate and OneShotCompare: enough different seeds, and a psi that leaves variety."""
    return [
        (("seeds",), check_seeds),
        (("seeds", "psi"), lambda seeds, psi: core.EvaluationConfig(core.parse_seeds(seeds), psi=psi)),
        (("classes",), check_classes),
        (("seeds", "classes"), partial(_check_list, "classes")),
    ]


def compare_checks(here: Queued | None, further: Sequence[str]) -> list[Check]:
    """Checks of OneShotCompare: snapshots are those of one run."""

    def check(snapshots: bool) -> None:
        linked = [name for name in further if here is not None and here.giver(name) is not None]
        if snapshots and linked:
            raise ValueError(f"snapshots compares those of one run; unlink {', '.join(linked)}")

    return [(("snapshots",), check)]


def text_checks(here: Queued | None) -> list[Check]:
    """Texts that the demo's CLIP reads, where that is linked."""
    return [(("text",), check_text), *_demo_texts(here)]


def edit_checks(here: Queued | None) -> list[Check]:
    """Checks of StyleCLIPEdit: the texts, and how many latents, whose pictures are held."""
    checks = text_checks(here)
    return checks if here is None else [*checks, ((), partial(_check_latents, here, core.EDIT_COPIES))]


def direction_checks(here: Queued | None) -> list[Check]:
    """Checks of OneShotTextDirection: two texts, which the demo's CLIP reads where that is linked."""
    return [(("text",), check_text), (("neutral_text",), check_neutral), *_demo_texts(here)]


def check_neutral(text: str) -> None:
    """Refuse an empty neutral text; raises ValueError."""
    if not text.strip():
        raise ValueError("neutral_text is empty; say what the pictures show now, such as: a person")


def _demo_texts(here: Queued | None) -> list[Check]:
    encoders = None if here is None else here.giver("encoders")
    if encoders is None or (encoders.kind, encoders.value("clip")) != ("OneShotLoadEncoders", DEMO):
        return []
    return [((name,), core.check_demo_text) for name in ("text", "neutral_text")]


def _check_list(name: str, seeds: str, text: str) -> None:
    total = len(core.parse_seeds(seeds))
    given = len(core.parse_classes(text))  # seeds are written like classes
    if given not in (0, 1, total):
        raise ValueError(f"{name} must be one number or {total}, as many as there are seeds; got {given}")


def _check_source(here: Queued) -> None:
    if here.giver("source") is None and here.is_used(SOURCE_PICTURES):
        raise ValueError(
            "something is wired to the output source, but no generator to the input source; connect the "
            "generator that was adapted, or unlink that output"
        )


def _check_latents(here: Queued, copies: int) -> None:
    count = _codes(here.giver("latent"))
    if count is not None:
        core.check_count(count, SMALLEST, copies)


def _check_given(here: Queued) -> None:
    method = here.giver("method")
    if method is not None and method.kind != "OneShotMethod":
        return  # whatever else gives a method is known when it runs
    name = (method.value("preset") if method is not None else None) or "oneshot_clip"
    if name not in core.PRESETS:
        return  # ComfyUI refuses it on its own node
    needs = core.Recipe.of({"method": {"preset": name}}).preset(LARGEST)[0].needs
    texts = method is not None and bool(str(method.value("preset.target_text") or "").strip())
    if here.giver("target") is None and (needs.target or (needs.direction and not texts)):
        more = " or give One-Shot Method a source and a target text" if needs.direction else ""
        raise ValueError(f"{name} needs a target picture; connect one to the input target{more}")
    if here.giver("reference") is None and needs.reference:
        raise ValueError(
            f"{name} needs the target's counterpart; connect CLIP Latent Search to the input reference"
        )


def _check_counterpart(here: Queued) -> None:
    giver = here.giver("reference")
    if giver is not None and giver.kind == "OneShotRandomLatents":
        raise ValueError(
            "random latents cannot be the reference, which is the target's counterpart: use CLIP Latent "
            "Search"
        )


def _check_one(here: Queued) -> None:
    count = _codes(here.giver("reference"))
    if count not in (None, 1):
        raise ValueError(f"the reference must be one code, but {count} are linked")


_HANDED_ON = ("SampleAdapted", "StyleCLIPEdit", "OneShotApplyDirection")  # as many latents as they are given


def _codes(giver: Queued | None) -> int | None:
    """How many codes a node will give; None where the graph does not tell."""
    for _ in range(0 if giver is None else len(giver.prompt)):  # graphs may have loops
        if giver is None or giver.kind == "CLIPLatentSearch":
            return None if giver is None else 1
        before = giver.giver("latent") if giver.kind in _HANDED_ON else None
        if before is None:
            seeds = giver.value("seeds") if giver.kind in ("SampleAdapted", "OneShotRandomLatents") else None
            return _counted(seeds)
        giver = before
    return None


def _counted(seeds: Any) -> int | None:
    try:
        return len(core.parse_seeds(seeds)) if isinstance(seeds, str) else None
    except ValueError:  # which the node that has them says
        return None
