"""SeFa, GANSpace and differences of latents; directions that other programs wrote."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import CheckpointError, UnsafePickleError
from oneshot_core.editing.components import (
    coordinate,
    ganspace_directions,
    reference_direction,
    sefa_directions,
    sefa_eigenvectors,
    set_coordinate,
    slots_direction,
)
from oneshot_core.editing.direction import Direction, apply_direction
from oneshot_core.editing.direction_files import load_direction, save_direction
from oneshot_core.editing.foreign_directions import load_boundary, load_components
from oneshot_core.editing.statistics import latent_moments
from oneshot_core.latents import Latent
from oneshot_core.sampling import random_latents

BUNDLE = tiny_bundle(16)
W, SLOTS = 12, BUNDLE.num_layers
MOMENTS = latent_moments(BUNDLE, 400)


def test_sefa_finds_what_changes_styles_most():
    vectors, values = sefa_eigenvectors(BUNDLE)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(W, dtype=torch.float64))
    assert (values.diff() <= 0).all() and (vectors.gather(1, vectors.abs().argmax(1)[:, None]) > 0).all()
    weights = torch.cat([conv.affine.weight for conv in BUNDLE.generator.convs]).double()
    units = weights / weights.norm(dim=1, keepdim=True)
    change = (units @ vectors.T).square().sum(dim=0)  # of all styles, per direction
    torch.testing.assert_close(change, values)


def test_sefa_of_layers_edits_the_slots_that_feed_them():
    first, second = sefa_directions(BUNDLE, [3, 1], 2)
    assert first.kind == "w+" and set(first.vectors) == {1, 3} and first.widths == (W,) * SLOTS
    assert float(first.vectors[1].norm()) == pytest.approx(1)
    assert torch.equal(first.vectors[1], first.vectors[3]) and not torch.equal(
        first.vectors[1], second.vectors[1]
    )
    assert first.name == "SeFa 0 of layers 1, 3" and first.family == BUNDLE.family
    assert [one.kind for one in sefa_directions(BUNDLE)] == ["w"] * 5
    for layers in ([], [5], [-1]):
        with pytest.raises(ValueError, match="convolutions from 0 to 4"):
            sefa_directions(BUNDLE, layers)
    with pytest.raises(ValueError, match="count must be 1 to 12"):
        sefa_directions(BUNDLE, count=13)


def test_ganspace_finds_the_principal_components():
    found = ganspace_directions(BUNDLE, W - 1, moments=MOMENTS)
    covariance = MOMENTS.covariance
    for one, two in zip(found, found[1:], strict=False):
        vector = one.vectors[0].double()
        torch.testing.assert_close(
            covariance @ vector, float(one.sigma[0]) ** 2 * vector, rtol=1e-4, atol=1e-6
        )
        assert float(one.sigma[0]) >= float(two.sigma[0])
        assert float(vector.norm()) == pytest.approx(float(one.sigma[0]), rel=1e-5)
    again = ganspace_directions(BUNDLE, 1, 400)
    assert torch.equal(again[0].vectors[0], found[0].vectors[0])
    with pytest.raises(ValueError, match="count must be 1 to 12"):
        ganspace_directions(BUNDLE, 0)


def test_a_coordinate_counts_deviations_and_is_set():
    direction = ganspace_directions(BUNDLE, 3, moments=MOMENTS)[1]
    latent = random_latents(BUNDLE, range(6))
    codes = latent.codes(BUNDLE.generator)
    now = coordinate(codes, direction)
    raised = apply_direction(latent, direction, 2.0).codes(BUNDLE.generator)
    torch.testing.assert_close(coordinate(raised, direction), now + 2, rtol=0, atol=1e-4)
    set_to = set_coordinate(latent, BUNDLE.generator, direction, -1.5)
    torch.testing.assert_close(coordinate(set_to.codes(BUNDLE.generator), direction), torch.full((6,), -1.5))
    twice = set_coordinate(set_to, BUNDLE.generator, direction, 0.5)  # what it carries already counts
    torch.testing.assert_close(coordinate(twice.codes(BUNDLE.generator), direction), torch.full((6,), 0.5))
    assert twice.origin["seeds"] == list(range(6)) and twice.part(slice(2)).edits[0].count == 2
    some = set_coordinate(latent, BUNDLE.generator, direction, 3.0, (1, 3)).codes(BUNDLE.generator)
    differ = [not torch.equal(some[:, slot], codes[:, slot]) for slot in range(SLOTS)]
    assert differ == [slot in (1, 2) for slot in range(SLOTS)]
    other = coordinate(codes, direction.scaled(-2.0))
    torch.testing.assert_close(other, now / -2)


def test_what_is_no_component_has_no_coordinate():
    latent = random_latents(BUNDLE, [1])
    for direction in (sefa_directions(BUNDLE)[0], ganspace_directions(BUNDLE, 1, 50)[0].limited([1])):
        with pytest.raises(ValueError, match="is no component with deviation and mean"):
            set_coordinate(latent, BUNDLE.generator, direction, 1.0)
    component = ganspace_directions(BUNDLE, 1, 50)[0]
    for slots in ((2, 2), (0, 99), (-1, 2)):
        with pytest.raises(ValueError, match="slots to change must lie within"):
            set_coordinate(latent, BUNDLE.generator, component, 1.0, slots)


def test_a_component_keeps_its_coordinate_in_a_file(tmp_path):
    direction = ganspace_directions(BUNDLE, 1, 50)[0]
    read = load_direction(save_direction(direction, tmp_path / "d.safetensors"))
    codes = random_latents(BUNDLE, [1]).codes(BUNDLE.generator)
    assert torch.equal(coordinate(codes, read), coordinate(codes, direction))


def test_differences_of_latents():
    before = Latent("w+", torch.randn(2, SLOTS, W), BUNDLE.family)
    change = torch.zeros(SLOTS, W)
    change[2] = 1.0
    found = reference_direction(BUNDLE, replace(before, values=before.values + change), before, "two")
    assert found.kind == "w+" and set(found.vectors) >= {2} and found.name == "two"
    torch.testing.assert_close(found.vectors[2], change[2])
    plain = Latent("w", torch.randn(1, W), BUNDLE.family)
    assert reference_direction(BUNDLE, replace(plain, values=plain.values + 1), plain).kind == "w"
    with pytest.raises(ValueError, match="the same mean code"):
        reference_direction(BUNDLE, before, before)
    with pytest.raises(ValueError, match="this latents without it is|use the generator that"):
        reference_direction(BUNDLE, before, replace(before, family="another"))


# What other programs wrote -----------------------------------------------------------------------------


NORMAL = torch.nn.functional.normalize(torch.randn(1, W, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.mark.parametrize("shape", [(W,), (1, W), (SLOTS, W), (1, SLOTS, W)])
@pytest.mark.parametrize("kind", ["npy", "pt"])
def test_boundaries_are_read(tmp_path, kind, shape):
    values = NORMAL.expand(SLOTS, W) if SLOTS in shape else NORMAL
    path = tmp_path / f"age.{kind}"
    if kind == "npy":
        np.save(path, values.reshape(shape).double().numpy())
    else:
        torch.save(values.reshape(shape).clone(), path)
    found = load_boundary(path, BUNDLE)
    assert (found.kind, found.name, found.method) == ("w", "age", "boundary")
    torch.testing.assert_close(found.vectors[0], NORMAL[0])


def test_a_boundary_of_differing_rows_is_in_w_plus(tmp_path):
    values = torch.randn(SLOTS, W)
    np.save(tmp_path / "pose.npy", values.numpy())
    found = load_boundary(tmp_path / "pose.npy", BUNDLE)
    assert found.kind == "w+" and torch.equal(found.vectors[4], values[4])


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.zeros((1, 512), np.float32), "a boundary has"), (np.zeros((3, W), np.float32), "a boundary has"),
     (np.full((1, W), np.nan), "finite"), (np.ones((1, W), np.int64), "finite"),
     (np.zeros((1, W), np.float32), "changes nothing")],
)  # fmt: skip
def test_other_arrays_are_no_boundary(tmp_path, values, said):
    np.save(tmp_path / "b.npy", values)
    with pytest.raises(CheckpointError, match=said):
        load_boundary(tmp_path / "b.npy", BUNDLE)


def test_no_code_in_a_file_is_run(tmp_path):
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n\x8c\x04true\x85R.")
    for reader in (load_boundary, load_components):
        with pytest.raises(UnsafePickleError):
            reader(tmp_path / "evil.pt", BUNDLE)
        with pytest.raises(CheckpointError):
            reader(tmp_path / "absent.pt", BUNDLE)


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_components_keep_their_length(tmp_path, kind):
    comp = torch.randn(4, W, generator=torch.Generator().manual_seed(4))
    mean, std = torch.randn(1, W), torch.tensor([4.0, 3.0, 2.0, 1.0])
    if kind == "pt":
        torch.save({"mean": mean, "comp": comp, "std": std, "other": 3}, tmp_path / "ffhq_pca.pt")
    else:
        arrays = {"lat_mean": mean, "lat_comp": comp[:, None], "lat_stdev": std, "act_comp": comp}
        np.savez(tmp_path / "ffhq_pca.npz", **{name: value.numpy() for name, value in arrays.items()})
    found = load_components(tmp_path / f"ffhq_pca.{kind}", BUNDLE)
    assert [one.name for one in found] == [f"ffhq_pca {number}" for number in range(4)]
    torch.testing.assert_close(found[2].vectors[0], comp[2] * 2)
    codes = torch.randn(3, SLOTS, W)
    torch.testing.assert_close(
        coordinate(codes, found[1]), (codes[:, 0] - mean) @ comp[1] / 3, rtol=1e-4, atol=1e-5
    )
    assert len(load_components(tmp_path / f"ffhq_pca.{kind}", BUNDLE, 2)) == 2
    with pytest.raises(CheckpointError, match="holds 4 components, 5 were asked for"):
        load_components(tmp_path / f"ffhq_pca.{kind}", BUNDLE, 5)
    with pytest.raises(CheckpointError, match="has a w of"):
        wide = replace(BUNDLE, generator=_wide())
        load_components(tmp_path / f"ffhq_pca.{kind}", wide)
    with pytest.raises(CheckpointError, match="a boundary is one"):
        load_boundary(tmp_path / f"ffhq_pca.{kind}", BUNDLE)


def _wide():
    from oneshot_core.networks import Generator, GeneratorConfig

    return Generator(GeneratorConfig(16, (4, 4, 4), z_dim=8, w_dim=8, mapping_layers=1))


def test_files_without_components_say_what_they_hold(tmp_path):
    torch.save({"latent": torch.zeros(1, W)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="'latent'; components are mean, comp and std"):
        load_components(tmp_path / "x.pt", BUNDLE)
    torch.save({"mean": NORMAL, "comp": NORMAL, "std": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no latent differs along it"):
        load_components(tmp_path / "x.pt", BUNDLE)


def test_slots_of_zeros_are_left_out():
    change = torch.zeros(SLOTS, W)
    change[1, 3] = 2.0
    found = slots_direction(change, name="one")
    assert isinstance(found, Direction) and set(found.vectors) == {1}
