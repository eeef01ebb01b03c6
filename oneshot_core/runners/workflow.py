"""A ComfyUI workflow in API form: reading it, and filling a job's values into its nodes' inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..json_values import read, told

MAX_INPUT_NAME = 300

Workflow: TypeAlias = dict[str, Any]  # {"<id>": {"class_type": NAME, "inputs": {NAME: value or [id, index]}}}


class WorkflowError(ValueError):
    """A workflow that cannot be read, or has no place for a value; the message says what to change."""


@dataclass(frozen=True)
class Place:
    """Input of the workflow that a field of a plan's job fills.

    Args:
        class_type: of the node; exactly one node of it, or one of them is titled as the field.
        name: of the input.
        companions: classes whose input of that name follows, where the workflow holds it as a value.
        replaced: classes whose node serves as well: it becomes one of `class_type` with this input alone.
    """

    class_type: str
    name: str
    companions: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the nodes that can be this place."""
        return (self.class_type, *self.replaced)


PLACES = {
    "target": Place("LoadImage", "image", replaced=("OneShotDemoTarget",)),
    "generator": Place("LoadStyleGAN", "generator_name"),
    "steps": Place("OneShotAdapt", "steps"),
    "seed": Place("OneShotAdapt", "seed", ("CLIPLatentSearch",)),
}
SAVER = Place("OneShotSaveGenerator", "filename_prefix")
READY = Path(__file__).parent / "batch_workflow.json"  # the shipped workflow, for the demo's generator


def read_workflow(path: Path) -> Workflow:
    """Read a workflow in API form.

    Raises:
        WorkflowError: no such file, no JSON, or another form.
    """
    try:
        values = read(path)
    except FileNotFoundError:
        raise WorkflowError(f"there is no workflow {path}") from None
    except (OSError, ValueError) as error:  # ValueError: no JSON, or a path that no file can have
        raise WorkflowError(f"the workflow {path} cannot be read as JSON: {error}") from None
    nodes = list(values.values()) if isinstance(values, dict) else []
    if nodes and all(map(_is_node, nodes)):
        return dict(values)
    raise WorkflowError(f"{path} {_other_form(values)}")


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )


def _other_form(values: Any) -> str:
    """Say what a workflow is that is not in API form, and what to do."""
    again = "save it in ComfyUI with Export (API)"
    if not isinstance(values, dict):
        return f"is not a workflow in API form, it is {told(values)}; {again}"
    if isinstance(values.get("nodes"), list):
        return f"is a workflow for the canvas; open it in ComfyUI and {again}"
    if isinstance(values.get("prompt"), dict):
        return 'holds a request for a server; save what stands under "prompt" in it as a file of its own'
    if "format" in values and "jobs" in values:
        return f"is a plan, not a workflow; {again}"
    wrong = next((name for name, node in values.items() if not _is_node(node)), None)
    if wrong is None or not any(map(_is_node, values.values())):
        return f"is not a workflow in API form; {again}"
    return f"is not a workflow in API form: its node {told(wrong)} lacks class_type or inputs; {again}"


def filled(
    workflow: Workflow, job_name: str, fields: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Workflow:
    """Copy a workflow with a job's values in it.

    Args:
        workflow: API form; not changed.
        job_name: becomes the last part of the prefix of the saved generator, its folder stays.
        fields: values by the keys of `PLACES`.
        inputs: {"<node id or class>.<input>": value}, each of which the workflow must hold; they win over
            the fields.

    Raises:
        WorkflowError: a value has no place, or more than one.
    """
    result = copy.deepcopy(workflow)
    for field, value in fields.items():
        _fill(result, field, value)
    savers = _of_class(result, SAVER.class_type)
    if len(savers) == 1:
        values = result[savers[0]]["inputs"]
        prefix = values.get(SAVER.name, "")
        if isinstance(prefix, str):
            folder = prefix.rpartition("/")[0]
            values[SAVER.name] = f"{folder}/{job_name}" if folder else job_name
    for name, value in inputs.items():
        node, entry = _named_input(result, name)
        result[node]["inputs"][entry] = value
    return result


def expected_steps(workflow: Workflow) -> dict[str, int]:
    """Steps that nodes will report, by node id, where the workflow tells: those with a number as `steps`."""
    steps = {node: values["inputs"].get("steps") for node, values in workflow.items()}
    return {
        node: count
        for node, count in steps.items()
        if isinstance(count, int) and not isinstance(count, bool) and count > 0
    }


def _fill(workflow: Workflow, field: str, value: Any) -> None:
    place = PLACES[field]
    node = _one_of(workflow, place.classes, field)
    if workflow[node]["class_type"] in place.replaced:
        workflow[node].update(class_type=place.class_type, inputs={place.name: value})
    for other in [node, *(other for name in place.companions for other in _of_class(workflow, name))]:
        values = workflow[other]["inputs"]
        linked = isinstance(values.get(place.name), list)
        if other == node and linked:
            raise WorkflowError(
                f"the workflow's node {node} ({place.class_type}) gets {place.name!r} from another node, so "
                f'{field!r} has no place; unlink it, or name the input that feeds it in "set"'
            )
        if other == node or (place.name in values and not linked):
            values[place.name] = value


def _of_class(workflow: Workflow, class_type: str) -> list[str]:
    return [node for node, values in workflow.items() if values["class_type"] == class_type]


def _one_of(workflow: Workflow, classes: Sequence[str], title: str) -> str:
    """Find the node of a class; among several the one with the title."""
    kinds = " or ".join(classes)
    nodes = [node for node, values in workflow.items() if values["class_type"] in classes]
    if len(nodes) > 1:
        named = [node for node in nodes if _title(workflow[node]).casefold() == title]
        nodes = named if len(named) == 1 else nodes
    if len(nodes) == 1:
        return nodes[0]
    if not nodes:
        raise WorkflowError(
            f"the workflow has no node {kinds}, so {title!r} has no place in it; add one in ComfyUI, link it "
            f"where {title!r} belongs and export again, or leave {title!r} out"
        )
    raise WorkflowError(
        f"the workflow has {len(nodes)} nodes {kinds} ({', '.join(nodes)}); give the one for {title!r} the "
        f'title "{title}" in ComfyUI and export again, or leave {title!r} out and name the input in "set"'
    )


def _title(node: Mapping[str, Any]) -> str:
    meta = node.get("_meta")
    return str(meta.get("title", "")).strip() if isinstance(meta, dict) else ""


def _named_input(workflow: Workflow, name: str) -> tuple[str, str]:
    """Find the node and input that "<node id or class>.<input>" means; an input's name may hold dots."""
    if len(name) > MAX_INPUT_NAME:
        raise WorkflowError(f'"set" has a name of {len(name)} characters; at most {MAX_INPUT_NAME} are read')
    parts = name.split(".")
    for count in range(1, len(parts)):
        node, entry = ".".join(parts[:count]), ".".join(parts[count:])
        nodes = [node] if node in workflow else _of_class(workflow, node)
        if len(nodes) > 1:
            raise WorkflowError(
                f'"set" {name!r}: the workflow has {len(nodes)} nodes {node}; write {nodes[0]}.{entry}'
            )
        if nodes:
            known = workflow[nodes[0]]["inputs"]
            if entry not in known:
                raise WorkflowError(
                    f'"set" {name!r}: node {nodes[0]} ({workflow[nodes[0]]["class_type"]}) has no input '
                    f"{entry!r} in the workflow; it has {', '.join(known) or 'none'}"
                )
            return nodes[0], entry
    raise WorkflowError(f'"set" {name!r} must be "<node id or class>.<input>" of a node in the workflow')
