"""Recorded runs of editing and inversion programs: fixtures, weights and networks for a replay.

Fixtures are found by their JSON in tests/golden_editing, or in the folder that ONESHOT_GOLDEN_EDITING names;
sizes, seeds, steps and names are read from it, so that another set of the same layout passes unchanged.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import golden_support as golden
import pytest
import torch
from rosinality_names import fill
from torch import Tensor, nn

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
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
