"""What is known to be wrong when a graph is queued is said then, on its node, not after minutes of work.

ComfyUI hands `validate_inputs` the constant inputs that it names, None for those that are linked, and leaves
their types and ranges to it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import oneshot_core as core
from ..oneshot_core.recipe import nested
from .recipes import values_of
from .values import fitting

LARGEST = 1024  # px: what fits no generator up to here is wrong for all
SMALLEST = 64
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
        raise ValueError("text is empty; say what the pictures should show, such as: a person with a smile")


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


def check_snapshot(step: int, steps: int, every: int) -> None:
    """Refuse a step of which a run will keep no snapshot; raises ValueError."""
    core.TrainConfig(steps=steps, snapshot_every_steps=every).check_snapshot(step)
