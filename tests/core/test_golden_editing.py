"""A recorded run of StyleCLIP's optimisation, replayed through the public editing code.

The recording, a part of the full one, is in tests/golden_editing; the formula of its weights in tests/golden.
"""

from __future__ import annotations

import math
from pathlib import Path

import golden_support as golden
import pytest
import torch
import torch.nn.functional as F
from rosinality_names import fill

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.editing import EditConfig, edit_latents
from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.latents import Latent
from oneshot_core.networks import Generator, GeneratorConfig

pytestmark = [pytest.mark.golden, pytest.mark.slow]  # 13 s: 512 channels in float64
RECORDED = Path(__file__).parents[1] / "golden_editing" / "clip_opt_wplus.json"


class PublishedPreprocess:
    """Nearest by 7, averages of S / 32, no normalisation: what the published program shows CLIP."""

    def __init__(self, size: int) -> None:
        self.image_size = size  # nothing is to be reduced before
        self.average_px = size // 32

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.interpolate(images, scale_factor=7, mode="nearest"), self.average_px)


def recorded_bundle(recorded: dict) -> GeneratorBundle:
    config = recorded["config"]
    resolutions = [2**level for level in range(2, int(math.log2(config["size"])) + 1)]
    widths = tuple(
        512 if side <= 32 else 16384 // side * config["channel_multiplier"] for side in resolutions
    )
    width = config["style_dim"]
    shape = GeneratorConfig(config["size"], widths, z_dim=width, w_dim=width, mapping_layers=config["n_mlp"])
    table, prefix, seed = (
        golden.rules("rosinality_rules"),
        recorded["generator_prefix"],
        config["weight_seed"],
    )
    network = fill(
        Generator(shape), lambda name, shape: golden.formula_weights(name, shape, seed, prefix, table)
    )
    return GeneratorBundle(
        network.double().eval().requires_grad_(False),
        None,
        None,
        torch.zeros(width),
        Provenance("golden", "g"),
    )


def test_an_edit_repeats_the_recorded_steps():
    recorded, tensors = golden.describe(RECORDED), golden.tensors_of(RECORDED)
    model = build_clip(recorded["clip_config"])
    golden.fill_with_formula(
        model, recorded["clip_prefix"], recorded["clip_seed"], golden.rules("clip_rules")
    )
    golden.check_weights(model.state_dict(), recorded["weight_checks"]["clip"])
    config = recorded["config"]
    tokens = torch.tensor([recorded["token_ids"]])
    clip = ClipEncoder(model.double(), PublishedPreprocess(config["size"]), lambda texts: tokens)
    settings = EditConfig(steps=config["steps"], learning_rate=config["lr"], l2_weight=config["l2_lambda"])
    latent = Latent("w+", tensors["in.w0"])
    result = edit_latents(recorded_bundle(recorded), clip, latent, config["description"], settings)
    last = tensors[f"out.step{config['steps'] - 1}.latent"]
    torch.testing.assert_close(result.latent.values, last.float(), atol=1e-6, rtol=0)
    for step in recorded["steps"]:
        distance, deviation = (result.losses[name][step["step"]] for name in ("clip", "deviation"))
        assert distance == pytest.approx(step["clip_loss"], abs=1e-9)
        assert distance + config["l2_lambda"] * deviation == pytest.approx(step["total"], abs=1e-9)
