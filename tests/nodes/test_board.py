"""What nodes did last, kept for pages: by workflow and full id, of the newest prompt only, in bounds."""

from __future__ import annotations

import json

from test_routes import board

ZEROS = "00000000-0000-0000-0000-000000000000"
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


def test_curves_are_thinned_and_runs_of_programs_forgotten() -> None:
    wall = board.Board()
    wall.begin(PLACE, "OneShotAdapt")
    for step in range(1, 3 * board.POINTS):
        wall.progress(PLACE, {"step": step}, {"lpips": [[step, 0.5]]})
    wall.end(PLACE, board.CANCELLED, 1, {})
    (kept,) = wall.of_workflow("graph")
    assert len(kept["points"]["lpips"]) <= board.POINTS
    assert kept["points"]["lpips"][-1][0] == 3 * board.POINTS - 1
    place = board.Place("", "5", "p")
    wall.begin(place, "OneShotAdapt")
    assert wall.progress(place, {"step": 1}, {})["step"] == 1
    assert wall.end(place, board.DONE, 1, {})["state"] == "done" and wall.of_workflow("") == []


def test_only_the_last_nodes_are_remembered() -> None:
    wall = board.Board()
    for number in range(board.MOST + 5):
        wall.begin(board.Place("graph", str(number), "p"), "SampleAdapted")
    kept = [one["node"] for one in wall.of_workflow("graph")]
    assert len(kept) == board.MOST and kept[0] == "5"


def test_the_workflow_is_read_from_what_a_page_sends() -> None:
    assert board.workflow_of({"workflow": {"id": "abc"}}) == "abc"
    for odd in (None, [], {}, {"workflow": 5}, {"workflow": {"id": 7}}, {"workflow": {"id": ZEROS}}):
        assert board.workflow_of(odd) == ""


def test_what_json_cannot_carry_is_left_out() -> None:
    assert board.finite({"a": 1, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}
