"""Recorded runs of editing and inversion programs: fixtures, weights and networks for a replay.

Fixtures are found by their JSON in tests/golden_editing, or in the folder that ONESHOT_GOLDEN_EDITING names;
sizes, seeds, steps and names are read from it, so that another set of the same layout passes unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import golden_support as golden
import pytest
import torch
from rosinality_names import fill, generator_config, original_state
from torch import Tensor, nn

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.features.prompts import TEMPLATES
from oneshot_core.networks import Generator, GeneratorConfig

FOLDER = Path(os.environ.get("ONESHOT_GOLDEN_EDITING") or Path(__file__).parent / "golden_editing")
# First match wins; what has a scale that depends on its inputs is not here (README of the recordings, 1).
IRSE = (
    (r".*\.num_batches_tracked", None, 0.0),
    (r"styles\.\d+\.linear\.weight", 1.0, 0.0),
    (r".*\.running_var", 0.1, 1.0),
    (r".*\.(running_mean|bias)", 0.1, 0.0),
    (r"input_layer\.2\.weight|body\.\d+\.res_layer\.2\.weight", 0.05, 0.25),
    (r"body\.\d+\.res_layer\.4\.weight", 0.05, 0.3),
    (r".*", 0.1, 1.0),  # the other batch norms
)
FEATURES = ((r"conv\d+\.bias", 0.05, 0.0),)


def cases(*names: str) -> list[Any]:
    """One parameter per fixture whose description's name begins so; a skipped one where there is none."""
    paths = sorted({path for name in names for path in FOLDER.glob(f"{name}*.json")})
    found = [pytest.param(path, id=path.stem) for path in paths]
    reason = f"no {' or '.join(names)} in {FOLDER}"
    return found or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A description and its tensors."""
    return golden.describe(path), golden.tensors_of(path)


def filled(module: nn.Module, seed: int, prefix: str, rules: tuple[Any, ...]) -> nn.Module:
    """Give a network the formula's weights; large ones have the scale of their inputs; float64, frozen."""
    state = module.state_dict()
    for key, built in state.items():
        fan = built[0].numel() if built.ndim else 1
        wide = built.ndim == 4 or (built.ndim == 2 and not key.startswith("styles."))
        table = [(".*", (2 / fan) ** 0.5, 0.0)] if wide else rules
        value = golden.formula_weights(key, built.shape, seed, prefix, table)
        state[key] = torch.zeros_like(built, device="cpu") if value is None else value
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def checked(table: dict[str, Any], network: nn.Module) -> None:
    """Compare a network with its description's weight checks, as far as names are those of its state."""
    state = network.state_dict()
    golden.check_weights(state, {name: one for name, one in table.items() if name in state})


def recorded_bundle(told: dict[str, Any], mean: Tensor | None = None) -> GeneratorBundle:
    """A generator with rosinality's rules of the weight formula, in float64."""
    config = told["config"]
    size, width = config["size"], config["style_dim"]
    sides = [4 << level for level in range(size.bit_length() - 2)]
    widths = tuple(512 if side <= 32 else 16384 // side * config["channel_multiplier"] for side in sides)
    shape = GeneratorConfig(size, widths, z_dim=width, w_dim=width, mapping_layers=config["n_mlp"])
    table, prefix, seed = (
        golden.rules("rosinality_rules"),
        told.get("generator_prefix", ""),
        config["weight_seed"],
    )
    network = fill(
        Generator(shape), lambda name, shape: golden.formula_weights(name, shape, seed, prefix, table)
    )
    return bundle_of(network, mean)


def bundle_of(network: nn.Module, mean: Tensor | None = None) -> GeneratorBundle:
    """A network as a bundle, in float64."""
    frozen = network.double().eval().requires_grad_(False)
    mean = torch.zeros(frozen.config.w_dim) if mean is None else mean
    return GeneratorBundle(frozen, None, None, mean, Provenance("golden", "g"))


def tap_names(tensors: dict[str, Tensor], start: str) -> Iterator[tuple[str, str, Tensor]]:
    """Tensors whose names begin so: what is between the beginning and the slice, the slice, the values."""
    for key, value in tensors.items():
        if key.startswith(start):
            name, _, cut = key[len(start) :].partition("[")
            yield name, f"[{cut}" if cut else "", value


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
    table = golden.rules("rosinality_rules")
    network = fill(
        Generator(config), lambda name, size: golden.formula_weights(name, size, seed, prefix, table)
    )
    state = original_state(network)
    golden.check_weights(state, {name: check for name, check in checks.items() if name in state})
    return plain_bundle(network, torch.zeros(width))


def plain_bundle(network: Generator, mean: Tensor) -> GeneratorBundle:
    """A network as a bundle, in its type."""
    network.eval().requires_grad_(False)
    return GeneratorBundle(network, None, None, mean, Provenance("golden", "g"))


def stored_bundle(tensors: Mapping[str, Tensor], prefix: str, mean: Tensor) -> GeneratorBundle:
    """A generator whose weights a recording holds under rosinality's names."""
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    shapes = {name: list(value.shape) for name, value in state.items()}
    network = fill(Generator(generator_config(shapes)), lambda name, _: state[name])
    return plain_bundle(network, mean)


def recorded_clip(recorded: Mapping[str, Any], dtype: torch.dtype, tokens: Any = None) -> ClipEncoder:
    """A CLIP of formula weights."""
    model = build_clip(recorded["clip_config"])
    seed = recorded.get("clip_seed", recorded.get("seed"))
    golden.fill_with_formula(model, recorded["clip_prefix"], seed, golden.rules("clip_rules"))
    golden.check_weights(model.state_dict(), recorded["clip_weight_checks"])
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
