"""The editing benchmark's arithmetic: lengths of edits, selectivity and rank, overlaps, tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import editing  # noqa: E402 - a script, not a package
import editing_measures as measures  # noqa: E402
import editing_methods as methods  # noqa: E402
import editing_validation as validation  # noqa: E402

sys.path[0] = str(ROOT / "docs")
import make_pictures as pictures  # noqa: E402

sys.path.pop(0)

from oneshot_core.demo.making.sentences import READINGS  # noqa: E402
from oneshot_core.demo.world import demo_generator, demo_recipe  # noqa: E402
from oneshot_core.editing.direction import Direction  # noqa: E402
from oneshot_core.editing.statistics import style_statistics  # noqa: E402
from oneshot_core.edits import LatentEdit  # noqa: E402


def effect(**changes: float) -> measures.Effect:
    return measures.Effect({name: changes.get(name, 0.1) for name in measures.FIT})


def test_selectivity_and_rank():
    found = effect(skin=1.8, beard=-1.0)
    assert found.selectivity("skin") == pytest.approx(1.8 / ((8 * 0.1 + 1.0) / 9))
    assert found.rank("skin") == 1 and found.rank("yaw") == 3
    assert found.rank("beard") == 10 and found.selectivity("beard") < 0


def test_edits_of_every_space_get_one_length():
    bundle = demo_generator()
    statistics = style_statistics(bundle, count=2000)
    latent = measures.people(bundle, 0, 3)
    slots = (bundle.generator.config.w_dim,) * bundle.num_layers
    direction = Direction("w", {0: torch.ones(slots[0])}, slots).at(1.0)
    each = LatentEdit("style", {3: torch.tensor([[1.0], [2.0], [0.5]]).expand(3, 128)}, statistics.widths)
    for edit in (direction, each):
        moved = measures.at_length(latent, edit, 8.0, statistics)
        assert measures.length_of(moved, statistics).tolist() == pytest.approx([8.0] * 3, rel=1e-3)


def test_what_stays_stays():
    bundle = demo_generator()
    statistics = style_statistics(bundle, count=2000)
    latent = measures.people(bundle, 0, 2)
    some = LatentEdit("style", {0: torch.tensor([[0.0], [1.0]]).expand(2, 128)}, statistics.widths)
    found = measures.length_of(measures.at_length(latent, some, 8.0, statistics), statistics)
    assert found.tolist() == pytest.approx([0.0, 8.0], rel=1e-3)


def test_overlap():
    one, two = torch.tensor([4.0, -3.0, 2.0, 1.0]), torch.tensor([1.0, -4.0, 3.0, 2.0])
    assert validation.overlap(one, two, 2) == 0.5
    assert validation.overlap(one, two, 2, 4) == 1.0


def test_tuning_texts_are_not_reported():
    assert not set(editing.TUNING.values()) & {READINGS[name] for name in set(measures.FIT)}
    assert set(measures.FIT) <= set(READINGS) and set(methods.BLIND) <= set(methods.METHODS)


def test_the_report_counts_what_passes():
    def row(factor: str, selectivity: float, rank: int) -> dict:
        return {
            "method": "gradient", "encoder": "demo", "factor": factor, "where": "source", "change": 1.0,
            "selectivity": selectivity, "rank": rank, "forwards": 5, "backwards": 5, "seconds": 2.0,
            "peak_mb": 900,
        }  # fmt: skip

    readings = {"demo": {**dict.fromkeys(measures.FIT, 0.9), "yaw": 0.4}}
    rows = [row("skin", 3.5, 1), row("beard", 2.0, 1), row("glasses", 9.0, 2), row("yaw", 9.0, 1)]
    told = editing.report(rows, readings)
    assert "| gradient | 1 of 3 | 0 of 0 | 6.2 | 5 / 5 | 2.0 | 900 |" in told
    elsewhere = editing.report([{**row("skin", 3.5, 1), "where": "adapted"}], readings)
    assert "| gradient | 0 of 0 | 1 of 1 | 3.5 |" in elsewhere
    assert "| skin | 0.90 | +1.00 / 3.5 / 1 |" in told and "| light | 0.90 | – |" in told


@pytest.mark.slow
def test_the_adapted_generator_is_made_where_there_is_none(tmp_path, monkeypatch):
    whole = demo_recipe(editing.LOOK)
    search, training = replace(whole.search, steps=1), replace(whole.training, steps=1)
    monkeypatch.setattr(editing, "demo_recipe", lambda _: replace(whole, search=search, training=training))
    made = editing.adapted_generator(tmp_path / "adapted.safetensors", "constant,convolution,noise")
    affine, own = (one.generator.convs[0].affine.weight for one in (made, demo_generator()))
    assert torch.equal(affine, own)
    again = editing.adapted_generator(tmp_path / "adapted.safetensors")
    assert torch.equal(made.generator.const, again.generator.const)


@pytest.mark.slow
def test_the_pictures_counterpart_is_searched(tmp_path):
    assert pictures.searched(tmp_path, "comic", 1).values.shape[0] == 1
