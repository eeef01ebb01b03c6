"""LPIPS networks with the weights of the recordings."""

from __future__ import annotations

import golden_support as golden
import torch

from oneshot_core.features import Perceptual
from oneshot_core.features.perceptual import package_net


def recorded_net(net: str, seed: int, dtype: torch.dtype) -> Perceptual:
    """Build a net by the recipe of section 8: weights by torchvision's names, heads |normal| * 0.1."""
    perceptual = package_net(net)
    state = perceptual.state_dict()
    for key, built in state.items():
        kind, _, rest = key.partition(".")
        if kind == "heads":
            draws = golden.formula_draw(f"{net}.lin{rest}", (1, built.numel(), 1, 1), seed)
            state[key] = torch.from_numpy(draws).float().flatten().abs() * 0.1  # the product in float32
            continue
        name = f"features.{rest.partition('.')[2]}"
        fan_in = built[0].numel() if built.ndim == 4 else 1
        scale = (2 / fan_in) ** 0.5 if built.ndim == 4 else 0.05
        state[key] = golden.formula_weights(name, built.shape, seed, f"{net}.", [(".*", scale, 0.0)])
    perceptual.load_state_dict(state, assign=True)
    return perceptual.requires_grad_(False).to(dtype)
