"""Weight files of encoders that people have: other programs', halves, whole states, odd layouts, damage."""

from __future__ import annotations

import json
import logging
import pickle
import re
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import open_clip
import pytest
import torch
from fuzzing import LONG, failures, mutated_json
from safetensors.torch import save_file

from oneshot_core.encoder_choice import EncoderChoice
from oneshot_core.features import (
    EncoderError,
    SmallConfig,
    build_clip,
    load_clip,
    load_perceptual,
    save_perceptual,
)
from oneshot_core.features import small_net as make_small
from oneshot_core.features.perceptual import package_net
from oneshot_core.features.weights import is_torchscript, read_weights

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 12, "width": 16, "heads": 2, "layers": 1},
}


def clip_state() -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in build_clip(CONFIG, seed=3).state_dict().items()}


@pytest.fixture
def tiny_models(monkeypatch):
    """Let every published name stand for the tiny architecture."""
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(CONFIG)))


def transformers(*halves: str) -> dict[str, torch.Tensor]:
    state = {"logit_scale": torch.tensor(4.6)}
    for half in halves:
        state[f"{half}_model.encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(2, 2)
        state[f"{half}_model.embeddings.weight"] = torch.zeros(2, 2)
    return state


def named(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(2, 2) for name in names}


LOOKS = {
    "transformers": (transformers("text", "vision"), "names are those of the transformers package"),
    "its text half": (transformers("text"), r"only the text half.*picture half \(vision\) is missing"),
    "its picture half": (transformers("vision"), "only the picture half.*text half is missing.*transformers"),
    "open_clip's text half": (named("token_embedding.weight", "ln_final.weight"), "text half"),
    "open_clip's picture half": (named("visual.transformer.resblocks.0.ln_1.weight"), "the picture half"),
    "SigLIP": (named("vision_model.head.probe", "vision_model.embeddings.weight"), "SigLIP"),
    "SigLIP of open_clip": (named("visual.trunk.attn_pool.latent", "text.token_embedding.weight"), "SigLIP"),
    "EVA": (named("visual.blocks.0.attn.q_bias", "text.token_embedding.weight"), "EVA"),
    "DINOv2": (named("cls_token", "blocks.0.ls1.gamma"), "DINOv2"),
    "T5": (named("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"), "T5"),
    "a diffusion checkpoint": (named("model.diffusion_model.input_blocks.0.0.weight"), "diffusion"),
    "a VAE": (named("decoder.up_blocks.0.resnets.0.conv1.weight"), "VAE"),
    "a ResNet CLIP": (named("visual.layer1.0.conv1.weight", "token_embedding.weight"), "ResNet.*RN50"),
    "another size": ({"visual.conv1.weight": torch.zeros(1, 1, 1, 1).expand(1024, 3, 14, 14).clone(),
                      "token_embedding.weight": torch.zeros(2, 2)}, "looks like ViT-L-14"),
    "Long-CLIP": (named("positional_embedding_res"), "Long-CLIP.*context 248"),
    "a generator": (named("convs.0.conv.modulation.weight"), "StyleGAN2 generator"),
    "a LoRA": (named("text.lora_up.weight"), "LoRA"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "words"), LOOKS.values(), ids=LOOKS)
def test_what_does_not_fit_clip_is_named(tmp_path, tiny_models, state, words):
    save_file(state, tmp_path / "clip.dat")
    with pytest.raises(EncoderError, match=f"does not fit .*{words}"):
        load_clip("ViT-B-32:openai", tmp_path / "clip.dat")


def vgg() -> dict[str, torch.Tensor]:
    """A VGG16 of equal numbers without memory of their own, under torchvision's names."""
    shapes = package_net("vgg").backbone.state_dict()
    return {f"features.{key.partition('.')[2]}": torch.full((1,) * value.ndim, 0.01).expand(value.shape)
            for key, value in shapes.items()}  # fmt: skip


def whole_lpips(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    places = package_net("vgg").backbone.state_dict()
    state = {
        f"net.{key}": torch.full((1,) * value.ndim, 0.01).expand(value.shape) for key, value in places.items()
    }
    for index, count in enumerate((64, 128, 256, 512, 512)):
        state[f"lin{index}.model.1.weight"] = torch.full((1, count, 1, 1), index + 1.0)
        state[f"lins.{index}.model.1.weight"] = state[f"lin{index}.model.1.weight"]
    state["scaling_layer.shift"] = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    state["scaling_layer.scale"] = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    return OrderedDict(state | changes)


def test_a_whole_lpips_state_brings_its_heads_and_scaling(tmp_path):
    torch.save(whole_lpips(), tmp_path / "lpips.pth")
    torch.save(vgg(), tmp_path / "vgg16.pth")
    whole, plain = (
        load_perceptual("vgg", tmp_path / "lpips.pth"),
        load_perceptual("vgg", tmp_path / "vgg16.pth"),
    )
    assert [float(head.max()) for head in whole.heads] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert whole.shift.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert whole.scale.flatten().tolist() == [1.0, 2.0, 3.0]
    for key, value in plain.backbone.state_dict().items():
        assert torch.equal(whole.backbone.state_dict()[key], value)
    assert not any(value.requires_grad for value in whole.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lin0.model.1.weight": torch.ones(1, 9, 1, 1), "lins.0.model.1.weight": torch.ones(1, 9, 1, 1)},
         "whole LPIPS module.*heads"),
        ({"lins.0.model.1.weight": -torch.ones(1, 64, 1, 1)}, "negative heads"),
        ({"scaling_layer.scale": torch.zeros(1, 3, 1, 1)}, "scaling layer"),
        ({"scaling_layer.shift": torch.full((1, 3, 1, 1), torch.nan)}, "scaling layer"),
        ({"net.slice1.0.weight": torch.full((64, 3, 3, 3), torch.inf)}, r"slice1\.0\.weight is not made"),
    ],
)  # fmt: skip
def test_unsound_whole_states_are_refused(tmp_path, changes, words):
    torch.save(whole_lpips(**changes), tmp_path / "lpips.pth")
    with pytest.raises(EncoderError, match=words):
        load_perceptual("vgg", tmp_path / "lpips.pth")


