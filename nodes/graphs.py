"""The graph that is being queued, as one of its nodes sees it: who feeds it, and what of it is used.

ComfyUI hands a graph to `remember` before it validates it, in the same task (0.8.0 and 0.33.0 do); a node
that is validated finds it by `queued`. Where ComfyUI does not tell, nothing is refused for the graph's sake:
then the run says what is wrong. What stands in a graph may be anything until the node it belongs to is
validated: nothing here relies on more than that every node has a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_REMEMBERED: ContextVar[tuple[Any, Any]] = ContextVar("oneshot_graph", default=(None, None))

Link = tuple[str, int]  # the node that gives, and which of its outputs


@dataclass(frozen=True)
class Queued:
    """A node in the graph that is being queued.

    Args:
        prompt: nodes by id, as ComfyUI's API has them.
        node: id of this one.
        roots: ids of the output nodes that are to run.
        lazy: names of the inputs that a class may leave unasked, by class.
    """

    prompt: Mapping[str, Any]
    node: str
    roots: Collection[str]
    lazy: Callable[[Any], Collection[str]]

    @property
    def kind(self) -> str:
        """Its class, as graphs name it."""
        found = self.prompt.get(self.node)
        return str(found.get("class_type", "")) if isinstance(found, Mapping) else ""

    def value(self, name: str) -> Any:
        """What stands in an input; None where it is linked or missing."""
        found = _inputs(self.prompt, self.node).get(name)
        return None if _link(found) else found

    def giver(self, name: str) -> Queued | None:
        """The node that feeds an input; None where none does."""
        link = _link(_inputs(self.prompt, self.node).get(name))
        known = link is not None and link[0] in self.prompt
        return Queued(self.prompt, link[0], self.roots, self.lazy) if link and known else None

    def is_used(self, output: int) -> bool:
        """Whether a node that will surely run is fed by an output."""
        return (self.node, output) in set(self._asked())

    def _asked(self) -> Iterator[Link]:
        """The links that will be asked for: all ways back from the roots, but for lazy inputs."""
        waiting, seen = list(self.roots), set(self.roots)
        while waiting:
            node = waiting.pop()
            inputs = _inputs(self.prompt, node)
            lazy = self.lazy(self.prompt[node]["class_type"]) if inputs else ()
            for name, value in inputs.items():
                link = _link(value)
                if link is None or name in lazy:
                    continue
                yield link
                if link[0] not in seen and link[0] in self.prompt:
                    seen.add(link[0])
                    waiting.append(link[0])


def remember(body: Any) -> Any:
    """Keep the graph of a request for the nodes that are validated for it; returns the request as it came."""
    _REMEMBERED.set((body.get("prompt"), body.get("partial_execution_targets")))
    return body


def queued(node: str, kind: str, classes: Mapping[str, Any]) -> Queued | None:
    """Find a node in the graph that is being queued.

    Args:
        node: its id.
        kind: its class, as graphs name it.
        classes: all classes by that name.

    Returns:
        None where no graph is known, or only that of an earlier request.
    """
    prompt, targets = _REMEMBERED.get()
    if not isinstance(prompt, dict):
        return None
    outputs = (name for name, one in prompt.items() if getattr(_class(one, classes), "OUTPUT_NODE", False))
    roots = [name for name in outputs if targets is None or name in targets]
    found = Queued(prompt, node, roots, lambda name: _lazy(classes.get(name)))
    return found if found.kind == kind else None


def _class(node: Any, classes: Mapping[str, Any]) -> Any:
    return classes.get(str(node.get("class_type"))) if isinstance(node, Mapping) else None


def _lazy(kind: Any) -> Collection[str]:
    """Names of the inputs of a class that it may leave unasked."""
    groups = kind.INPUT_TYPES()
    inputs = {**groups.get("required", {}), **groups.get("optional", {})}
    return {
        name
        for name, one in inputs.items()
        if len(one) > 1 and isinstance(one[1], Mapping) and one[1].get("lazy")
    }


def _inputs(prompt: Mapping[str, Any], node: str) -> Mapping[str, Any]:
    found = prompt.get(node)
    inputs = found.get("inputs") if isinstance(found, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _link(value: Any) -> Link | None:
    """An input's value as a link: ComfyUI writes one as a list of an id and a number."""
    is_pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    if not is_pair or not isinstance(value[1], int | float) or not math.isfinite(value[1]):
        return None
    return value[0], int(value[1])
