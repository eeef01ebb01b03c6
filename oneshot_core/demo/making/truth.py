"""What the demo world knows about its shipped pictures: who is on them, and a judge to measure with."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...tensors import gradients, seeded
from ..world import ASSETS
from .faces import FACTORS, factors_from_latents
from .judge import JudgeNet, load_judge
from .pool import Z_DIM

TARGET_SEED = 0  # of the papers; the people have seeds of their own
TARGET_DRAWS = 256  # latents among which a target's person is looked for
TARGET_CHOICE = {"watercolour": 5, "comic": 2, "cel shading": 2, "line art": 4}


@lru_cache(maxsize=1)
def demo_judge() -> JudgeNet:
    """Load the judge, for measuring only.

    Raises:
        CheckpointError: the asset is missing or damaged.
    """
    with gradients():
        return load_judge(ASSETS / "judge.safetensors")


def target_factors(look: str) -> Tensor:
    """Return the factors of the person on a look's target picture, [1, NUM_FACTORS].

    One of the latents drawn for the purpose "demo.target" whose person the small generator can draw: without
    curls, hat and glasses, looking about straight ahead. No other draw of the project shares them.
    """
    z = torch.randn(TARGET_DRAWS, Z_DIM, generator=seeded(TARGET_SEED, 0, f"demo.target.{look}"))
    factors = factors_from_latents(z)
    columns = {factor.name: factors[:, index] for index, factor in enumerate(FACTORS)}
    plain = (columns["hair_curl"] < 0.4) & (columns["hat"] < 0.7) & (columns["glasses"] < 0.6)
    chosen = plain & ((columns["yaw"] - 0.5).abs() < 0.25) & (columns["hair_length"] > 0.25)
    first = TARGET_CHOICE.get(look, 0)
    return factors[chosen][first : first + 1]
