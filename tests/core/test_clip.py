"""CLIP: the method's preprocessing, frozen encoders, and finding the right weights or saying why not."""

from __future__ import annotations

import hashlib
import json
import socket
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from file_server import serving
from safetensors.torch import save_file
from tiny_clip import CONFIG, pictures

from oneshot_core.features import (
    ClipEncoder,
    ClipPreprocess,
    EncoderError,
    WordTokenizer,
    build_clip,
    clip,
    load_clip,
)
from oneshot_core.features import preprocess as prepared
from oneshot_core.features.weights import clip_source

WORDS = ["a", "face", "with", "hat"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forbid every connection and empty the caches that a developer's machine may have."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every published name stand for the tiny architecture (with ordinary GELU)."""
    plain = json.loads(json.dumps(CONFIG)) | {"quick_gelu": False}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(plain)))


def tiny_file(path: Path, **changes: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in build_clip(CONFIG, seed=3).state_dict().items()}
    save_file(state | changes, path)
    return path


# Preprocessing


def cubic(x: torch.Tensor, a: float = -0.75) -> torch.Tensor:
    x = x.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize_matrix(source: int, target: int) -> torch.Tensor:
    """Bicubic weights written from the definition: half-pixel centres, four taps, borders repeated."""
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for tap in range(-1, 3):
        index = centre.floor() + tap
        column = index.clamp(0, source - 1).long()[:, None]
        matrix.scatter_add_(1, column, cubic(centre - index)[:, None])
    return matrix


@pytest.mark.parametrize(("height", "width"), [(128, 128), (300, 300), (96, 250)])
def test_preprocess_is_the_methods(height, width):
    images = torch.randn(2, 3, height, width, dtype=torch.float64) * 1.5  # far outside [-1, 1]
    rows, columns = resize_matrix(height, 224), resize_matrix(width, 224)
    resized = rows @ (0.5 * images + 0.5) @ columns.T
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(ClipPreprocess()(images), (resized - mean) / std, rtol=0, atol=1e-11)


def test_preprocess_flags_and_antialias_option():
    images = pictures(size=300)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (clip.OPENAI_MEAN, clip.OPENAI_STD))
    for antialias in (False, True):
        resized = F.interpolate(
            images * 0.5 + 0.5, (224, 224), mode="bicubic", align_corners=False, antialias=antialias
        )
        found = ClipPreprocess(antialias=antialias)(images)
        torch.testing.assert_close(found, (resized - mean) / std)
    assert not torch.allclose(ClipPreprocess()(images), ClipPreprocess(antialias=True)(images), atol=0.1)


