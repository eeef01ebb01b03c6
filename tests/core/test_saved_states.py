"""States and records: checked when they are read, set aside when damaged, the one before taken instead."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import failures, mutated_json

from oneshot_core.checkpoints import read_tensors, write_tensors
from oneshot_core.json_values import Fields, JsonError
from oneshot_core.saved_states import (
    DamagedState,
    ForeignRecord,
    SavedState,
    StateError,
    StateFile,
    curves_of,
    differences,
    finite,
    read_record,
    write_record,
)

SETTINGS = {"seed": 1, "preset": {"name": "x"}}
LIKE = {"w": torch.zeros(3), "n": torch.zeros(2, dtype=torch.int64)}
MOMENTS = [{"adam.step": torch.zeros(()), "adam.avg": torch.zeros(3)}]


def state(step: int = 2, **changes: Any) -> SavedState:
    values = {
        "step": step,
        "settings": SETTINGS,
        "tensors": {"w": torch.arange(3.0), "n": torch.tensor([1, 2])},
        "history": {"later": [math.nan] * (step - 1) + [1.5], "a": [0.5] * step},
    }
    return SavedState(**{**values, **changes})


def state_file(folder: Path) -> StateFile:
    return StateFile(folder / "state.safetensors", "some-state", 1, "a saved thing")


def read(file: StateFile, path: Path | None = None, **changes: Any) -> SavedState:
    wanted = {"settings": SETTINGS, "required": LIKE, "groups": MOMENTS, "allow_nan": True}
    return file.read(path or file.path, **{**wanted, **changes})


def test_what_is_saved_comes_back_in_its_order(tmp_path: Path) -> None:
    file = state_file(tmp_path)
    file.save(state())
    found = read(file)
    assert found.step == 2 and list(found.history) == ["later", "a"]
    assert math.isnan(found.history["later"][0]) and found.history["later"][1] == 1.5
    assert torch.equal(found.tensors["w"], torch.arange(3.0)) and found.tensors["n"].dtype == torch.int64
    file.save(state(tensors={**state().tensors, "adam.step": torch.ones(()), "adam.avg": torch.ones(3)}))
    assert set(read(file).tensors) == {"w", "n", "adam.step", "adam.avg"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -3}, "step must be a whole number of at least 0"),
        ({"step": 0}, "has done 0 steps, but the curve"),
        ({"step": 3}, "has done 3 steps, but the curve"),
        ({"step": True}, "step must be a whole number"),
        ({"history": {}}, "has no curves|does not belong"),
        ({"history": {"a": [0.5, math.inf]}}, "curve of 'a' is not finite"),
        ({"tensors": {"w": torch.zeros(3)}}, "'n' is missing"),
        ({"tensors": {**LIKE, "x": torch.zeros(1)}}, "'x' does not belong there"),
        ({"tensors": {**LIKE, "w": torch.zeros(4)}}, r"w has shape \[4\]"),
        ({"tensors": {**LIKE, "w": torch.zeros(3).double()}}, "torch.float64, wanted"),
        ({"tensors": {**LIKE, "w": torch.full((3,), math.nan)}}, "w is not made of finite numbers"),
        ({"tensors": {**LIKE, "adam.step": torch.zeros(())}}, "'adam.avg' is missing"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_together_are_damage(tmp_path: Path, change: Any, message: str) -> None:
    file = state_file(tmp_path)
    file.save(SavedState(**{**vars(state()), **change}))
    with pytest.raises(DamagedState, match=message):
        read(file)


def test_curves_without_nan_where_none_may_be(tmp_path: Path) -> None:
    file = state_file(tmp_path)
    file.save(state())
    with pytest.raises(DamagedState, match="curve of 'later' is not finite"):
        read(file, allow_nan=False)


def test_other_settings_and_other_kinds_are_no_damage(tmp_path: Path) -> None:
    file = state_file(tmp_path)
    file.save(state())
    for other in ({**SETTINGS, "seed": 2}, {**SETTINGS, "preset": {"name": "y"}}):
        with pytest.raises(StateError, match=r"other settings \((seed|preset.name) differ\)") as caught:
            read(file, settings=other)
        assert not isinstance(caught.value, DamagedState)
    with pytest.raises(StateError, match="not a saved thing of version 2") as caught:
        read(StateFile(file.path, file.format, 2, file.what))
    assert not isinstance(caught.value, DamagedState)


def test_a_flipped_bit_anywhere_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    file = state_file(tmp_path)
    file.save(state())
    sound = file.path.read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")
    for place in range(start, len(sound)):
        flipped = bytearray(sound)
        flipped[place] ^= 1
        file.path.write_bytes(flipped)
        with pytest.raises(DamagedState, match="numbers that were written"):
            read(file)


def test_a_damaged_state_is_set_aside_and_the_one_before_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, found = state_file(tmp_path), []
    for step in (1, 2):
        file.save(state(step))
    file.path.write_bytes(file.path.read_bytes()[:-1])
    assert file.load(lambda path: found.append(read(file, path).step)) and found == [1]
    assert "set aside" in caplog.text
    file.save(state(3))  # the only sound one stays until the new one is there
    assert read(file).step == 3 and read(file, file.previous).step == 1
    for path in (file.path, file.previous):
        path.write_bytes(b"")
    assert not file.load(lambda path: found.append(read(file, path).step))
    assert "starts anew" in caplog.text
    assert not file.exists
    assert not file.load(lambda path: pytest.fail("nothing is there"))
    file.save(state(1))
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_state_before_goes_at_the_end(tmp_path: Path) -> None:
    file = state_file(tmp_path)
    for step in (1, 2):
        file.save(state(step))
    assert file.previous.is_file()
    file.forget_previous()
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_equal_states_have_equal_bytes(tmp_path: Path) -> None:
    one, two = state_file(tmp_path / "1"), state_file(tmp_path / "2")
    one.save(state())
    backwards = {name: state().tensors[name] for name in reversed(list(state().tensors))}
    two.save(state(settings=dict(reversed(SETTINGS.items())), tensors=backwards))
    assert one.path.read_bytes() == two.path.read_bytes()


@pytest.mark.parametrize("head", [None, 600])
def test_damaged_states_end_in_one_kind_of_error(tmp_path: Path, head: int | None) -> None:
    file = state_file(tmp_path)
    file.save(state())
    sound, path = file.path.read_bytes(), tmp_path / "x.safetensors"
    wrong = list(failures(lambda at: read(file, at), sound, path, range(300), (StateError,), head))
    assert wrong == []


def test_states_with_odd_headers_end_in_one_kind_of_error(tmp_path: Path) -> None:
    """The damage is written with a fitting checksum, as by a program with a mistake."""
    file = state_file(tmp_path)
    file.save(state())
    tensors, header = read_tensors(file.path)
    accepted = 0
    for seed in range(300):
        odd = mutated_json(header, seed)
        if not isinstance(odd, dict) or not isinstance(odd.get("format"), str):
            continue
        if not isinstance(odd.get("format_version"), int):
            continue
        write_tensors(file.path, tensors, odd)
        try:
            read(file)
            accepted += odd != header
        except StateError:
            continue
    assert accepted == 0


# Records ----------------------------------------------------------------------------------------------

RECORD = {"format": "a-record", "format_version": 3, "step": 5, "curves": {"a": [1.0, None, 2]}}


def test_records_come_back_and_a_changed_character_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, RECORD)
    fields = read_record(path, "a-record", 3)
    assert fields.whole("step") == 5
    curve = curves_of(fields.object("curves"), 3)["a"]
    assert math.isnan(curve[1]) and finite(curve) == [1.0, None, 2.0]
    path.write_text(path.read_text().replace('"step": 5', '"step": 6'))
    with pytest.raises(JsonError, match="checksum does not fit"):
        read_record(path, "a-record", 3)


@pytest.mark.parametrize("text", ["", "\0" * 100, '{"format": "a-record", "format_ver'])
def test_what_is_left_of_a_record_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(JsonError) as caught:
        read_record(tmp_path / "r.json", "a-record", 3)
    assert not isinstance(caught.value, ForeignRecord)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "web", "format_version": 1}', "# a text", "{"])
def test_files_of_other_programs_are_foreign(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ForeignRecord):
        read_record(tmp_path / "r.json", "a-record", 3)


def test_damaged_records_end_in_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, RECORD)

    def reader(at: Path) -> None:
        curves_of(read_record(at, "a-record", 3).object("curves"))

    assert list(failures(reader, path.read_bytes(), path, range(1000), (JsonError,))) == []
    for seed in range(300):
        odd = mutated_json(RECORD, seed)
        if isinstance(odd, dict):
            write_record(path, odd)
            try:
                reader(path)
            except JsonError:
                continue


@pytest.mark.parametrize("values", [{"a": 1}, {"a": [True]}, {"a": ["1"]}, {"a": [2**70]}, {"a": [1.0]}])
def test_curves_that_are_none(values: Any) -> None:
    with pytest.raises(JsonError):
        curves_of(Fields(values, "losses"), 2)


def test_differences_are_named_by_dotted_paths() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 2, "c": 2}}) == ["a.b", "d"]
    assert differences(json.loads("[1]"), [1]) == []
