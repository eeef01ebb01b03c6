"""Losses, gradients and features of the other methods' programs against their recordings, term by term.

Fixtures: tests/golden_methods, or the folder that ONESHOT_GOLDEN_METHODS names (its README, sections 2 to 4).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_methods_support import FOLDER, LOSS, Trace, clip_of, has, hashed_tokens, read, tensors
from golden_perceptual import recorded_net
from PIL import Image
from torch import Tensor

from oneshot_core.draws import RecordedDraws
from oneshot_core.features import Encoders
from oneshot_core.features.preprocess import ClipPreprocess
from oneshot_core.features.prompts import BARE, PARTS, TEMPLATES, mean_difference, prompted, templates_for
from oneshot_core.networks import Generator
from oneshot_core.objective import (
    Aim,
    AimFeatures,
    Anchors,
    Objective,
    StepContext,
    StepDraws,
    View,
    WeightedTerm,
)
from oneshot_core.objective.adversarial import path_length_penalty
from oneshot_core.objective.aim import picture_direction
from oneshot_core.objective.batches import CodeRequest
from oneshot_core.objective.directions import (
    Across,
    Directional,
    GlobalText,
    Manifold,
    PatchDirectional,
    Texture,
    Within,
)
from oneshot_core.objective.relations import DistanceConsistency
from oneshot_core.objective.rivals import stylegan_nada
from oneshot_core.objective.terms import ClipSimilarity, Lpips, PixelMse
from oneshot_core.objective.trainable import PHASES, Trainable
from oneshot_core.resampling import bicubic_taps, downsample, reduced_picture

pytestmark = pytest.mark.golden
GRADIENT = 1e-7  # of the largest entry
DTYPES = {"f64": torch.float64, "f32": torch.float32}


def fixture(name: str, key: str) -> list[dict[str, Any]]:
    return read(name)[key] if has(f"{name}.json") else []


def ids(case: dict[str, Any]) -> str:
    return str(case["key"])


def context(
    aim: Aim, encoders: Encoders, views: dict[str, View], draws: dict[str, Tensor] | None = None
) -> StepContext:
    table = {(0, name): value for name, value in (draws or {}).items()}
    return StepContext(
        AimFeatures(aim, encoders), views, StepDraws(RecordedDraws(table), 0), encoder(encoders)
    )


def encoder(encoders: Encoders) -> Any:
    return lambda index, images: encoders.clips[index][0].encode_images(images)


def close_gradient(loss: Tensor, images: Tensor, recorded: Tensor, place: str) -> None:
    (found,) = torch.autograd.grad(loss, images)
    worst = (found.double() - recorded.double()).abs().max()
    assert worst <= GRADIENT * recorded.abs().max(), place


# StyleGAN-NADA ------------------------------------------------------------------------------------------


def nada_encoders(models: dict[str, float], antialias: bool, dtype: torch.dtype = torch.float64) -> Encoders:
    meta = read("nada_losses")["meta"]
    clips = [
        (clip_of(meta["clip_models"][name], meta["clip_seed"], antialias, dtype), weight)
        for name, weight in models.items()
    ]
    return Encoders(tuple(clips), None)


def nada_aim(case: dict[str, Any], recorded: dict[str, Tensor], dtype: torch.dtype) -> Aim:
    meta = read("nada_losses")["meta"]
    told = {"source_text": meta["source_class"], "target_texts": (meta["target_class"],)}
    if case.get("target_direction") == "in.given_direction":
        told["directions"] = (recorded["in.given_direction"][0].to(dtype),)
    targets = (
        recorded["in.texture"].to(dtype) if "texture" in case["key"] + str(case.get("lambdas")) else None
    )
    return Aim(targets, **told)


def nada_objective(case: dict[str, Any]) -> tuple[Objective, dict[str, Tensor]]:
    """The objective of a case, and the draws that it needs."""
    kind = case["term"].split(":")[0].split(",")[0].split(";")[0]
    direction = Directional(0.0, pictures=False, nudges=True)
    if case.get("target_direction") == "in.given_direction":
        direction = Directional(0.0, nudges=True)
    if "lambdas" in case:
        weights = {name.removeprefix("lambda_"): value for name, value in case["lambdas"].items()}
        terms = {"direction": direction, "global": GlobalText(), "manifold": Manifold(), "texture": Texture()}
        # Each of the published models has a texture encoder of its own, the same in all.
        weights["texture"] = weights.get("texture", 0.0) * sum(case["model_weights"])
        return Objective(tuple(WeightedTerm(n, terms[n], w) for n, w in weights.items())), {}
    draws: dict[str, Tensor] = {}
    if kind == "patch directional":
        half = case["patch_size"] // 2
        draws["part_crops"] = torch.tensor(case["patch_centers_xy"]) - half
        term: Any = PatchDirectional(case["patch_size"])
    else:
        term = {
            "directional": direction, "global CLIP": GlobalText(), "manifold": Manifold(),
            "texture": Texture(),
        }[kind]  # fmt: skip
    return Objective((WeightedTerm("term", term, 1.0),)), draws


@pytest.mark.parametrize("width", ["f64", "f32"])
@pytest.mark.parametrize("case", fixture("nada_losses", "cases"), ids=ids)
def test_nada_losses_and_gradients(case: dict[str, Any], width: str) -> None:
    if f"loss.{width}" not in case:
        pytest.skip("recorded in the other precision alone")
    recorded, dtype = tensors("nada_losses"), DTYPES[width]
    models = dict(
        zip(case.get("clip_models", [case.get("clip_model")]), case.get("model_weights", [1.0]), strict=True)
    )
    if "lambdas" in case:
        models["RN50"] = 0.0  # only for the term that names it
    encoders = nada_encoders(models, case["antialias"], dtype)
    identical = "identical" in case["term"]
    if identical and float(recorded[f"{case['key']}.out.grad.f64"].abs().max()) > 1e9:
        # Its gradient says that the change had a length of about 6e-16: what is recorded is the direction in
        # which the recording's own rounding erred, not that of a nudge, which changes features by 1e-6.
        pytest.skip("the recorded change is rounding noise")
    source = recorded["in.src"].to(dtype)
    adapted = (source if identical else recorded["in.tgt"].to(dtype)).clone().requires_grad_(True)
    objective, draws = nada_objective(case)
    view = View(lambda: adapted, lambda: source, encoder(encoders))
    step = context(nada_aim(case, recorded, dtype), encoders, {"main": view}, draws)
    total, _ = objective(step)
    tolerance = 1e-5 if identical or width == "f32" else LOSS
    assert abs(float(total.detach()) - case[f"loss.{width}"]) < tolerance
    if width == "f64" and not identical:
        close_gradient(total, adapted, recorded[f"{case['key']}.out.grad.f64"], case["key"])
        for name, features in (("src", view.source_clip(0)), ("tgt", view.clip(0))):
            key = f"{case['key']}.out.{name}_features.f64"
            if key in recorded:
                assert (features - recorded[key]).abs().max() < LOSS


@pytest.mark.skipif(not has("nada_text_direction.safetensors"), reason="no recorded text directions")
@pytest.mark.parametrize("width", ["f64", "f32"])
def test_nada_text_directions(width: str) -> None:
    meta, recorded = read("nada_losses")["meta"], tensors("nada_text_direction")
    assert torch.equal(
        hashed_tokens([t.format(meta["source_class"]) for t in TEMPLATES]), recorded["in.tokens.source"]
    )
    close = LOSS if width == "f64" else 1e-5
    for name in ("ViT-B/32", "ViT-B/16"):
        clip = nada_encoders({name: 1.0}, False, DTYPES[width]).clip
        prefix = f"out.{name.replace('/', '')}"
        features = {side: prompted(clip, meta[f"{side}_class"]) for side in ("source", "target")}
        direction = mean_difference(features["source"], features["target"])
        assert (direction - recorded[f"{prefix}.text_direction.{width}"][0]).abs().max() < close
        if width == "f32":
            continue
        for side, found in features.items():
            assert (found - recorded[f"{prefix}.text_features.{side}.f64"]).abs().max() < LOSS
        goal = AimFeatures(
            Aim(source_text=meta["source_class"], target_texts=(meta["target_class"],)),
            Encoders.of(clip, None),
        )
        for side, mean in zip(("source", "target"), goal.mean_texts(0), strict=True):
            assert (mean - recorded[f"{prefix}.mean_text.{side}.f64"][0]).abs().max() < LOSS
        assert (goal.direction(0) - direction).abs().max() < 1e-15


@pytest.mark.skipif(not has("nada_losses.json"), reason="no recorded templates")
def test_the_templates_are_the_recorded_ones() -> None:
    import zlib

    templates = read("nada_losses")["meta"]["templates"]
    assert [zlib.crc32(one.encode()) for one in TEMPLATES] == templates["crc32"]
    assert [zlib.crc32(one.encode()) for one in PARTS] == templates["part_crc32"]


def preprocess_cases() -> list[str]:
    return sorted(read("nada_losses").get("preprocess", {})) if has("nada_losses.json") else []


@pytest.mark.parametrize("key", preprocess_cases())
def test_nada_preprocessing(key: str) -> None:
    name, antialias, width = key.split(".")
    recorded = tensors("nada_preprocess")
    side = read("nada_losses")["preprocess"][key]["shape"][-1]
    prepare = ClipPreprocess(side, antialias=antialias == "aa", keeps_aspect=True)
    found = prepare(recorded[f"in.{name}"].to(DTYPES[width]))
    close = LOSS if width == "f64" else 1e-5
    for cut, part in (
        ("[:, :, :40, :40]", found[:, :, :40, :40]), ("[:, :, ::9, ::9]", found[:, :, ::9, ::9]),
    ):  # fmt: skip
        assert (part - recorded[f"out.{name}.{antialias}{cut}.{width}"]).abs().max() < close
    length = read("nada_losses")["preprocess"][key]["l2"]
    assert abs(float(found.norm()) - length) < 1e-6 * length


@pytest.mark.skipif(not has("nada_image_direction.safetensors"), reason="no recorded image direction")
@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-B/16"])
def test_nada_direction_of_files(name: str) -> None:
    described, recorded = read("nada_losses")["image_direction"], tensors("nada_image_direction")
    clip = nada_encoders({name: 1.0}, described["antialias_source_tensor"]).clip
    files = [Image.open(FOLDER / one) for one in described["files"]]
    for index, file in enumerate(files):
        found = clip.preprocess.of_picture(file)
        assert (found[:, :, ::9, ::9] - recorded[f"out.pil{index}[:, :, ::9, ::9].f64"]).abs().max() < LOSS
    prefix = f"out.{name.replace('/', '')}"
    source = clip.encode_images(recorded["in.source_images"].double())
    assert (source - recorded[f"{prefix}.source_features.f64"]).abs().max() < LOSS
    direction = picture_direction(source, clip.encode_pictures(files).mean(dim=0))
    assert (direction - recorded[f"{prefix}.direction.f64"][0]).abs().max() < LOSS


@pytest.mark.skipif(not has("nada_losses.json"), reason="no recorded tables")
def test_nada_trains_the_recorded_parts_and_layers() -> None:
    from rosinality_names import original_name

    from oneshot_core.networks import GeneratorConfig

    told = read("nada_losses")
    for key, expected in told.get("trainable", {}).items():
        size, phase = key.split("/")
        channels = tuple(8 for _ in range(int(size).bit_length() - 2))
        generator = Generator(GeneratorConfig(int(size), channels, z_dim=8, w_dim=8))
        trainable = stylegan_nada().trainable
        if phase in PHASES:
            trainable = Trainable(trainable.parts, PHASES[phase])
        elif phase == "all":
            trainable = Trainable(("mapping", "constant", "affine", "convolution", "noise", "rgb"))
        names = {original_name(name) for name in trainable.names(generator)}
        assert len(names) == expected["n_tensors"], key
        if expected["tensors"] is not None:
            assert names == set(expected["tensors"]), key


# Mind the Gap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["f64", "f32"])
@pytest.mark.parametrize("case", fixture("mtg_losses", "cases"), ids=ids)
def test_mtg_losses_and_gradients(case: dict[str, Any], width: str) -> None:
    meta, recorded, dtype = read("mtg_losses")["meta"], tensors("mtg_losses"), DTYPES[width]
    name = case.get("clip_model", "ViT-B/32")
    clip = clip_of(meta["clip_models"][name], meta["clip_seed"], case.get("antialias", False), dtype)
    perceptual = recorded_net("vgg", meta["lpips_weight_seed"], dtype) if "lpips" in case["term"] else None
    encoders = Encoders.of(clip, perceptual)
    images = {key: recorded[f"in.{key}"].to(dtype) for key in ("src", "tgt", "old", "new", "rec")}
    wanted = images[case["gradient_wrt"].removeprefix("in.")].requires_grad_(True)
    views = {
        "main": View(lambda: images["tgt"], lambda: images["src"], encoder(encoders)),
        "reference": View(lambda: images["rec"], lambda: images["old"], encoder(encoders)),
    }
    target = images["new"]
    if case["term"] in ("ref_l2", "ref_lpips"):  # which compare with the file itself
        target = recorded["in.target_u8"].to(dtype)[None] / 255 * 2 - 1
    factor = recorded["in.target_u8"].shape[-1] // recorded["out.target_lanczos_u8"].shape[-1]
    term: Any = {
        "across": Across(0.0), "within": Within(), "ref_clip": ClipSimilarity("reference"),
        "ref_l2": PixelMse("reference", factor), "ref_lpips": Lpips(view="reference", down=factor),
    }[case["term"]]  # fmt: skip
    loss = term(context(Aim(target), encoders, views))
    assert abs(float(loss.detach()) - case[f"loss.{width}"]) < (LOSS if width == "f64" else 1e-5)
    if width == "f64":
        close_gradient(loss, wanted, recorded[f"{case['key']}.out.grad.f64"], case["key"])


@pytest.mark.parametrize("case", fixture("mtg_losses", "downsample"), ids=ids)
def test_mtg_downsampling(case: dict[str, Any]) -> None:
    recorded, key = tensors("mtg_downsample"), case["key"]
    images = recorded[f"in.{key}"].double().requires_grad_(True)
    found = downsample(images, case["factor"])
    assert (found - recorded[f"out.{key}.f64"]).abs().max() < LOSS
    assert torch.allclose(bicubic_taps(case["factor"]), recorded[f"out.{key}.kernel"], atol=1e-7)
    gradient = recorded[f"out.{key}.grad.f64"]
    close_gradient((found * recorded[f"in.{key}.R"].double()).sum(), images, gradient, key)
    single = downsample(recorded[f"in.{key}"], case["factor"])
    assert (single - recorded[f"out.{key}.f32"]).abs().max() < 1e-5


@pytest.mark.skipif(not has("mtg_losses.safetensors"), reason="no recorded target")
def test_mtg_reduces_its_target_as_pillow_does() -> None:
    recorded = tensors("mtg_losses")
    target, small = recorded["in.target_u8"], recorded["out.target_lanczos_u8"]
    found = reduced_picture(target.double()[None] / 255 * 2 - 1, target.shape[-1] // small.shape[-1])
    assert torch.equal(((found[0] + 1) * 127.5).round().byte(), small)


# Few-shot adaptation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["f64", "f32"])
@pytest.mark.parametrize("case", fixture("cdc_losses", "distance"), ids=ids)
def test_cdc_distance(case: dict[str, Any], width: str) -> None:
    recorded, key, dtype = tensors("cdc_distance"), case["key"], DTYPES[width]
    sides = {
        side: {
            layer: recorded[f"{key}.in.{side}.{layer}"].to(dtype)
            for layer in sorted(set(case["feature_index"]))
        }
        for side in ("source", "target")
    }
    for value in sides["target"].values():
        value.requires_grad_(True)

    def features(adapted: bool, count: int) -> Any:
        return sides["target" if adapted else "source"]

    view = View(lambda: None, None, None, features, case["batch"], case["n_features"])
    draws = {"layers": torch.tensor(case["feature_index"]) - case["index_draw"]["low"]}
    assert case["index_draw"]["high_exclusive"] - case["index_draw"]["low"] == case["n_features"] - 1
    loss = case["kl_wt"] * DistanceConsistency()(context(Aim(), NO_ENCODERS, {"relations": view}, draws))
    # In float32 cosines of near equal features: 1.1e-5 was seen on a processor that rounds otherwise.
    assert abs(float(loss.detach()) - case[f"loss.{width}"]) < (LOSS if width == "f64" else 2e-5)
    if width == "f64":
        for layer, value in sides["target"].items():
            expected = recorded[f"{key}.out.grad.{layer}.f64"]
            (found,) = torch.autograd.grad(loss, value, retain_graph=True)
            assert (found - expected).abs().max() <= max(GRADIENT * expected.abs().max(), 1e-12)


class NoEncoders:
    clips = ()


NO_ENCODERS: Any = NoEncoders()


class Mapless:
    """A generator that hands z on."""

    def __init__(self, width: int) -> None:
        self.config = type("Config", (), {"z_dim": width})
        self.const = torch.zeros(1, dtype=torch.float64)

    def map(self, z: Tensor) -> Tensor:
        return z


@pytest.mark.parametrize("case", fixture("cdc_losses", "anchors"), ids=ids)
def test_cdc_anchors(case: dict[str, Any]) -> None:
    recorded, key = tensors("cdc_anchors"), case["key"]
    table = {
        (0, "anchors.z"): recorded[f"{key}.in.anchors"],
        (0, "adapted.anchor"): torch.tensor(case["index"]),
        (0, "adapted.spread"): recorded[f"{key}.in.eps"],
    }
    generator: Any = Mapless(recorded[f"{key}.in.anchors"].shape[1])
    aim = Aim(torch.zeros(case["n_train"], 3, 1, 1))
    request = CodeRequest(
        generator, aim, StepDraws(RecordedDraws(table), 0), case["batch"], "adapted", "adapted"
    )
    z = Anchors(case["std"]).codes(request)
    assert (z - recorded[f"{key}.out.z.f64"]).abs().max() < 1e-12


def path_cases() -> list[int]:
    return list(range(len(read("cdc_losses")["path"]["calls"]))) if has("cdc_losses.json") else []


class PathNetwork(Trace):
    def __init__(self) -> None:
        told = read("cdc_losses")["path"]
        self.config = told
        self.meta = {"style_dim": told["latent"], "n_mlp": told["n_mlp"]}


@pytest.mark.slow
@pytest.mark.skipif(not path_cases(), reason="no recorded path lengths")
def test_cdc_path_length() -> None:
    from rosinality_names import original_name, original_state

    from oneshot_core.latents import mix

    told, recorded = read("cdc_losses")["path"], tensors("cdc_path")
    generator: Any = PathNetwork().network(Generator, told["prefix"]).requires_grad_(True)
    mean = torch.zeros((), dtype=torch.float64)
    for index, call in enumerate(told["calls"]):
        z = recorded[f"{index}.in.z"].double()
        noise = [recorded[f"{index}.in.noise.{place}"].double() for place in range(len(generator.convs))]
        codes = mix(generator.map(z[0]), generator.map(z[1]), call["inject_index"])
        images = generator.synthesize(codes, noise)
        direction = recorded[f"{index}.in.pl_noise"].double()
        penalty, mean, lengths = path_length_penalty(images, codes, direction, mean, told["decay"])
        assert abs(float(penalty.detach()) - call["penalty"]) < LOSS
        assert abs(float(mean) - call["mean_path_length"]) < LOSS
        assert (lengths - torch.tensor(call["path_lengths"], dtype=torch.float64)).abs().max() < LOSS
        loss = told["path_regularize"] * told["g_reg_every"] * penalty
        assert abs(float(loss.detach()) - call["weighted_loss"]) < LOSS * call["weighted_loss"]
        generator.zero_grad()
        (loss + 0 * images[0, 0, 0, 0]).backward()
        gradients = {original_name(n): p.grad for n, p in generator.named_parameters()}
        shapes = original_state(generator)
        for name, length in call["grad_l2"].items():
            found = gradients[name]
            assert abs(float(found.norm()) - length) <= 1e-7 * max(1.0, length), name
        for key, expected in recorded.items():
            if key.startswith(f"{index}.out.grad."):
                name = key.removeprefix(f"{index}.out.grad.").removesuffix(".f64")
                found = gradients[name].reshape(shapes[name].shape)
                assert (found - expected).abs().max() <= GRADIENT * max(1e-9, float(expected.abs().max())), (
                    name
                )


def test_a_model_that_knows_none_of_the_templates_words_reads_bare_texts() -> None:
    from tiny_clip import CONFIG

    from oneshot_core.features import ClipEncoder, WordTokenizer, build_clip

    clip = ClipEncoder(build_clip(CONFIG), tokenizer=WordTokenizer(["sketch"], 8))
    assert templates_for(clip) == BARE
    known = ClipEncoder(build_clip(CONFIG), tokenizer=WordTokenizer(["a", "photo", "of", "the"], 8))
    assert templates_for(known) == (
        "a photo of the {}.".replace("a photo of the", "a photo of the"),
        "a photo of a {}.",
    )


def test_an_unchanged_batch_is_compared_a_little_beside_itself() -> None:
    from tiny_clip import CONFIG, pictures

    from oneshot_core.features import ClipEncoder, build_clip

    encoders = Encoders.of(ClipEncoder(build_clip(CONFIG).double()), None)
    images = pictures(2, 32).double()
    width = encoders.clip.encode_images(images).shape[1]
    aim = Aim(directions=(torch.ones(width).double(),))
    view = View(lambda: images, lambda: images, encoder(encoders))
    plain = Directional(0.0, nudges=False)(context(aim, encoders, {"main": view}))
    nudged = Directional(0.0, nudges=True)(context(aim, encoders, {"main": view}))
    assert float(plain) == 1.0 and float(nudged) != 1.0  # no change has no direction; a nudged one has
