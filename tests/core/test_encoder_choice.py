"""Which encoders a user gets by name, when they are loaded, and what is said where they do not fit."""

from __future__ import annotations

import pytest
from tiny_networks import tiny_bundle

from oneshot_core.demo.world import demo_encoders, demo_generator
from oneshot_core.encoder_choice import EncoderChoice, encoder_notes
from oneshot_core.features import EncoderError


def test_the_demo_gets_its_own_encoders_and_others_get_the_methods():
    assert EncoderChoice.suited_to(demo_generator()) == EncoderChoice("demo", None, "demo", None)
    assert EncoderChoice.suited_to(tiny_bundle(64)) == EncoderChoice("ViT-B-32-quickgelu", None, "alex", None)


def test_the_demos_encoders_open_without_a_folder_or_the_network():
    encoders = EncoderChoice().open(allow_download=False)
    assert encoders.clip is demo_encoders().clip and encoders.perceptual is demo_encoders().perceptual
    assert (encoders.clip_name, encoders.perceptual_name) == ("demo", "demo")


def test_nothing_is_read_before_its_first_use(tmp_path):
    file = tmp_path / "weights.safetensors"
    encoders = EncoderChoice("ViT-B-32", str(file), "vgg", str(file)).open(tmp_path, allow_download=False)
    assert encoders.clip_name == "ViT-B-32=weights.safetensors"
    with pytest.raises(EncoderError, match="weights.safetensors"):
        _ = encoders.clip
    with pytest.raises(EncoderError, match="weights.safetensors"):
        _ = encoders.perceptual


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"clip": " "}, "got none"),
        ({"clip": "demo", "clip_file": "w.pt"}, "weights of its own"),
        ({"perceptual": "vgg19"}, "got 'vgg19'"),
    ],
)
def test_choices_that_mean_nothing_are_refused(words, message):
    with pytest.raises(EncoderError, match=message):
        EncoderChoice(**words)


def test_the_demos_encoders_on_another_generator_are_pointed_out():
    assert encoder_notes(demo_generator(), "demo", "demo") == []
    assert encoder_notes(tiny_bundle(64), "ViT-B-32:openai", "alex") == []
    clip, perceptual = encoder_notes(tiny_bundle(64), "demo", "demo")
    assert "the demo's CLIP" in clip and "ViT-B-32:openai" in clip
    assert "the demo's perceptual net" in perceptual and "alex" in perceptual
    assert len(encoder_notes(tiny_bundle(64), "ViT-B-32:openai", "demo")) == 1
