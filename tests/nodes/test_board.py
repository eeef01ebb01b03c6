"""What nodes did last, kept for pages: by workflow and full id, of the newest prompt only, in bounds."""

from __future__ import annotations

import json

from test_routes import board

PLACE = board.Place("graph", "3:5", "first")


def test_an_entry_tells_progress_and_end() -> None:
    wall = board.Board()
    assert wall.begin(PLACE, "OneShotAdapt")["state"] == "running"
    told = wall.progress(PLACE, {"step": 1, "steps": 4}, {"lpips": [[1, 0.5]]})
    assert told["points"] == {"lpips": [[1, 0.5]]} and told["node"] == "3:5"
    told = wall.progress(PLACE, {"step": 2, "steps": 4}, {"lpips": [[2, 0.4]]})
    assert told["points"] == {"lpips": [[2, 0.4]]}  # only what is new is sent
    (kept,) = wall.of_workflow("graph")
    assert kept["points"] == {"lpips": [[1, 0.5], [2, 0.4]]} and kept["step"] == 2
    shown = {"text": ("a", "b"), "losses": [{"lpips": [[4, 0.1]]}], "other": [object()]}
    told = wall.end(PLACE, board.DONE, 1.23456, shown)
    assert told["text"] == ["a", "b"] and told["points"] == {"lpips": [[4, 0.1]]} and told["seconds"] == 1.23
    assert "other" not in told and json.dumps(wall.of_workflow("graph"))


def test_what_is_late_of_an_earlier_prompt_changes_nothing() -> None:
    wall = board.Board()
    wall.begin(PLACE, "OneShotAdapt")
    wall.begin(PLACE._replace(prompt="second"), "OneShotAdapt")
    assert wall.progress(PLACE, {"step": 1}, {}) == {} and wall.end(PLACE, board.FAILED, 1, {}, "late") == {}
    (kept,) = wall.of_workflow("graph")
    assert kept["prompt_id"] == "second" and kept["state"] == "running"


def test_only_the_last_nodes_are_remembered() -> None:
    wall = board.Board()
    for number in range(board.MOST + 5):
        wall.begin(board.Place("graph", str(number), "p"), "SampleAdapted")
    kept = [one["node"] for one in wall.of_workflow("graph")]
    assert len(kept) == board.MOST and kept[0] == "5"


def test_the_workflow_is_read_from_what_a_page_sends() -> None:
    assert board.workflow_of({"workflow": {"id": "abc"}}) == "abc"
    for odd in (None, [], {}, {"workflow": 5}, {"workflow": {"id": 7}}):
        assert board.workflow_of(odd) == ""


def test_what_json_cannot_carry_is_left_out() -> None:
    assert board.finite({"a": 1, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}
