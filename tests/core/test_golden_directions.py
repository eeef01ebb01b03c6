"""Style space, StyleCLIP's global directions, SeFa and GANSpace against recordings of the original programs.

The recordings in tests/golden_editing are parts of the full ones (tests/golden_editing_subset.py).
"""

from __future__ import annotations

import re
from dataclasses import replace

import golden_support as golden
import numpy as np
import pytest
import torch
from golden_editing_support import (
    assert_near,
    cases,
    group,
    read,
    recorded_clip,
    rosinality_bundle,
    stored_bundle,
    stored_tokens,
)
from PIL import Image
from torch import Tensor

from oneshot_core.editing.clip_features import picture_features, to_eight_bit
from oneshot_core.editing.components import (
    component_direction,
    sefa_directions,
    sefa_eigenvectors,
    set_coordinate,
)
from oneshot_core.editing.dictionary import Dictionary, all_rows
from oneshot_core.editing.finite_differences import (
    DictionaryConfig,
    channel_row,
    measure_dictionary,
    moved_styles,
)
from oneshot_core.editing.global_directions import (
    AUTO_BETAS,
    Selection,
    auto_beta,
    channel_vectors,
    direction_of,
    relevance,
    select,
    text_change,
    text_feature,
)
from oneshot_core.editing.statistics import StyleStatistics, style_statistics
from oneshot_core.editing.style_layout import convolution_styles, slot_of
from oneshot_core.edits import STYLE, LatentEdit, edited_codes, edited_styles
from oneshot_core.latents import Latent, truncate
from oneshot_core.networks import Generator, GeneratorConfig

pytestmark = pytest.mark.golden

PRECISIONS = {  # of a run: type, tolerance of styles, of images, of gradients (a share of the largest; L2)
    "f64": (torch.float64, 1e-9, 1e-9, 1e-7),
    "f32": (torch.float32, 1e-5, 1e-4, 1e-2),
}


# Style space -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("style_space"))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_style_space(path, precision):
    recorded, tensors = read(path)
    dtype, close, drawn, slope = PRECISIONS[precision]
    picture = golden.recorded_part(tensors, f"out.img.wplus.{precision}")
    if picture is None:
        pytest.skip(f"the recording has no {precision}")
    bundle = rosinality_bundle(
        recorded, recorded.get("generator_prefix", ""), recorded["weight_seed"], recorded["weight_checks"]
    )
    generator = bundle.generator.to(dtype)
    codes, weights = tensors["in.wplus"].to(dtype), tensors["in.R"].to(dtype)
    styles = [style.requires_grad_() for style in generator.affine(codes)]
    assert [list(style.shape) for style in styles] == recorded["style_shapes"]
    assert [slot_of(index) for index in range(len(styles))] == recorded["wplus_row"]
    for index, wanted in group(tensors, "out.style.", f".{precision}").items():
        assert_near(styles[index], wanted, close, f"style {index}")
    images = generator.render(styles, generator.constant_noise())
    assert_near(golden.part(images, picture[1]), picture[0], drawn, "image")
    scalar = (images * weights).sum()
    assert scalar.item() == pytest.approx(recorded[f"scalar.{precision}"], rel=1e-9 if slope < 1e-3 else 1e-4)
    gradients = torch.autograd.grad(scalar, styles)
    for index, wanted in group(tensors, "out.grad.style.", f".{precision}").items():
        if precision == "f64":
            assert_near(gradients[index], wanted, slope * float(wanted.abs().max()), f"gradient {index}")
        else:
            assert float((gradients[index] - wanted).norm()) <= slope * float(wanted.norm())
    with torch.no_grad():
        _check_modifications(generator, codes, recorded["modifications"], tensors, precision, drawn)


