"""Recorded numbers of the original programs: fixtures found by their descriptions, and formula weights.

A fixture is a JSON description beside a safetensors file of the same stem. Sizes, seeds and configurations
are read from the description, never written into a test: another set of the same layout passes unchanged.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Rules = Sequence[Sequence[Any]]  # (regular expression, scale, offset); a null scale keeps the built value


_UNPACKED: list[tempfile.TemporaryDirectory[str]] = []  # removed when the tests end


@cache
def golden_dir() -> Path:
    """Return the folder of recorded data: ONESHOT_GOLDEN, or the copy in tests/golden.

    Where some of its files are stored as NAME.xz, this is a temporary copy with all of them unpacked.
    """
    folder = Path(os.environ.get("ONESHOT_GOLDEN") or Path(__file__).parent / "golden")
    packed = sorted(folder.rglob("*.xz"))
    if not packed:
        return folder
    _UNPACKED.append(tempfile.TemporaryDirectory(prefix="golden-"))
    copied = Path(_UNPACKED[-1].name) / folder.name
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("*.xz"))
    for path in packed:
        (copied / path.relative_to(folder)).with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
    return copied


def descriptions(pattern: str) -> list[Path]:
    """Return the JSON descriptions whose file name matches a glob pattern, sorted."""
    return sorted(golden_dir().glob(pattern))


def cases(
    pattern: str,
    of_kind: Callable[[dict[str, Any]], bool] = lambda description: True,
    slow: Callable[[dict[str, Any]], bool] = lambda description: False,
) -> list[Any]:
    """Return one pytest parameter per description of a kind; a single skipped one where there is none.

    Args:
        pattern: of the names of descriptions.
        of_kind: whether a description is wanted.
        slow: whether its test is left to `make test-golden`.
    """
    read = {path: describe(path) for path in descriptions(pattern)}
    found = [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if slow(told) else [])
        for path, told in read.items()
        if of_kind(told)
    ]
    reason = f"no {pattern} of this kind in {golden_dir()}"
    return found or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]


def describe(path: Path) -> dict[str, Any]:
    """Read a description."""
    return json.loads(path.read_text(encoding="utf-8"))


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Read the tensors beside a description."""
    return load_file(path.with_suffix(".safetensors"))


def part(tensor: Tensor, text: str | None) -> Tensor:
    """Apply a slice written as "[:8,:8]" or "[:, :8, :8]"."""
    if not text:
        return tensor
    ends = [piece.strip().lstrip(":") for piece in text.strip("[]").split(",")]
    return tensor[tuple(slice(int(end) if end else None) for end in ends)]


def recorded_part(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, str] | None:
    """Return a recorded tensor and which slice of the whole it is: the end of its name, "[:8,:8]", or ""."""
    for key, value in tensors.items():
        if key == name or key.startswith(f"{name}["):
            return value, key[len(name) :]
    return None


def rules(name: str) -> Rules:
    """Read a list of the weight formula: "rosinality_rules" or "clip_rules"."""
    return describe(golden_dir() / "weights_formula.json")[name]


def formula_draw(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Return the formula's standard normal values for a full name (prefix included), float64, C order."""
    start = (zlib.crc32(name.encode("utf-8")) + 1000003 * seed) % 2**32
    return np.asarray(np.random.RandomState(start).standard_normal(tuple(shape)))


def formula_weights(
    name: str, shape: Sequence[int], seed: int, prefix: str = "", rules: Rules = ((".*", 1.0, 0.0),)
) -> Tensor | None:
    """Return a regenerated weight, float32; None where the formula keeps the constructed value.

    Args:
        name: state-dict key of the original program, without the prefix; the rules look at this.
        shape: any shape with the original's number of elements in the original's order.
        seed: of the fixture.
        prefix: of the fixture, part of the seed only.
        rules: the first whose expression matches the whole name gives scale and offset.
    """
    for pattern, scale, offset in rules:
        if re.fullmatch(pattern, name):
            if scale is None:
                return None
            values = formula_draw(prefix + name, shape, seed) * scale + offset
            return torch.from_numpy(np.asarray(values, dtype=np.float32))
    raise AssertionError(f"no rule of the weight formula matches {name}")


def fill_with_formula(
    module: nn.Module,
    prefix: str,
    seed: int,
    rules: Rules,
    rename: Callable[[str], str | None] | Mapping[str, str] | None = None,
) -> None:
    """Give a module the formula's weights, in float32 (cast to float64 afterwards, as the fixtures do).

    Args:
        module: parameters may be on the meta device.
        prefix: of the fixture.
        seed: of the fixture.
        rules: see `formula_weights`.
        rename: from the module's state-dict key to the original's name; None keeps the built value. A mapping
            leaves absent keys as they are built.
    """
    original = rename.get if isinstance(rename, Mapping) else rename or (lambda key: key)
    state = module.state_dict()
    for key, built in state.items():
        name = original(key)
        value = formula_weights(name, built.shape, seed, prefix, rules) if name else None
        state[key] = built if value is None else value
    module.load_state_dict(state, assign=True)


def check_weights(state: Mapping[str, Tensor], checks: Mapping[str, Any], relative: float = 1e-6) -> None:
    """Compare tensors with a fixture's `weight_checks`: numel, mean, deviation (population), entries."""
    for name, check in checks.items():
        flat = state[name].detach().double().flatten()
        assert flat.numel() == check["numel"], name
        sampled = flat[check["sample_index"]]
        size = max(1e-3, float(flat.abs().max()))
        torch.testing.assert_close(
            sampled, torch.tensor(check["sample"]).double(), rtol=relative, atol=1e-7 * size
        )
        assert abs(float(flat.mean()) - check["mean"]) <= relative * size, name
        assert abs(float(flat.std(correction=0)) - check["std"]) <= relative * size, name


def assert_checks(tensor: Tensor, check: dict, tolerance: float, what: str) -> None:
    """Compare a tensor with recorded checks: size, mean, deviation and eight of its entries."""
    values = tensor.detach().double().reshape(-1)
    assert values.numel() == check["numel"], what
    sample = values[torch.tensor(check["sample_index"])]
    worst = (sample - torch.tensor(check["sample"], dtype=torch.float64)).abs().max()
    assert worst <= tolerance * max(1.0, max(abs(v) for v in check["sample"])), f"{what}: {worst:.3g}"
    assert abs(float(values.mean()) - check["mean"]) <= tolerance, what
    assert abs(float(values.std(unbiased=False)) - check["std"]) <= tolerance * max(1.0, check["std"]), what
