"""Reference latents of an adaptation: what they say of their search, and when that does not belong to it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_runs import SIZE, recipe_of, tiny_inputs
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import GeneratorBundle
from oneshot_core.inputs import Inputs, prepared
from oneshot_core.latent_files import load_latent, save_latent
from oneshot_core.latents import Latent
from oneshot_core.pipeline import search_recipe
from oneshot_core.references import keep_reference, kept_reference
from oneshot_core.store import RunStore

SEARCH = {"search": {"steps": 2}}


@pytest.fixture(scope="module")
def world() -> Inputs:
    return replace(tiny_inputs(), reference=None)


def half_mask() -> torch.Tensor:
    mask = torch.ones(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 0
    return mask


def searched(root: Path, world: Inputs, **aim: Any) -> Latent:
    """The latent of a search, after it was written to a file and read again."""
    recipe, inputs = prepared(recipe_of(**SEARCH, aim=aim), world, "search")
    found = search_recipe(recipe, inputs, RunStore(root)).latent
    return load_latent(save_latent(found, root / "found.safetensors"))


def notes(world: Inputs, reference: Latent, **aim: Any) -> list[str]:
    """What is said of an adaptation with a reference."""
    told = prepared(recipe_of(aim=aim), replace(world, reference=reference))[1].notes
    return [line for line in told if line.startswith("the reference")]


def test_a_reference_of_the_same_target_passes_without_a_word(tmp_path: Path, world: Inputs) -> None:
    masked = replace(world, mask=half_mask())
    assert notes(world, searched(tmp_path / "a", world)) == []
    assert notes(masked, searched(tmp_path / "b", masked)) == []


def test_a_reference_of_another_target_or_mask_is_told(tmp_path: Path, world: Inputs) -> None:
    reference = searched(tmp_path, world)
    other = replace(world, target=-world.target)
    (said,) = notes(other, reference)
    assert said.startswith("the reference was searched for another target picture, or another part of it, so")
    (said,) = notes(other, reference, zoom=2, offset_x=-0.5)
    assert "(it was framed crop, here it is crop at zoom 2, offsets -0.5 and 0)" in said
    (said,) = notes(replace(world, mask=half_mask()), reference)
    assert said.startswith("the reference was searched without a mask, so the two are no pair")
    masked = searched(tmp_path / "b", replace(world, mask=half_mask()), fit="letterbox")
    (said,) = notes(other, masked)
    assert "another part of it (it was framed letterbox, here it is crop) and with another mask" in said


def sibling(bundle: GeneratorBundle) -> GeneratorBundle:
    """Another generator of the same family, as an adaptation is."""
    other = copy.deepcopy(bundle.generator)
    other.const.mul_(2)
    return replace(bundle, generator=other)


def test_a_reference_of_another_generator_is_told_or_refused(tmp_path: Path, world: Inputs) -> None:
    reference = searched(tmp_path, world)
    (said,) = notes(replace(world, source=sibling(world.source)), reference)
    assert said.startswith("the reference was searched with another generator of the same family, so")
    with pytest.raises(
        ValueError, match=r"this reference is of another generator than tiny.pt: use the generator"
    ):
        notes(replace(world, source=tiny_bundle(SIZE, seed=1)), reference)


@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"method": "seeds", "seeds": [1]},
        {"recipe": None},
        {"recipe": {"format": "other"}},
        {"recipe": {"inputs": {}}},
        {"recipe": {"training": {"steps": -1}, "inputs": {"target": "x"}}},
        {"recipe": {"inputs": {"source": "x"}}},
    ],
    ids=str,
)
def test_a_latent_that_no_search_found_says_nothing(world: Inputs, origin: dict[str, Any]) -> None:
    codes = world.source.mean_latent[None].clone()
    assert notes(world, Latent("w", codes, world.source.family, origin)) == []


def test_a_reference_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    path, latent = tmp_path / "x.safetensors", Latent("w", torch.ones(1, 4), origin={"a": 1})
    assert kept_reference(path) is None
    keep_reference(latent, path)
    before = path.stat().st_mtime_ns
    keep_reference(latent, path)
    assert path.stat().st_mtime_ns == before
    keep_reference(replace(latent, values=torch.zeros(1, 4)), path)
    found = kept_reference(path)
    assert found is not None and not found.values.any()
    path.write_bytes(b"damaged")
    assert kept_reference(path) is None
    keep_reference(latent, path)
    assert torch.equal(load_latent(path).values, latent.values)