def _check_modifications(
    generator: Generator, codes: Tensor, modifications: list, tensors: dict, precision: str, drawn: float
) -> None:
    """Edits of one channel each, given as edits that a latent carries."""
    widths = generator.style_widths
    edits = []
    for one in modifications:
        vector = torch.zeros(widths[one["style_index"]], dtype=torch.float64)
        vector[one["channel"]] = one["delta"]
        edits.append(LatentEdit(STYLE, {one["style_index"]: vector}, widths))
    named = {f"mod{number}": [edit] for number, edit in enumerate(edits)} | {"mod_all": edits}
    compared = 0
    for name, chosen in named.items():
        for key, wanted in tensors.items():
            found = re.fullmatch(rf"out\.img\.{name}\.{precision}(\[.*\])?", key)
            if found is not None:
                latent = Latent("w+", codes, edits=tuple(chosen))
                images = generator.render(latent.styles(generator), generator.constant_noise())
                assert_near(golden.part(images, found[1]), wanted, drawn, key)
                compared += 1
    assert compared


# Global directions -------------------------------------------------------------------------------------


def _recorded_dictionary(tensors: dict, rows: int) -> Dictionary:
    sigma = tuple(group(tensors, "in.code_std.").values())
    statistics = StyleStatistics(tuple(group(tensors, "in.code_mean.").values()), sigma)
    styles, channels = all_rows(statistics.widths)
    return Dictionary(tensors["in.fs3"][:rows], styles[:rows], channels[:rows], statistics)


@pytest.mark.parametrize("path", cases("global_directions"))
def test_texts_and_relevance(path):
    recorded, tensors = read(path)
    clip = recorded_clip(recorded, torch.float64, stored_tokens(recorded, tensors))
    changes = []
    for number, pair in enumerate(recorded["text_pairs"]):
        features = {kind: text_feature(clip, pair[kind]) for kind in ("target", "neutral")}
        for kind, feature in features.items():
            assert_near(feature, tensors[f"out.text.{number}.{kind}.f64"], 1e-9, kind)
        norm = float((features["target"] - features["neutral"]).norm())
        assert norm == pytest.approx(pair["norm_before"], abs=1e-9)
        changes.append(text_change(clip, pair["target"], pair["neutral"]))
        assert_near(changes[-1], tensors[f"out.dt.{number}.f64"], 1e-9, "dt")
    dictionary = _recorded_dictionary(tensors, len(tensors["in.fs3"]))
    values = relevance(dictionary, changes[0])
    assert_near(values, tensors["out.relevance.f64"], 1e-9, "relevance")
    assert float(values.abs().max()) == pytest.approx(recorded["relevance_max_abs"], abs=1e-9)


@pytest.mark.parametrize("path", cases("global_directions"))
def test_boundaries_of_thresholds(path):
    recorded, tensors = read(path)
    compared = 0
    for kind, rows in (("full", recorded["rows_full"]), ("cut", recorded["rows_cut"])):
        dictionary = _recorded_dictionary(tensors, rows)
        assert list(dictionary.widths) == recorded["s_dims"]
        assert list(convolution_styles(len(dictionary.widths))) == recorded["conv_indices"]
        values = tensors["out.relevance.f64"][:rows]
        for beta in recorded["betas"]:
            if not recorded["num_channels"][kind][str(beta)]:  # 0/0 in the original
                with pytest.raises(ValueError, match="lower beta"):
                    select(dictionary, values, Selection(beta=beta))
                continue
            taken = select(dictionary, values, Selection(beta=beta))
            assert taken.channels == recorded["num_channels"][kind][str(beta)]
            vectors = channel_vectors(dictionary, taken.amplitudes)
            whole = torch.cat(
                [
                    vectors.get(index, torch.zeros(width, dtype=torch.float64))
                    for index, width in enumerate(dictionary.widths)
                ]
            )
            wanted = tensors.get(f"out.boundary.{kind}.beta{beta}.f64(concatenated)")
            if wanted is not None:
                assert_near(whole, wanted, 1e-9, kind)
                compared += 1
            # The same channels by their number; a threshold of it says what it stands for.
            same = select(dictionary, values, Selection(channels=taken.channels))
            assert torch.equal(same.amplitudes, taken.amplitudes) and same.beta >= beta
            direction = direction_of(dictionary, taken.amplitudes)
            for index, vector in direction.vectors.items():
                assert torch.equal(vector, vectors[index].float())
    assert compared


