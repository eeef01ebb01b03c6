"""Recorded numbers of the original editing programs: networks, encoders and tokens for a replay.

Fixtures are found by their JSON in tests/golden_editing, or in the folder that ONESHOT_GOLDEN_EDITING names;
sizes, seeds, cases and counts are read from it, so that another set of the same layout passes unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_support import check_weights, describe, fill_with_formula, formula_weights, rules, tensors_of
from rosinality_names import fill, generator_config, original_state
from torch import Tensor

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.features.prompts import TEMPLATES
from oneshot_core.networks import Generator, GeneratorConfig

FOLDER = Path(os.environ.get("ONESHOT_GOLDEN_EDITING") or Path(__file__).parent / "golden_editing")


def fixtures(name: str) -> list[Any]:
    """One pytest parameter per recording of a kind; a single skipped one where there is none."""
    found = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob(f"{name}*.json"))]
    skipped = pytest.mark.skip(reason=f"no {name} in {FOLDER}")
    return found or [pytest.param(None, id="none", marks=skipped)]


@cache
def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a recording."""
    return describe(path), tensors_of(path)


def rosinality_bundle(
    shape: Mapping[str, Any], prefix: str, seed: int, checks: Mapping[str, Any]
) -> GeneratorBundle:
    """A generator of formula weights, float32.

    Args:
        shape: size, style_dim, n_mlp, channel_multiplier of the original.
        prefix: of the names in the formula.
        seed: of the formula.
        checks: of its weights.
    """
    sides = [4 << level for level in range(shape["size"].bit_length() - 2)]
    widths = tuple(512 if side <= 32 else 16384 // side * shape["channel_multiplier"] for side in sides)
    width = shape["style_dim"]
    config = GeneratorConfig(shape["size"], widths, z_dim=width, w_dim=width, mapping_layers=shape["n_mlp"])
    table = rules("rosinality_rules")
    network = fill(Generator(config), lambda name, size: formula_weights(name, size, seed, prefix, table))
    state = original_state(network)
    check_weights(state, {name: check for name, check in checks.items() if name in state})
    return bundle_of(network, torch.zeros(width))


def bundle_of(network: Generator, mean: Tensor) -> GeneratorBundle:
    network.eval().requires_grad_(False)
    return GeneratorBundle(network, None, None, mean, Provenance("golden", "g"))


def stored_bundle(tensors: Mapping[str, Tensor], prefix: str, mean: Tensor) -> GeneratorBundle:
    """A generator whose weights a recording holds under rosinality's names."""
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    shapes = {name: list(value.shape) for name, value in state.items()}
    network = fill(Generator(generator_config(shapes)), lambda name, _: state[name])
    return bundle_of(network, mean)


def recorded_clip(recorded: Mapping[str, Any], dtype: torch.dtype, tokens: Any = None) -> ClipEncoder:
    """A CLIP of formula weights."""
    model = build_clip(recorded["clip_config"])
    seed = recorded.get("clip_seed", recorded.get("seed"))
    fill_with_formula(model, recorded["clip_prefix"], seed, rules("clip_rules"))
    check_weights(model.state_dict(), recorded["clip_weight_checks"])
    return ClipEncoder(model.to(dtype), tokenizer=tokens)


def stored_tokens(recorded: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """A tokenizer that knows the recorded texts in the published templates, and no others."""
    table = {}
    for number, pair in enumerate(recorded["text_pairs"]):
        for kind in ("target", "neutral"):
            rows = tensors[f"in.tokens.{number}.{kind}"]
            sentences = [template.format(pair[kind]) for template in TEMPLATES]
            assert len(sentences) == len(rows) == recorded["n_templates"]
            for sentence, row in zip(sentences, rows, strict=True):
                assert torch.equal(table.setdefault(sentence, row), row)

    def tokens(texts: Sequence[str]) -> Tensor:
        return torch.stack([table[text] for text in texts]).long()

    return tokens


def group(tensors: Mapping[str, Tensor], start: str, end: str = "") -> dict[int, Tensor]:
    """Tensors `<start><number><end>` by their numbers, in order."""
    found = {}
    for name, value in tensors.items():
        number = name.removeprefix(start).removesuffix(end)
        if name.startswith(start) and name.endswith(end) and number.isdecimal():
            found[int(number)] = value
    return dict(sorted(found.items()))


def assert_near(found: Tensor, wanted: Tensor, tolerance: float, what: str = "") -> None:
    """Compare by the largest difference; nothing may be missing."""
    assert found.shape == wanted.shape, f"{what}: {list(found.shape)} and {list(wanted.shape)}"
    worst = float((found.detach().cpu().double() - wanted.double()).abs().max())
    assert worst <= tolerance, f"{what}: {worst:.3g}"
