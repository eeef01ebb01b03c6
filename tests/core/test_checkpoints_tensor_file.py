"""The own writer of safetensors files: the library reads what it writes, checksums find every change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from oneshot_core.checkpoints import CheckpointError, read_tensors, verify, write_tensors
from oneshot_core.checkpoints.tensor_file import CHECKSUMS, STORED_TYPES

HEADER = {"format": "x", "format_version": 1, "text": "grüße"}


def every_type() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(3, 5, generator=random) * 9
    tensors = {name.lower(): values.to(dtype) for name, dtype in STORED_TYPES.items()}
    more = {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "view": values.t(),
        "längs": values[:, 1],
    }
    return {**tensors, **more}


def test_the_library_reads_the_same_numbers(tmp_path: Path) -> None:
    tensors = every_type()
    path = write_tensors(tmp_path / "a.safetensors", tensors, HEADER, {"prompt": "{}"})
    theirs, (ours, header) = load_file(path), read_tensors(path)
    assert header == HEADER == verify(path)
    assert theirs.keys() == ours.keys() == tensors.keys()
    for name, value in tensors.items():
        for found in (theirs[name], ours[name]):
            assert found.dtype == value.dtype and torch.equal(found, value), name
    with safe_open(path, "pt") as file:
        assert file.metadata()["prompt"] == "{}"
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_the_order_of_what_is_given_does_not_change_a_byte(tmp_path: Path) -> None:
    tensors, metadata = every_type(), {"prompt": "1", "workflow": "2", "another": "3"}
    one = write_tensors(tmp_path / "1", tensors, HEADER, metadata)
    two = write_tensors(
        tmp_path / "2",
        dict(reversed(tensors.items())),
        dict(reversed(HEADER.items())),
        dict(reversed(metadata.items())),
    )
    assert one.read_bytes() == two.read_bytes()


def test_tensors_with_a_graph_or_of_inference_mode_are_written(tmp_path: Path) -> None:
    with torch.inference_mode():
        inside = torch.ones(2)
    path = write_tensors(tmp_path / "a", {"a": inside, "b": torch.ones(2, requires_grad=True) * 2}, HEADER)
    assert read_tensors(path)[0]["b"].tolist() == [2, 2]


def test_types_that_are_not_stored_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch.complex64 cannot be stored"):
        write_tensors(tmp_path / "a", {"a": torch.ones(1, dtype=torch.complex64)}, HEADER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_each_flipped_bit_is_noticed(tmp_path: Path, bits: int) -> None:
    """In the numbers, in our header, in names, types and shapes; never accepted as something else."""
    path = write_tensors(tmp_path / "a", {"one": torch.arange(4.0), "two": torch.ones(2, 2)}, HEADER)
    sound = path.read_bytes()
    missed = []
    for place in range(len(sound)):
        for bit in range(8) if bits == 8 else (place % 8,):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                tensors, header = read_tensors(path)
            except CheckpointError:
                continue
            same = tensors.keys() == {"one", "two"} and header == HEADER
            if not (same and torch.equal(tensors["one"], torch.arange(4.0))):
                missed.append((place, bit))
            missed += [(place, bit)] if not torch.equal(tensors["two"], torch.ones(2, 2)) else []
    assert missed == []


def rewritten(path: Path, **changes: Tensor) -> Path:
    """Save a file's tensors again by the library, with its metadata, as other programs do."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({**load_file(path), **changes}, path, metadata)
    return path


def test_files_without_checksums_are_read_and_files_whose_content_was_changed_are_not(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a", {"one": torch.arange(4.0), "two": torch.ones(2)}, HEADER)
    assert torch.equal(read_tensors(rewritten(path))[0]["one"], torch.arange(4.0))
    with pytest.raises(CheckpointError, match="one does not hold the numbers that were written"):
        verify(rewritten(path, one=torch.arange(4.0) + 1))
    with pytest.raises(CheckpointError, match="header is not the one"):
        read_tensors(rewritten(path, three=torch.ones(1)))
    plain = tmp_path / "plain"
    save_file({"one": torch.ones(2)}, plain, {"oneshot": json.dumps(HEADER)})
    assert read_tensors(plain)[0]["one"].tolist() == [1, 1] and verify(plain) == HEADER


def test_damaged_checksums_are_damage(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a", {"one": torch.ones(2)}, HEADER)
    for digits in ("", "00", "x" * 16):
        save_file(load_file(path), path, {"oneshot": json.dumps(HEADER), CHECKSUMS: digits})
        with pytest.raises(CheckpointError, match="damaged"):
            read_tensors(path)