@pytest.mark.parametrize("path", cases("global_directions"))
def test_edited_styles(path):
    recorded, tensors = read(path)
    styles = tuple(group(tensors, "in.s.").values())
    compared = 0
    for key, wanted in tensors.items():
        found = re.fullmatch(
            r"out\.sprime\.(full|cut|layers((?:_\d+)+))\.beta([\d.]+)\.f64\(concat\w+\)", key
        )
        if found is None:
            continue
        rows = recorded["rows_cut" if found[1] == "cut" else "rows_full"]
        dictionary = _recorded_dictionary(tensors, rows)
        values = tensors["out.relevance.f64"][:rows]
        taken = select(dictionary, values, Selection(beta=float(found[3])))
        vectors = channel_vectors(dictionary, taken.amplitudes)
        if found[2]:
            layers = [int(number) for number in found[2].strip("_").split("_")]
            vectors = {index: vectors[index] for index in layers if index in vectors}
        for place, alpha in enumerate(recorded["alphas"]):
            edit = LatentEdit(STYLE, vectors, dictionary.widths, alpha)
            edited = torch.cat(edited_styles(styles, [edit]), dim=1)
            assert_near(edited, wanted[:, place], 1e-9, f"{key} at {alpha}")
        compared += 1
    assert compared


@pytest.mark.parametrize("path", cases("global_directions"))
def test_automatic_thresholds_and_the_empty_selection(path):
    recorded, tensors = read(path)
    values = tensors["out.relevance.f64"]
    dictionary = _recorded_dictionary(tensors, recorded["rows_full"])
    for one in recorded["auto_beta"]:
        beta = auto_beta(values, one["c_threshold"])
        assert beta == one["beta"]
        assert [int((values.abs() >= each).sum()) for each in AUTO_BETAS] == one["counts"]
        taken = select(dictionary, values, Selection(auto_channels=one["c_threshold"]))
        assert (taken.beta, taken.channels) == (beta, int((values.abs() >= beta).sum()))
    with pytest.raises(ValueError, match=r"no channel reaches the threshold .* lower beta"):
        select(dictionary, values, Selection(beta=recorded["empty_selection"]["beta"]))


# Finite differences ------------------------------------------------------------------------------------


class _NumpyDraws:
    """Codes of numpy's generator, as StyleCLIP draws them."""

    def __init__(self, seed: int, count: int, width: int) -> None:
        self.z = torch.from_numpy(np.random.RandomState(seed).randn(count, width))
        self.place = 0

    def normal(self, step, purpose, shape):
        part = self.z[self.place : self.place + shape[0]].float()
        self.place += shape[0]
        return part


def _small_bundle(path):
    recorded, tensors = read(path)
    return recorded, tensors, stored_bundle(tensors, "ros.", tensors["state.mapping.w_avg"])


def _codes(tensors):
    """The recorded W+ codes, with or without a suffix of precision."""
    return next(value for name, value in tensors.items() if re.fullmatch(r"out\.ws(\.f32)?", name))


def _statistics(recorded, bundle):
    count, seed = recorded["num_stat_samples"], recorded["stat_seed"]
    draws = _NumpyDraws(seed, count, bundle.generator.config.z_dim)
    psi, cutoff = recorded["truncation_psi"], recorded["truncation_cutoff"]
    return style_statistics(bundle, count, psi, cutoff, seed, draws=draws)


@pytest.mark.parametrize("path", cases("global_relevance_fd"))
def test_statistics_of_styles(path):
    recorded, tensors, bundle = _small_bundle(path)
    generator = bundle.generator
    statistics = _statistics(recorded, bundle)
    for name, found in (("mean", statistics.mean), ("std", statistics.sigma)):
        wanted = group(tensors, f"out.code_{name}.")
        assert len(wanted) == len(found)
        for index, values in wanted.items():
            assert_near(found[index], values, 1e-5, f"{name} {index}")
    z = np.random.RandomState(recorded["stat_seed"]).randn(recorded["num_images"], generator.config.z_dim)
    assert torch.equal(torch.from_numpy(z), tensors["in.z"])
    psi, cutoff = recorded["truncation_psi"], recorded["truncation_cutoff"]
    codes = truncate(generator.map(tensors["in.z"].float()), bundle.mean_latent, psi, cutoff)
    assert_near(codes, _codes(tensors), 1e-5, "ws")
    styles = generator.affine(codes)
    for index, wanted in group(tensors, "in.s.").items():
        assert_near(styles[index], wanted, 1e-5, f"style {index}")
    images = generator.render(styles, generator.constant_noise())
    assert_near(images, tensors["out.img_unedited.f32"], 1e-5, "unedited")