def test_heads_and_other_backbones_are_named(tmp_path):
    heads = {f"lin{index}.model.1.weight": torch.ones(1, 64, 1, 1) for index in range(5)}
    for state, words in (
        (heads, r"only the heads of LPIPS \(its linear layers\).*backbone"),
        ({"features.0.weight": torch.zeros(64, 3, 11, 11)}, r"holds AlexNet \(alex\)"),
        ({"features.34.weight": torch.zeros(2, 2)}, "VGG19"),
        ({"features.1.running_mean": torch.zeros(2, 2)}, "batch normalisation"),
        ({"layer1.0.conv1.weight": torch.zeros(2, 2)}, "ResNet"),
    ):
        torch.save(state, tmp_path / "vgg16.pth")
        with pytest.raises(EncoderError, match=words):
            load_perceptual("vgg", tmp_path / "vgg16.pth")


class Network:
    """Pickled as a class of the TensorFlow programs."""

    __module__, __qualname__ = "dnnlib.tflib.network", "Network"

    def __reduce__(self):
        return (Network, ())


def tensorflow_pickle(monkeypatch) -> bytes:
    import sys
    import types

    for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["dnnlib.tflib.network"].Network = Network
    return pickle.dumps(Network())


def test_other_containers_are_named(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    for data, words in (
        (tensorflow_pickle(monkeypatch), r"TensorFlow pickle.*vgg16_zhang_perceptual"),
        (pickle.dumps({"a": 1}), "is a pickle"),
        (b"<html></html>", r"web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(5000), "all zeros"),
        (b"\x1f\x8b\x08\0" + bytes(90), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
        (b"GGUF\3\0\0\0" + bytes(90), "GGUF"),
        (b"", "empty"),
    ):
        path.write_bytes(data)
        with pytest.raises(EncoderError, match=words) as caught:
            read_weights(path)
        assert not re.search(r"Record|b'|\n", str(caught.value))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vgg16.pth", b"1")
    with pytest.raises(EncoderError, match=r"zip archive that contains vgg16\.pth.*unpack"):
        read_weights(path)


def test_the_content_decides_not_the_suffix(tmp_path):
    save_file({"module.a": torch.zeros(2, 2)}, tmp_path / "weights.pt")
    torch.save({"state_dict": {"a": torch.zeros(2, 2)}, "epoch": 3}, tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        assert list(read_weights(tmp_path / name)) == ["a"]


def test_a_file_without_a_tag_says_which_activation_is_assumed(tmp_path, tiny_models, caplog):
    save_file(clip_state(), tmp_path / "laion.pt")
    with caplog.at_level(logging.WARNING):
        load_clip("ViT-B-32-quickgelu", tmp_path / "laion.pt")
    assert re.search(r"with QuickGELU, as OpenAI's.*LAION's.*--clip ViT-B-32:TAG=FILE", caplog.text)
    caplog.clear()
    load_clip("ViT-B-32:laion2b_s34b_b79k", tmp_path / "laion.pt")
    assert not caplog.text


def test_a_choice_says_what_its_tag_means_for_a_file():
    (quick,) = EncoderChoice("ViT-B-32:openai", "/folder/file.pt").notes()
    (plain,) = EncoderChoice("ViT-B-32:laion2b_s34b_b79k", "/folder/file.pt").notes()
    assert "file.pt is read as ViT-B-32 with QuickGELU" in quick and "/folder" not in quick
    assert "file.pt is read as ViT-B-32 with GELU" in plain
    assert EncoderChoice("ViT-B-32:openai").notes() == EncoderChoice().notes() == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, tiny_models, value):
    state = clip_state()
    state["text_projection"][1, 1] = value
    save_file(state, tmp_path / "clip.safetensors")
    with pytest.raises(EncoderError, match="text_projection is not made of finite numbers"):
        load_clip("ViT-B-32:openai", tmp_path / "clip.safetensors")


def headed(path: Path, header: object, **tensors: torch.Tensor) -> Path:
    save_file(tensors or {"x": torch.zeros(1)}, path, metadata={"oneshot": json.dumps(header)})
    return path


def layout(widths: object) -> dict[str, object]:
    return {"format": "oneshot-perceptual", "format_version": 1, "config": {"widths": widths}}


@pytest.mark.parametrize(
    "widths",
    [[12000, 12000], [4000] * 12, [8] * 5000, [1e9], [-1], [True], ["8"], [], "8", None, {"a": 1}, [10**400]],
)
def test_perceptual_layouts_are_bounded_before_anything_is_built(tmp_path, widths):
    path = headed(tmp_path / "net.safetensors", layout(widths))
    began = time.process_time()
    with pytest.raises(EncoderError, match="layout"):
        load_perceptual("demo", path)
    assert time.process_time() - began < 1


BOMBS = {
    "embed_dim": 10**9,
    "vision_cfg.layers": 10**6,
    "vision_cfg.width": 10**6,
    "vision_cfg.image_size": 10**5,
    "vision_cfg.patch_size": 0,
    "vision_cfg.mlp_ratio": 1e9,
    "text_cfg.context_length": 10**8,
    "text_cfg.vocab_size": 10**9,
    "text_cfg.layers": 100,  # within the bounds, but not in the file
    "text_cfg.width": 8192,
    "text_cfg.heads": 10**9,
}


@pytest.mark.parametrize(("name", "value"), BOMBS.items())
def test_clip_configurations_are_bounded_before_anything_is_built(tmp_path, name, value):
    save_file({"x": torch.zeros(1)}, tmp_path / "clip.safetensors")
    config = json.loads(json.dumps(CONFIG)) | {"text_cfg": {**CONFIG["text_cfg"], "width": 2048}}
    part, _, key = name.rpartition(".")
    (config[part] if part else config)[key] = value
    began = time.process_time()
    with pytest.raises(EncoderError, match=rf"configuration.*({key}|weights)"):
        load_clip("own", tmp_path / "clip.safetensors", config)
    assert time.process_time() - began < 1


@pytest.mark.slow
def test_odd_headers_and_configurations_end_in_one_kind_of_error(tmp_path):
    net, weights = tmp_path / "net", tmp_path / "clip.safetensors"
    tensors = {key: value.clone() for key, value in make_small(SmallConfig((4, 4))).state_dict().items()}
    save_file(clip_state(), weights)
    whole = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
             "tokenizer": {"words": ["a", "face"]}}  # fmt: skip
    found = []
    for seed in range(250):
        headed(net, mutated_json(layout([4, 4]), seed), **tensors)
        (tmp_path / "clip.json").write_text(json.dumps(mutated_json(whole, seed)))
        for read in (
            lambda: load_perceptual("demo", net),
            lambda: load_clip(
                "own", tmp_path / "clip.safetensors", tmp_path / "clip.json", allow_download=False
            ),
        ):
            try:
                read()
            except EncoderError:
                continue
            except Exception as error:  # noqa: BLE001 - whatever else comes out is what the test looks for
                found.append(f"{seed}: {type(error).__name__}: {str(error)[:200]}")
    assert found == []


def sound(kind: str, folder: Path):
    """A small file and its reader."""
    path = folder / "sound"
    if kind == "perceptual":
        save_perceptual(make_small(SmallConfig((4, 4))), path)
        return path.read_bytes(), lambda p: load_perceptual("demo", p)
    state = clip_state()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 1}, path, _use_new_zipfile_serialization=kind == "pt")
    return path.read_bytes(), lambda p: load_clip("own", p, CONFIG, allow_download=False)


KINDS = ("perceptual", "safetensors", "pt", "older pt")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_weights_end_in_one_kind_of_error(tmp_path, kind):
    data, read = sound(kind, tmp_path)
    for head in (600, None):
        assert list(failures(read, data, tmp_path / "weights", range(60), (EncoderError,), head)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_weights_end_in_one_kind_of_error(tmp_path, kind):
    data, read = sound(kind, tmp_path)
    for head in (600, None):
        assert list(failures(read, data, tmp_path / "weights", LONG, (EncoderError,), head)) == []


def test_damaged_archives_are_never_taken_for_programs(tmp_path):
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/code/__torch__.py", "")
        archive.writestr("m/constants.pkl", b"")
    assert is_torchscript(path)
    assert list(failures(is_torchscript, path.read_bytes(), path, range(400), ())) == []
