"""Statistics of style space: exact against samples, truncation, drift of adapted generators, files."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from tiny_networks import changed, tiny_bundle

from oneshot_core.checkpoints import CheckpointError, UnsafePickleError, write_tensors
from oneshot_core.draws import SeededDraws
from oneshot_core.editing.dictionary_files import (
    load_statistics,
    load_styleclip_statistics,
    save_statistics,
)
from oneshot_core.editing.statistics import (
    LEAST_CORRELATION,
    MOST_SHIFT,
    StyleStatistics,
    drift_report,
    latent_moments,
    style_statistics,
)
from oneshot_core.editing.style_layout import (
    check_styles,
    convolution_styles,
    resolution_of,
    slot_of,
    style_title,
)
from oneshot_core.latents import labels, truncate

BUNDLE = tiny_bundle(32)
COUNT = 3000  # more than one chunk


@torch.no_grad()
def drawn_styles(bundle, psi, cutoff):
    config = bundle.generator.config
    parts = [(0, 2000), (1, 1000)]
    z = torch.cat([SeededDraws(4).normal(step, "statistics.z", (size, config.z_dim)) for step, size in parts])
    c = (
        labels([number % config.c_dim for number in range(COUNT)], COUNT, config.c_dim)
        if config.c_dim
        else None
    )
    codes = truncate(bundle.generator.map(z, c), bundle.mean_latent, psi, cutoff)
    return bundle.generator.affine(codes)


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize(("psi", "cutoff"), [(0.7, None), (0.5, 3), (1.0, 0), (0.7, 99)])
def test_they_are_those_of_the_samples(psi, cutoff, c_dim):
    bundle = tiny_bundle(32, c_dim=c_dim)
    told = []
    found = style_statistics(
        bundle, COUNT, psi, cutoff, 4, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(2000, COUNT), (3000, COUNT)]
    for styles, mean, sigma in zip(drawn_styles(bundle, psi, cutoff), found.mean, found.sigma, strict=True):
        torch.testing.assert_close(mean, styles.double().mean(dim=0), rtol=0, atol=1e-6)
        torch.testing.assert_close(sigma, styles.double().std(dim=0, correction=0), rtol=0, atol=1e-6)
    assert (found.widths, found.count, found.seed) == (bundle.generator.style_widths, COUNT, 4)
    assert found.family == bundle.family and found.measured == bundle.title and len(found.fingerprint) == 64


def test_moments_are_measured_once_for_all_truncations():
    moments = latent_moments(BUNDLE, 500, 1)
    by_moments, alone = (
        style_statistics(BUNDLE, psi=0.4, moments=moments),
        style_statistics(BUNDLE, 500, 0.4, seed=1),
    )
    assert by_moments.digest == alone.digest != style_statistics(BUNDLE, 500, 0.5, seed=1).digest
    twice = style_statistics(BUNDLE, psi=0.8, moments=moments)
    for one, two in zip(by_moments.sigma, twice.sigma, strict=True):
        torch.testing.assert_close(two, 2 * one)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 1}, "count must be 2"),
        ({"psi": 0}, "psi"),
        ({"cutoff": -1}, "cutoff"),
        ({"count": 10**9}, "count"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        style_statistics(BUNDLE, **{"count": 10, **settings})


def test_broken_statistics_and_generators_are_refused():
    found = style_statistics(BUNDLE, 10)
    with pytest.raises(ValueError, match="not made of finite numbers"):
        replace(found, mean=(*found.mean[:-1], found.mean[-1] * float("nan")))
    with pytest.raises(ValueError, match="below 0"):
        replace(found, sigma=(*found.sigma[:-1], -found.sigma[-1]))
    with pytest.raises(ValueError, match="one mean and one deviation"):
        StyleStatistics(found.mean, found.sigma[:-1])
    with pytest.raises(
        ValueError, match=r"do not fit .*: they have 11 styles of 88 channels, the generator 8 of 64"
    ):
        found.check_fits(tiny_bundle(16))


def test_layout_of_styles():
    assert [slot_of(style) for style in range(8)] == [0, 1, 1, 2, 3, 3, 4, 5]
    assert convolution_styles(8) == (0, 2, 3, 5, 6)
    assert [resolution_of(style) for style in (0, 1, 2, 4, 5, 25)] == [4, 4, 8, 8, 16, 1024]
    assert style_title(5) == "style 5 (16 px, first convolution)" and "colours" in style_title(7)
    assert check_styles([3, 1, 3], 8) == (1, 3)
    for wrong in ([], [8], [-1]):
        with pytest.raises(ValueError, match="layers"):
            check_styles(wrong, 8)


def test_slots_are_those_that_the_affine_layers_read():
    codes = torch.randn(1, BUNDLE.num_layers, BUNDLE.generator.config.w_dim)
    plain = BUNDLE.generator.affine(codes)
    for slot in range(BUNDLE.num_layers):
        moved = codes.clone()
        moved[:, slot] += 1
        differ = [not torch.equal(a, b) for a, b in zip(BUNDLE.generator.affine(moved), plain, strict=True)]
        assert differ == [slot_of(style) == slot for style in range(len(plain))]


# Drift --------------------------------------------------------------------------------------------------


def test_a_generator_has_not_drifted_from_itself():
    report = drift_report(BUNDLE, BUNDLE, 500)
    assert report.notes() == [] and report.most_shift == 0 and report.least_correlation > 1 - 1e-9
    assert len(report.layers) == len(BUNDLE.generator.style_widths)


def test_a_shift_of_means_is_seen_where_correlation_is_one():
    """Biases move means alone: a warning on correlation would never come."""
    child = changed(BUNDLE, "convs.2.affine.bias", scale=3.0)
    report = drift_report(BUNDLE, child, 500)
    moved = report.layers[3]  # convolution 2 is style 3
    assert report.least_correlation > 1 - 1e-9 and moved.shift > MOST_SHIFT
    assert [layer.style for layer in report.layers if layer.shift > 0] == [3]
    source = style_statistics(BUNDLE, 500)
    step = child.generator.convs[2].affine.bias - BUNDLE.generator.convs[2].affine.bias
    wanted = (step.double() / source.sigma[3]).abs().max()
    assert moved.most_shift == pytest.approx(float(wanted), rel=1e-6)
    (note,) = report.notes()
    assert "style 3 (8 px, second convolution)" in note and "means moved by more than 1 sigma" in note


def test_correlation_and_ratio_are_those_of_samples():
    child = changed(BUNDLE, "affine.weight", scale=2.0)
    report = drift_report(BUNDLE, child, COUNT, 0.7, None, 4)
    pairs = zip(drawn_styles(BUNDLE, 0.7, None), drawn_styles(child, 0.7, None), report.layers, strict=True)
    for old, new, layer in pairs:
        old, new = (part.double() - part.double().mean(dim=0) for part in (old, new))
        together = (old * new).mean(dim=0) / old.std(dim=0, correction=0) / new.std(dim=0, correction=0)
        assert layer.least_correlation == pytest.approx(float(together.min()), abs=1e-5)
        ratio = new.std(dim=0, correction=0) / old.std(dim=0, correction=0)
        assert layer.most_ratio == pytest.approx(float(ratio.max()), rel=1e-4)
    assert report.least_correlation < LEAST_CORRELATION
    assert any("correlation below 0.9" in note for note in report.notes())


def test_drift_counts_a_trained_mapping_and_refuses_strangers():
    child = changed(BUNDLE, ("mapping.layers.1.weight", "mapping.layers.1.bias"), scale=30.0)
    report = drift_report(BUNDLE, child, 500)
    assert child.family != BUNDLE.family and report.least_correlation < 0.99
    with pytest.raises(ValueError, match="was not adapted from"):
        drift_report(BUNDLE, tiny_bundle(32, seed=7), 500)


# Files --------------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_statistics(tmp_path):
    found = style_statistics(BUNDLE, 50, cutoff=4, seed=-3)
    path = save_statistics(found, tmp_path / "s.safetensors")
    read = load_statistics(path)
    assert read.digest == found.digest
    empty = {"mean": (), "sigma": ()}
    assert {**vars(read), **empty} == {**vars(found), **empty}
    write_tensors(tmp_path / "x.safetensors", {}, {"format": "oneshot-look", "format_version": 1})
    with pytest.raises(CheckpointError, match="is no statistics of styles but a look"):
        load_statistics(tmp_path / "x.safetensors")


def test_styleclips_pickle_is_read_and_nothing_else(tmp_path):
    found = style_statistics(BUNDLE, 50)
    path = tmp_path / "S_mean_std"
    path.write_bytes(pickle.dumps([[one.numpy() for one in part] for part in (found.mean, found.sigma)]))
    read = load_styleclip_statistics(path, BUNDLE)
    assert read.digest == found.digest and read.family == BUNDLE.family and read.fingerprint == ""
    with pytest.raises(CheckpointError, match=r"has 11 styles of 88 channels, .* has 8 of 64"):
        load_styleclip_statistics(path, tiny_bundle(16))
    path.write_bytes(pickle.dumps([[1, 2], [3, 4]]))
    with pytest.raises(CheckpointError, match="where an array of a style was expected"):
        load_styleclip_statistics(path, BUNDLE)
    path.write_bytes(b"\x80\x04cos\nsystem\n\x8c\x04true\x85R.")
    with pytest.raises(UnsafePickleError):
        load_styleclip_statistics(path, BUNDLE)