def _places(recorded, widths, count):
    styles, channels = all_rows(widths, recorded["conv_indices"])
    return list(zip(styles.tolist(), channels.tolist(), strict=True))[:count]


@pytest.mark.parametrize("path", cases("global_relevance_fd"))
@pytest.mark.parametrize("kind", ["intended", "released"])
def test_rows_follow_from_recorded_features(path, kind):
    recorded, tensors = read(path)
    features = tensors[f"out.features.{kind}.f32"]
    units = torch.nn.functional.normalize(features.double(), dim=-1)
    wanted = tensors[f"out.fs3.{kind}.f64"]
    for row, (pair, want) in enumerate(zip(units, wanted, strict=False)):
        found, rho, effect = channel_row(pair[:, 0], pair[:, 1])
        assert_near(found, want, 1e-9, f"row {row}")
        assert 0 < rho <= 1 and effect > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("global_relevance_fd"))
@pytest.mark.parametrize("kind", ["intended", "released"])
def test_pictures_and_features_of_moved_channels(path, kind):
    recorded, tensors, bundle = _small_bundle(path)
    generator = bundle.generator
    statistics = _statistics(recorded, bundle)
    clip = recorded_clip(recorded, torch.float32)
    styles = [style.clone() for style in generator.affine(_codes(tensors))]
    wanted, seen = tensors[f"out.images.{kind}.u8"], tensors[f"out.features.{kind}.f32"]
    different = 0
    for row, (style, channel) in enumerate(_places(recorded, statistics.widths, len(wanted))):
        moved = moved_styles(tuple(styles), style, channel, statistics, 5.0)
        images = generator.render(moved, generator.constant_noise())
        pixels = torch.stack(to_eight_bit(images).chunk(2), dim=1)  # [images, 2, H, W, 3]
        gap = (pixels.int() - wanted[row].int()).abs()
        assert int(gap.max()) <= 1
        different += int(gap.sum())
        units = torch.nn.functional.normalize(seen[row].double(), dim=-1)
        pictures = [Image.fromarray(one.numpy()) for one in wanted[row].flatten(0, 1)]
        assert_near(clip.encode_pictures(pictures), units.flatten(0, 1), 1e-5, f"features of row {row}")
        if not gap.any():
            own = torch.stack(picture_features(clip, images, eight_bit=True).chunk(2), dim=1)
            assert_near(own, units, 1e-5, f"own features of row {row}")
        if kind == "released":
            styles[style][:, channel] = statistics.mean[style][channel].float()
    assert different <= wanted.numel() / 10_000
    after = group(tensors, f"out.codes_after.{kind}.")
    if len(wanted) == sum(statistics.widths[index] for index in recorded["conv_indices"]):
        for index, style in enumerate(styles):
            assert_near(style, after[index], 1e-5, f"codes after, {index}")


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("global_relevance_fd"))
@pytest.mark.parametrize("kind", ["intended", "released"])
def test_a_dictionary_is_measured_as_recorded(path, kind):
    """Pictures may differ by one level here and there, which moves a feature a little."""
    recorded, tensors, bundle = _small_bundle(path)
    statistics = _statistics(recorded, bundle)
    clip = recorded_clip(recorded, torch.float32)
    wanted = tensors[f"out.fs3.{kind}.f32"]
    config = DictionaryConfig(
        images=recorded["num_images"], eight_bit=True, restore=kind == "intended",
        channels=tuple(_places(recorded, statistics.widths, len(wanted))),
    )  # fmt: skip
    found = measure_dictionary(bundle, clip, config, statistics, latent=Latent("w+", _codes(tensors)))
    assert found.styles.tolist() == [style for style, _ in config.channels]
    cosines = (found.rows.double() * wanted.double()).sum(dim=1)
    assert float(cosines.min()) > 0.999
    near = (found.rows - wanted).abs().amax(dim=1) < 1e-4
    assert int(near.sum()) >= 0.9 * len(wanted)
    told = recorded["cosine_released_vs_intended_per_channel"][: len(wanted)]
    other = tensors[f"out.fs3.{'released' if kind == 'intended' else 'intended'}.f32"]
    assert_near((found.rows * other).sum(dim=1), torch.tensor(told), 1e-3, "cosine of both kinds")


