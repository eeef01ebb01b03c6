"""Image towers of CLIP in their cheapest form: the same features and gradients."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_clip import CONFIG, pictures

from oneshot_core.features import ClipPreprocess, build_clip, load_clip
from oneshot_core.features.towers import FirstQueryPool, Patches, _makes_patches, tower_weight

TOWERS = {
    "resnet": ({"image_size": 32, "layers": [1, 2, 1, 1], "width": 8, "head_width": 32}, False),
    "few tokens": (CONFIG["vision_cfg"], True),
    "many tokens": (CONFIG["vision_cfg"] | {"patch_size": 2}, True),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_a_simplified_tower_gives_the_same_features(tmp_path, tower):
    vision, quick = TOWERS[tower]
    config = CONFIG | {"vision_cfg": vision, "quick_gelu": quick}
    model = build_clip(config, seed=2)
    for name, value in model.state_dict().items():  # as trained ones: neither unit scale nor mean 0
        random = torch.Generator().manual_seed(len(name))
        if name.endswith((".running_var", ".bn3.weight")):
            value.uniform_(0.5, 2, generator=random)
        elif name.endswith((".running_mean", ".in_proj_bias", ".c_fc.bias", ".c_proj.bias")):
            value.normal_(generator=random)
    model.eval()
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    encoder = load_clip("mine", tmp_path / "clip.safetensors", config, allow_download=False)
    left = {type(part).__name__ for part in encoder.model.visual.modules()}
    assert not left & {"BatchNorm2d", "QuickGELU", "MultiheadAttention", "AttentionPool2d"}
    images = pictures().requires_grad_()
    wanted = F.normalize(model.encode_image(ClipPreprocess(32)(images), normalize=False), dim=-1)
    found = encoder.encode_images(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    ours, theirs = (torch.autograd.grad(one[:, 0].sum(), images)[0] for one in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_sharp_attention_gives_no_gradient_that_a_processor_is_slow_with():
    """Below 1e-38 float32 loses its leading one, and products of such numbers took ten times as long."""
    pool = open_clip.modified_resnet.AttentionPool2d(2, 64, 4, 16).requires_grad_(False)
    with torch.no_grad():
        pool.q_proj.weight *= 2_000
    images = pictures(4, 2)[:, :1].repeat(1, 64, 1, 1).requires_grad_()
    ours = FirstQueryPool(pool)
    torch.testing.assert_close(ours(images), pool(images), rtol=1e-4, atol=1e-4)
    keys: list[torch.Tensor] = []
    ours.k_proj.register_full_backward_hook(lambda layer, before, after: keys.append(after[0]))
    ours(images).sum().backward()
    tiny = torch.finfo(torch.float32).tiny
    assert not ((keys[0] != 0) & (keys[0].abs() < tiny)).any() and (keys[0] == 0).any()


def test_patches_are_the_convolution() -> None:
    layer = torch.nn.Conv2d(3, 5, 4, stride=4, bias=False, dtype=torch.float64)
    images = torch.randn(2, 3, 13, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(Patches(layer)(images), layer(images))
    assert _makes_patches(layer) and not _makes_patches(torch.nn.Conv2d(3, 5, 4, stride=2))


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS)
def test_a_lowered_tower_gives_what_autocast_gives(tmp_path, tower: str) -> None:
    vision, quick = TOWERS[tower]
    config = CONFIG | {"vision_cfg": vision, "quick_gelu": quick}
    save_file(build_clip(config, seed=2).eval().state_dict(), tmp_path / "clip.safetensors")
    encoder = load_clip("mine", tmp_path / "clip.safetensors", config, allow_download=False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    lowered = encoder.lowered(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lowered.encode_images(pictures()), encoder.encode_images(pictures()))
    assert tower_weight(lowered.model.visual).dtype == torch.bfloat16
    assert lowered.model.transformer is encoder.model.transformer
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
