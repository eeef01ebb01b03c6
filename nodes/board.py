"""What the nodes are doing and said last, kept for pages that are opened or loaded again.

ComfyUI's page forgets what nodes told it when it is reloaded, and on every undo. All of it is plain JSON.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

MOST, POINTS = 400, 400  # nodes that are remembered, points of a curve
# Parts of a node's ui that pages draw.
SHOWN = ("status", "text", "images", "snapshots", "pairs", "names", "frame", "given")
RUNNING, DONE, FAILED, CANCELLED = "running", "done", "failed", "cancelled"
Entry = dict[str, Any]


class Place(NamedTuple):
    """Where a node stands: workflow's id, its full id there (`outer:inner` in subgraphs), prompt."""

    workflow: str
    node: str
    prompt: str


class Board:
    """The last entry of each node; safe to use from the thread that computes and the one that serves."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, place: Place, kind: str) -> Entry:
        """Note that a node of this class starts; returns what the page is told."""
        entry = {
            "workflow": place.workflow,
            "node": place.node,
            "prompt_id": place.prompt,
            "node_type": kind,
            "state": RUNNING,
        }
        with self._lock:
            self._entries[place[:2]] = {**entry, "points": {}}
            self._entries.move_to_end(place[:2])
            while len(self._entries) > MOST:
                self._entries.popitem(last=False)
        return entry

    def progress(
        self, place: Place, far: Mapping[str, Any], points: Mapping[str, list[list[float]]]
    ) -> Entry:
        """Note how far a node is.

        Args:
            place: of the node.
            far: step, steps and, where known, eta in seconds.
            points: new ones of each curve, [step, value].
        """
        with self._lock:
            entry = self._entries.get(place[:2])
            if entry is None or entry["prompt_id"] != place.prompt:
                return {}
            entry.update(far)
            for name, added in points.items():
                known = entry["points"].setdefault(name, [])
                known.extend(added)
                if len(known) > 2 * POINTS:
                    entry["points"][name] = thinned(known)
            return {**{key: value for key, value in entry.items() if key != "points"}, "points": dict(points)}

    def end(
        self, place: Place, state: str, seconds: float, shown: Mapping[str, Any], error: str = ""
    ) -> Entry:
        """Note how a node ended.

        Args:
            place: of the node.
            state: `DONE`, `FAILED` or `CANCELLED`.
            seconds: it took.
            shown: its ui; the parts of `SHOWN`, and `losses` as the whole curves, are kept.
            error: its words.
        """
        with self._lock:
            entry = self._entries.get(place[:2])
            if entry is None or entry["prompt_id"] != place.prompt:
                return {}
            entry.update(state=state, seconds=round(seconds, 2), error=error)
            entry.update({name: list(shown[name]) for name in SHOWN if name in shown})
            whole = shown["losses"][0] if shown.get("losses") else entry["points"]
            entry["points"] = {name: thinned(curve) for name, curve in whole.items()}
            if not place.workflow:  # of a program, which no page asks for
                del self._entries[place[:2]]
            return dict(entry)

    def of_workflow(self, workflow: str) -> list[Entry]:
        """Entries of a workflow's nodes."""
        with self._lock:
            return [
                {**entry, "points": {name: list(curve) for name, curve in entry["points"].items()}}
                for (place, _), entry in self._entries.items()
                if place == workflow
            ]


def workflow_of(extra: Any) -> str:
    """Id of the workflow that a page queued; empty for prompts of programs."""
    found = extra.get("workflow") if isinstance(extra, Mapping) else None
    name = found.get("id") if isinstance(found, Mapping) else None
    return name if isinstance(name, str) and name.strip("0-") else ""  # pages give cleared graphs zeros


def ui_of(output: Any) -> Mapping[str, Any]:
    """What a node's output shows, as a dict of lists."""
    found = getattr(output, "ui", None)
    return found if isinstance(found, Mapping) else {} if found is None else found.as_dict()


def thinned(curve: list[list[float]]) -> list[list[float]]:
    """At most some hundred points of a curve, evenly; the last one stays."""
    stride = -(-len(curve) // POINTS)
    return curve[::-1][:: max(1, stride)][::-1]


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Only values that JSON can carry."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


class Stops:
    """What ends the run of a node early, while it trains."""

    def __init__(self) -> None:
        self._signals: dict[str, tuple[str, Any]] = {}

    @contextmanager
    def open(self, place: Place, signal: Any) -> Iterator[Any]:
        """Let `find` give this signal within the block."""
        self._signals[place.node] = (place.workflow, signal)
        try:
            yield signal
        finally:
            self._signals.pop(place.node, None)

    def find(self, node: str, workflow: str = "") -> Any:
        """The signal of a node that trains now; None where it does not, or belongs to another workflow."""
        known, signal = self._signals.get(node, ("", None))
        return None if workflow and known != workflow else signal