def test_equal_size_is_identity_and_nothing_is_clamped():
    images = torch.linspace(-3, 3, 3 * 224 * 224).view(1, 3, 224, 224)
    plain = ClipPreprocess(mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(plain(images), images * 0.5 + 0.5)
    resized = F.interpolate(images * 0.5 + 0.5, (224, 224), mode="bicubic", align_corners=False)
    assert torch.equal(plain(images), resized)  # skipping the resize changes no bit
    assert plain(images).min() < -0.9 and plain(images).max() > 1.9


def test_preprocess_options_are_checked_and_dtype_is_owned():
    assert ClipPreprocess(dtype=torch.float64)(pictures()).dtype == torch.float64
    assert ClipPreprocess()(pictures(dtype=torch.float64)).dtype == torch.float64
    unit_range = ClipPreprocess(value_range=(0.0, 1.0))
    torch.testing.assert_close(unit_range(pictures() * 0.5 + 0.5), ClipPreprocess()(pictures()))
    for bad in ({"interpolation": "nearest"}, {"image_size": 0}, {"std": (1, 1, 0)}, {"value_range": (1, 1)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ClipPreprocess(**bad)
    with pytest.raises(ValueError, match=r"\[any, 3, any, any\]"):
        ClipPreprocess()(torch.zeros(2, 4, 32, 32))


def test_preprocess_constants_made_in_inference_mode_serve_training():
    prepared._channels.cache_clear()
    images = pictures()
    with torch.inference_mode():
        ClipPreprocess()(images)
    images.requires_grad_()
    ClipPreprocess()(images).sum().backward()
    assert images.grad is not None


# Encoder


def test_features_are_unit_and_gradient_reaches_the_pictures_only():
    encoder = ClipEncoder(build_clip(CONFIG))
    images = pictures(3, 50).requires_grad_()
    features = encoder.encode_images(images)
    assert features.shape == (3, 16) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    features[:, 0].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(not weight.requires_grad and weight.grad is None for weight in encoder.parameters())
    assert not encoder.train().model.training  # stays in evaluation whatever is called around it


def test_length_first_order_changes_no_feature():
    model = build_clip(CONFIG).double().eval()
    images = pictures(2, 32, torch.float64)
    before = F.normalize(model.encode_image(ClipPreprocess(32)(images)), dim=-1)
    encoder = ClipEncoder(model)
    assert not model.visual.transformer.batch_first
    torch.testing.assert_close(encoder.encode_images(images), before, rtol=0, atol=1e-12)


def test_no_projection_of_a_frozen_clip_is_a_batched_product():
    encoder = ClipEncoder(build_clip(CONFIG))
    images = pictures().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        encoder.encode_images(images).sum().backward()
    assert "aten::linear" in {event.key for event in profile.key_averages()}
    assert "aten::bmm" not in {event.key for event in profile.key_averages()}


def test_precision_follows_the_model_and_features_are_normalised_wide():
    assert ClipEncoder(build_clip(CONFIG).double()).encode_images(pictures()).dtype == torch.float64
    half = ClipEncoder(build_clip(CONFIG).bfloat16())
    features = half.encode_images(pictures())
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)


def test_text_features_and_the_word_tokenizer():
    tokenizer = WordTokenizer(WORDS, 8)
    tokens = tokenizer(["A face, with HAT!", "a zebra", " ".join(["face"] * 20)])
    assert tokens[0].tolist() == [6, 1, 2, 3, 4, 7, 0, 0]
    assert tokens[1].tolist() == [6, 1, 5, 7, 0, 0, 0, 0]
    assert tokens[2].tolist() == [6, 2, 2, 2, 2, 2, 2, 7]
    encoder = ClipEncoder(build_clip(CONFIG), tokenizer=tokenizer)
    features = encoder.encode_text(["a face", "a hat"])
    assert features.shape == (2, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(encoder.encode_text("a face"), features[:1])
    with pytest.raises(EncoderError, match="no tokenizer"):
        ClipEncoder(build_clip(CONFIG)).encode_text(["a face"])


def test_building_is_seeded_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second, other = build_clip(CONFIG, 1), build_clip(CONFIG, 1), build_clip(CONFIG, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.visual.conv1.weight, second.visual.conv1.weight)
    assert not torch.equal(first.visual.conv1.weight, other.visual.conv1.weight)
    assert all(weight.requires_grad for weight in first.parameters())


@pytest.mark.parametrize("change", [{"text_cfg": None}, {"bogus": 1}, {"vision_cfg": {"bogus": 1}}])
def test_wrong_configurations_are_refused(change):
    config = {key: value for key, value in (CONFIG | change).items() if value is not None}
    with pytest.raises(EncoderError, match="text_cfg|bogus"):
        build_clip(config)


# Loading


@pytest.mark.parametrize(
    ("name", "quick"),
    [
        ("ViT-B-32", True),
        ("ViT-B/32", True),
        ("ViT-B-32-quickgelu", True),
        ("ViT-B-32:openai", True),
        ("ViT-B-16", True),
        ("ViT-B/16", True),
        ("ViT-B-16-quickgelu", True),
        ("ViT-L/14@336px", True),
        ("ViT-B-32:laion2b_s34b_b79k", False),
    ],
)
def test_openai_weights_mean_quickgelu_whatever_the_name(name, quick):
    config = clip._published_plan(name, own_file=False).config
    with torch.device("meta"):
        model = build_clip(config)
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    kinds = {type(block.mlp.gelu).__name__ for block in blocks}
    assert kinds == ({"QuickGELU"} if quick else {"GELU"})


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B/32", "ViT-B-32-quickgelu"])
def test_a_local_file_under_any_spelling_gives_equal_features(name, tmp_path, tiny_models, no_network):
    path = tiny_file(tmp_path / "own.safetensors")
    encoder = load_clip(name, weights=path, allow_download=False)
    reference = ClipEncoder(build_clip(CONFIG, seed=3))  # CONFIG says QuickGELU
    found, wanted = (one.encode_images(pictures()) for one in (encoder, reference))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # GELU's would be 1e-3 away
    assert encoder.preprocess == ClipPreprocess(32)
    assert load_clip(name, weights=path, antialias=True).preprocess.antialias


def test_unknown_names_and_tags_name_the_choices():
    with pytest.raises(EncoderError, match=r"ViT-B-33.*ViT-B-32"):
        load_clip("ViT-B-33")
    with pytest.raises(EncoderError, match=r"no weights 'nonsense'.*openai.*laion2b"):
        load_clip("ViT-B-32:nonsense")
    with pytest.raises(EncoderError, match=r"ViT-g-14:TAG.*laion2b"):
        load_clip("ViT-g-14")


def test_missing_weights_say_file_places_and_origin(tmp_path, no_network):
    with pytest.raises(EncoderError) as caught:
        load_clip("ViT-B/32", folder=tmp_path / "mine", allow_download=False)
    text = str(caught.value)
    for part in (
        "ViT-B-32 (tag openai)",
        "open_clip_model.safetensors from timm/vit_base_patch32_clip_224.openai on the Hugging Face hub",
        str(tmp_path / "mine"),
        str(tmp_path / "hub"),
        "downloads are switched off",
        "ViT-B-32-openai.safetensors",
    ):
        assert part in text


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve files as the hub does, to a machine with empty caches."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


REPOSITORY = "timm/vit_base_patch32_clip_224.openai"


def publish(hub, repository: str, name: str, data: bytes) -> None:
    path = f"/{repository}/resolve/main/{name}"
    hub.files[path] = data
    digest = hashlib.sha256(data).hexdigest()
    hub.headers[path] = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}


def test_a_download_goes_into_the_folder_and_is_found_there(tmp_path, tiny_models, hub):
    data = tiny_file(tmp_path / "published.safetensors").read_bytes()
    publish(hub, REPOSITORY, "open_clip_model.safetensors", data)
    seen: list[tuple[int, int | None]] = []
    first = load_clip("ViT-B-32", folder=tmp_path / "mine", progress=lambda *at: seen.append(at))
    assert seen[-1] == (len(data), len(data))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["ViT-B-32-openai.safetensors"]
    assert not (tmp_path / "hub").exists() and not (tmp_path / "home").exists()
    second = load_clip("ViT-B-32", folder=tmp_path / "mine", allow_download=False)
    assert len(hub.asked) == 1
    assert torch.equal(first.model.visual.proj, second.model.visual.proj)
    load_clip("ViT-B-32")
    assert (tmp_path / "home" / ".cache" / "clip" / "ViT-B-32-openai.safetensors").is_file()


def test_a_repository_without_safetensors_gives_its_other_file(tmp_path, tiny_models, hub):
    torch.save(build_clip(CONFIG, seed=3).state_dict(), tmp_path / "published.bin")
    data = (tmp_path / "published.bin").read_bytes()
    publish(hub, REPOSITORY, "open_clip_pytorch_model.bin", data)
    load_clip("ViT-B-32", folder=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["ViT-B-32-openai.bin"]
    load_clip("ViT-B-32", folder=tmp_path / "mine", allow_download=False)


def test_failed_download_says_file_places_and_reason(tmp_path, hub, monkeypatch):
    for reason in ("answered 404", "wanted 0000", "HF_HUB_OFFLINE"):
        with pytest.raises(
            EncoderError, match=rf"{reason}.*{REPOSITORY}.*put it as ViT-B-32-quickgelu-openai"
        ):
            load_clip("ViT-B-32-quickgelu", folder=tmp_path / "mine")
        publish(hub, REPOSITORY, "open_clip_model.safetensors", b"bytes")
        hub.headers[next(iter(hub.files))] = {"X-Linked-Etag": "0" * 64}
        if reason == "wanted 0000":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not list((tmp_path / "mine").iterdir())


def test_files_of_plain_addresses_are_checked_by_the_hash_inside_the_address(tmp_path, hub):
    data = b"weights"
    digest = hashlib.sha256(data).hexdigest()
    for path, known in (
        (f"/mlfoundations/vit-{digest[:8]}.pt", digest[:8]),
        (f"/openaipublic/clip/{digest}/vit.pt", digest),
        ("/elsewhere/vit-20240131.pt", ""),
    ):
        hub.files[path] = data
        source = clip_source("vit", "own", {"url": f"{hub.url}{path}"})
        assert source.sha256 == known
        place = tmp_path / path.split("/")[1]
        assert source.locate(place, allow_download=True) == place / Path(path).name
    hub.files[path := "/mlfoundations/vit-00000000.pt"] = data
    with pytest.raises(EncoderError, match="wanted 00000000"):
        clip_source("vit", "own", {"url": f"{hub.url}{path}"}).locate(tmp_path / "new", allow_download=True)


def test_a_borrowed_text_tower_has_its_layout_in_the_folder(tmp_path, hub):
    layout = json.dumps({"model_type": "xlm-roberta"}).encode()
    hub.files["/xlm-roberta-base/resolve/main/config.json"] = layout
    plan = clip._published_plan("xlm-roberta-base-ViT-B-32", own_file=False)
    with pytest.raises(EncoderError, match="no layout of the text tower xlm-roberta-base.*switched off"):
        load_clip("xlm-roberta-base-ViT-B-32", folder=tmp_path / "mine", allow_download=False)
    for allow in (True, False):
        local = clip._with_text_layout(plan, tmp_path / "mine", allow, None)
        assert local.config["text_cfg"]["hf_model_name"] == str(tmp_path / "mine" / "xlm-roberta-base")
    assert (tmp_path / "mine" / "xlm-roberta-base" / "config.json").read_bytes() == layout
    assert plan.config["text_cfg"]["hf_model_name"] == "xlm-roberta-base"
    assert clip._with_text_layout(local, None, False, None) is local


def hub_copy(root: Path, repository: str, name: str) -> Path:
    """Write a file as the hub's cache keeps it."""
    folder = root / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    return tiny_file(folder / "snapshots" / "abc" / name)


def test_search_order(tmp_path, tiny_models, no_network, monkeypatch):
    opened: list[Path] = []
    read = clip.read_weights
    monkeypatch.setattr(clip, "read_weights", lambda path: opened.append(path) or read(path))

    usual = hub_copy(tmp_path / "hub", REPOSITORY, "open_clip_model.safetensors")
    load_clip("ViT-B-32", folder=tmp_path / "mine")
    assert opened.pop() == usual
    plain = tiny_file(tmp_path / "mine" / "ViT-B-32-openai.safetensors")
    load_clip("ViT-B-32", folder=tmp_path / "mine")
    assert opened.pop() == plain
    own = hub_copy(tmp_path / "mine", REPOSITORY, "open_clip_model.safetensors")
    load_clip("ViT-B-32", folder=tmp_path / "mine")
    assert opened.pop() == own
    given = tiny_file(tmp_path / "given.safetensors")
    load_clip("ViT-B-32", weights=given, folder=tmp_path / "mine")
    assert opened.pop() == given


def test_keys_are_strict(tmp_path, tiny_models):
    state = {key: value.contiguous() for key, value in build_clip(CONFIG).state_dict().items()}
    del state["visual.proj"]
    state["visual.extra"] = torch.zeros(1)
    state["visual.conv1.weight"] = torch.zeros(32, 3, 8, 8)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(EncoderError) as caught:
        load_clip("ViT-B-32", weights=tmp_path / "wrong.safetensors")
    text = str(caught.value)
    assert "wrong.safetensors" in text
    assert "1 missing (visual.proj)" in text
    assert "1 unexpected (visual.extra)" in text
    assert "visual.conv1.weight [32, 3, 8, 8] instead of [32, 3, 16, 16]" in text


def test_files_of_the_transformers_package_get_a_hint(tmp_path, tiny_models):
    save_file({"vision_model.embeddings.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match="transformers package"):
        load_clip("ViT-B-32", weights=tmp_path / "model.safetensors")


def test_torch_files_are_read_safely(tmp_path, tiny_models):
    state = build_clip(CONFIG, seed=3).half().state_dict()
    extras = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8)}
    nested = {"state_dict": {f"module.{key}": value for key, value in (state | extras).items()}}
    torch.save(nested | {"epoch": 3}, tmp_path / "own.pt")
    encoder = load_clip("ViT-B-32", weights=tmp_path / "own.pt")
    assert encoder.dtype == torch.float32
    assert torch.equal(encoder.model.visual.proj, state["visual.proj"].float())


def test_torchscript_and_damaged_files_are_refused(tmp_path, tiny_models, no_network):
    archive = tmp_path / "ViT-B-32.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model/code/__torch__.py", "")
        file.writestr("model/constants.pkl", b"")
    for options in ({"weights": archive}, {"folder": tmp_path, "allow_download": False}):
        with pytest.raises(EncoderError, match=r"TorchScript archive.*torch\.jit\.load"):
            load_clip("ViT-B-32", **options)
    tiny_file(tmp_path / "ViT-B-32.safetensors")  # where the advice puts the converted file
    load_clip("ViT-B-32", folder=tmp_path, allow_download=False)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((9).to_bytes(8, "little") + b'{"a": 1.' + bytes(9))
    with pytest.raises(EncoderError, match=r"not a readable safetensors"):
        load_clip("ViT-B-32", weights=damaged)
    torch.save({"a": torch.zeros(9)}, tmp_path / "damaged.pt")
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "damaged.pt").read_bytes()[:-200])
    with pytest.raises(EncoderError, match=r"damaged\.pt could not be read"):
        load_clip("ViT-B-32", weights=tmp_path / "damaged.pt")
    with pytest.raises(EncoderError, match="there is no weights file"):
        load_clip("ViT-B-32", weights=tmp_path / "absent.pt")