# SeFa and GANSpace -------------------------------------------------------------------------------------


def _signed(found: Tensor, wanted: Tensor) -> Tensor:
    """Vectors in rows with the sign of those that are wanted."""
    return found * torch.sign((found * wanted).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("path", cases("sefa_ganspace"))
def test_sefa(path):
    recorded, tensors = read(path)
    sefa_bundle = rosinality_bundle(
        recorded["generator"], recorded["generator_prefix"], recorded["seed"], recorded["weight_checks"]
    )
    assert recorded["sefa"]
    for key, case in recorded["sefa"].items():
        layers = None if case["indices"] == "all" else case["indices"]
        assert case["rows_that_feed_these_modules"] == sorted(
            layers or range(len(sefa_bundle.generator.convs))
        )
        vectors, values = sefa_eigenvectors(sefa_bundle, layers)
        largest = float(values.max())
        assert_near(values, tensors[f"out.sefa.{key}.eigenvalues_sorted.f64"], 1e-9 * largest, key)
        wanted = tensors[f"out.sefa.{key}.eigenvectors_sorted_rows.f32"].double()
        assert_near(_signed(vectors, wanted), wanted, 1e-4, f"{key}: vectors")
        edit = tensors.get(f"out.sefa.{key}.edit.f32")
        if edit is None:
            continue
        used = tensors[f"out.sefa.{key}.boundaries_used.f32"]
        directions = sefa_directions(sefa_bundle, layers, len(used))
        # The original edits the rows before those that feed the layers; the step is the same.
        start, rows, made = tensors["in.latent"], case["rows_edited"], []
        steps = torch.linspace(-15, 15, len(edit) // len(used)).tolist()
        for direction, boundary in zip(directions, used, strict=True):
            vector = next(iter(direction.vectors.values()))
            assert_near(_signed(vector[None], boundary[None]), boundary[None], 1e-4, "boundary")
            assert set(direction.vectors) == set(case["rows_that_feed_these_modules"])
            moved = LatentEdit("w+", dict.fromkeys(rows, boundary), direction.widths)
            made += [edited_codes(start, [replace(moved, strength=step)]) for step in steps]
        assert_near(torch.cat(made), edit, 1e-5, f"{key}: edit")


@pytest.mark.parametrize("path", cases("sefa_ganspace"))
def test_ganspace_sets_the_coordinate(path):
    recorded, tensors = read(path)
    shape = recorded["generator"]
    codes = tensors["in.pca.latents"]
    config_slots, width = codes.shape[1:]
    generator = Generator(_config(shape["size"], width)).double()
    mean, comp, std = (tensors[f"in.pca.{name}"].double() for name in ("mean", "comp", "std"))
    directions = [
        component_direction(one, float(deviation), mean[0], config_slots)
        for one, deviation in zip(comp, std, strict=True)
    ]
    made = []
    for number in range(len(codes)):
        for one in recorded["ganspace_directions"]:
            latent = Latent("w+", codes[number : number + 1])
            slots = (one["start"], one["end"])
            edited = set_coordinate(latent, generator, directions[one["component"]], one["strength"], slots)
            made.append(edited.codes(generator))
    assert_near(torch.cat(made), tensors["out.ganspace.edit.f64"], 1e-9, "edit")
    first = Latent("w+", codes[:1])
    changes = [set_coordinate(first, generator, one, 1.0).edits[0].vectors[0] for one in directions]
    assert_near(torch.cat(changes), tensors["out.ganspace.delta0.f64"], 1e-9, "delta")


def _config(size: int, width: int) -> GeneratorConfig:
    levels = size.bit_length() - 2
    return GeneratorConfig(size, (4,) * levels, z_dim=width, w_dim=width, mapping_layers=1)
