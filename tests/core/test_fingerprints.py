"""Fingerprints: what makes two networks of the same tensors different."""

from __future__ import annotations

import torch
from tiny_clip import CONFIG
from tiny_networks import tiny_bundle
from torch import nn

from oneshot_core.features import ClipEncoder, build_clip
from oneshot_core.fingerprints import encoder_fingerprint, network_fingerprint


def test_an_activation_is_part_of_an_encoder():
    """The same weights, read with QuickGELU and with GELU, are two encoders: caches must not mix them."""
    one, same, other = (
        ClipEncoder(build_clip({**CONFIG, "quick_gelu": quick})) for quick in (True, True, False)
    )
    for clip in (same, other):
        clip.load_state_dict(one.state_dict())
    assert encoder_fingerprint(one) == encoder_fingerprint(same) != encoder_fingerprint(other)


def test_heads_and_settings_of_layers_are_part_of_a_network():
    states = nn.MultiheadAttention(8, 2).state_dict()
    prints = set()
    for heads in (2, 4):
        network = nn.MultiheadAttention(8, heads)
        network.load_state_dict(states)
        prints.add(network_fingerprint(network))
    for slope in (0.1, 0.2):
        prints.add(network_fingerprint(nn.Sequential(nn.LeakyReLU(slope))))
    assert len(prints) == 4


def test_it_is_the_same_on_every_copy():
    bundle = tiny_bundle(16)
    first = network_fingerprint(bundle.generator)
    assert network_fingerprint(tiny_bundle(16).generator) == first
    assert network_fingerprint(bundle.to("cpu").generator) == first
    with torch.no_grad():
        bundle.generator.const += 1
    assert network_fingerprint(bundle.generator) != first