def test_custom_configuration_with_words(tmp_path, no_network):
    path = tiny_file(tmp_path / "clip.safetensors")
    whole = {
        "model_cfg": CONFIG,
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "tokenizer": {"words": WORDS},
    }
    (tmp_path / "clip.json").write_text(json.dumps(whole))
    for config in (tmp_path / "clip.json", whole, CONFIG | {"tokenizer": {"words": WORDS}}):
        encoder = load_clip("demo", weights=path, config=config, allow_download=False)
        assert encoder.name == "demo" and encoder.encode_text(["a hat"]).shape == (1, 16)
    assert load_clip("demo", path, whole).preprocess.mean == (0.5, 0.5, 0.5)
    assert load_clip("demo", path, CONFIG).tokenizer is None  # too few words for CLIP's own vocabulary
    with pytest.raises(EncoderError, match="needs its own weights"):
        load_clip("demo", config=CONFIG)
    with pytest.raises(EncoderError, match="vocab_size 104"):
        load_clip("demo", path, CONFIG | {"tokenizer": {"words": [f"w{n}" for n in range(100)]}})
    with pytest.raises(EncoderError, match="not a readable JSON file"):
        load_clip("demo", path, tmp_path / "absent.json")


def test_published_models_use_their_own_tokenizer_and_numbers(tmp_path, no_network):
    plan = clip._published_plan("ViT-B-32", own_file=False)
    tokens = clip._tokenizer(plan, None, allow_download=False)(["a face"])
    assert tokens.shape == (1, 77) and tokens.max() == 49407
    siglip = clip._published_plan("ViT-B-16-SigLIP", own_file=False)
    assert siglip.tag == "webli" and siglip.mean == (0.5, 0.5, 0.5) and "quick_gelu" not in siglip.config


def test_loading_inside_inference_mode_gives_ordinary_weights(tmp_path, tiny_models):
    path = tiny_file(tmp_path / "own.safetensors")
    with torch.inference_mode():
        encoder = load_clip("ViT-B-32", weights=path)
    images = pictures().requires_grad_()
    encoder.encode_images(images).sum().backward()
    assert images.grad is not None
