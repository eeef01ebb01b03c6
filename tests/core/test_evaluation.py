"""The referee: figures that can be computed by hand, flags, scales, errors before any work, comparisons."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_runs import run, tiny_inputs
from tiny_networks import tiny_bundle, tiny_encoders

from oneshot_core.blending import blend_generators
from oneshot_core.checkpoints import GeneratorBundle, Provenance
from oneshot_core.evaluation import (
    EvaluationConfig,
    Judges,
    Referee,
    best_step,
    compare,
    evaluate,
    kept_snapshots,
    seen,
    snapshot_rows,
    snapshot_scores,
)
from oneshot_core.evaluation.comparison import best_of
from oneshot_core.evaluation.figures import seeds_text
from oneshot_core.evaluation.taking_part import NO_PART, TOOK_PART, UNKNOWN, clip_part, perceptual_part
from oneshot_core.features import Encoders
from oneshot_core.fingerprints import encoder_fingerprint
from oneshot_core.pairs import sample_pairs
from oneshot_core.sampling import SampleConfig, sample
from oneshot_core.store import RunStore

SIZE, SEEDS = 16, tuple(range(10))
CONFIG = EvaluationConfig(SEEDS, psi=0.8, batch_size=4)


def target(seed: int = 5) -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def child(
    parent: GeneratorBundle, history: Mapping[str, Any] | None = None, seed: int = 3
) -> GeneratorBundle:
    """A generator with the parent's mapping and other weights elsewhere."""
    made = tiny_bundle(parent.size, seed, name="child")
    made.generator.mapping.load_state_dict(parent.generator.mapping.state_dict())
    known = {"file_name": "tiny.pt", "family": parent.family}
    provenance = Provenance("adapted", "tiny.pt", history={"parent": known, **(history or {})})
    return replace(made, mean_latent=parent.mean_latent, discriminator=None, provenance=provenance)


@pytest.fixture(scope="module")
def source() -> GeneratorBundle:
    return tiny_bundle(SIZE)


@pytest.fixture(scope="module")
def adapted(source: GeneratorBundle) -> GeneratorBundle:
    return child(source)


def test_figures_are_those_of_the_pictures_that_sampling_draws(source, adapted) -> None:
    encoders = tiny_encoders()
    found = evaluate(source, adapted, [target()], Judges(encoders), CONFIG)
    pairs = sample_pairs(source, adapted, SEEDS, SampleConfig(psi=0.8))
    before, after = (one.clamp(-1, 1) for one in (pairs.source, pairs.adapted))
    s, a, t = (encoders.clip.encode_images(one) for one in (before, after, target()))
    (clip,) = found.clips
    assert clip.likeness == pytest.approx(float((a @ t.T).mean()), abs=1e-6)
    assert clip.likeness_source == pytest.approx(float((s @ t.T).mean()), abs=1e-6)
    cosines = torch.nn.functional.cosine_similarity(a - s, t - s.mean(0, keepdim=True))
    assert clip.direction == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert found.score == clip.direction * clip.found_again
    assert 0 <= clip.found_again <= 1
    distances = [
        float(encoders.perceptual(after[[i]], after[[j]])) for i, j in itertools.combinations(range(10), 2)
    ]
    assert found.perceptual.diversity == pytest.approx(sum(distances) / 45, rel=1e-5)
    assert found.perceptual.members == (10,) and found.targets == 1


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_the_chunks_do_not_matter(source, adapted, batch: int) -> None:
    found = evaluate(source, adapted, [target()], Judges(tiny_encoders()), replace(CONFIG, batch_size=batch))
    again = evaluate(source, adapted, [target()], Judges(tiny_encoders()), CONFIG)
    assert found.clips[0].likeness == pytest.approx(again.clips[0].likeness, abs=1e-6)
    assert found.perceptual.diversity == pytest.approx(again.perceptual.diversity, rel=1e-5)
    assert found.clips[0].found_again == again.clips[0].found_again


def test_the_source_itself_is_where_every_scale_begins(source) -> None:
    found = evaluate(source, source, [target()], Judges(tiny_encoders()), CONFIG)
    (clip,) = found.clips
    assert clip.likeness == clip.likeness_source and clip.direction == 0 and clip.found_again == 1
    assert found.perceptual.found_again == 1
    assert found.perceptual.diversity == found.perceptual.diversity_source


def test_a_collapsed_generator_is_found_out(source, adapted) -> None:
    """It draws one picture: nobody is found again, and there is no diversity."""
    generator = child(source).generator
    for conv in generator.convs:
        conv.affine.weight.zero_()
    for rgb in generator.to_rgbs:
        rgb.affine.weight.zero_()
    flat = replace(adapted, generator=generator)
    found = evaluate(source, flat, [target()], Judges(tiny_encoders()), CONFIG)
    assert found.clips[0].found_again < 0.3 and found.perceptual.found_again < 0.3
    assert found.perceptual.diversity == pytest.approx(0, abs=1e-6)
    assert found.perceptual.diversity_source > 1e-3


def test_pictures_of_several_targets_are_clustered_by_the_nearest(source, adapted, monkeypatch) -> None:
    monkeypatch.setattr(seen, "MEMBERS", 3)
    pictures = sample(adapted, SEEDS, SampleConfig(psi=0.8)).clamp(-1, 1)
    targets, net = [pictures[[2]], pictures[[7]]], tiny_encoders().perceptual
    found = evaluate(source, adapted, targets, Judges(tiny_encoders()), CONFIG)
    near = torch.stack([net(pictures, one.expand_as(pictures)) for one in targets]).argmin(0)
    clusters = [[i for i in range(10) if near[i] == k][:3] for k in (0, 1)]
    assert found.perceptual.members == tuple(map(len, clusters)) and found.targets == 2
    means = []
    for cluster in clusters:
        pairs = list(itertools.combinations(cluster, 2))
        if pairs:
            means.append(sum(float(net(pictures[[i]], pictures[[j]])) for i, j in pairs) / len(pairs))
    assert found.perceptual.diversity == pytest.approx(sum(means) / len(means), rel=1e-4)
    assert "k 2" in found.text()


def inputs_of(clip: Any, perceptual: Any = None) -> dict[str, Any]:
    told = {} if perceptual is None else {"perceptual": encoder_fingerprint(perceptual)}
    return {"settings": {"inputs": {"clip": [[encoder_fingerprint(clip), 1.0]], **told}}}


def test_who_took_part_is_told_by_fingerprint(source) -> None:
    own, other = tiny_encoders(), tiny_encoders()
    other.clip.weight.mul_(2)
    made = child(source, inputs_of(own.clip, own.perceptual))
    assert clip_part(made, own.clip) == TOOK_PART and clip_part(made, other.clip) == NO_PART
    assert perceptual_part(made, own.perceptual) == TOOK_PART
    assert perceptual_part(child(source, inputs_of(own.clip)), own.perceptual) == NO_PART
    assert clip_part(source, own.clip) == clip_part(child(source), own.clip) == UNKNOWN
    blend = blend_generators(source, made, 0.5)
    assert clip_part(blend, own.clip) == TOOK_PART and clip_part(blend, other.clip) == NO_PART


@pytest.mark.parametrize("inputs", [{}, {"clip": 3}, {"clip": [1]}, {"clip": [], "perceptual": 5}, "text"])
def test_a_history_that_cannot_be_read_is_unknown(source, inputs: Any) -> None:
    made = child(source, {"settings": {"inputs": inputs}})
    assert clip_part(made, tiny_encoders().clip) == UNKNOWN


def test_the_report_flags_a_judge_that_took_part(source) -> None:
    encoders = tiny_encoders()
    made = child(source, inputs_of(encoders.clip))
    found = evaluate(source, made, [target()], Judges(encoders), CONFIG)
    assert not found.is_independent
    assert "took part in the adaptation: its CLIP-I says how well it was optimised" in found.text()
    assert any("!" in line for line in found.figures())
    other = tiny_encoders()
    other.clip.weight.mul_(2)
    both = Encoders(((other.clip, 1.0), (encoders.clip, 1.0)), encoders.perceptual)
    parts = [one.part for one in evaluate(source, made, [target()], Judges(both), CONFIG).clips]
    assert parts == [NO_PART, TOOK_PART]


def test_the_values_are_json_and_say_what_the_figures_depend_on(source, adapted) -> None:
    found = evaluate(source, adapted, [target()], Judges(tiny_encoders()), CONFIG)
    values = json.loads(json.dumps(found.values(), allow_nan=False))
    assert values["pictures"] == 10 and values["settings"] == {
        "seeds": list(SEEDS),
        "psi": 0.8,
        "classes": [],
    }
    assert values["clip"][0]["part"] == UNKNOWN and values["references"] is None
    assert values["fingerprints"]["clip"] == [encoder_fingerprint(tiny_encoders().clip)]
    assert set(values["versions"]) == {"oneshot-stylegan", "torch", "python"}
    text = found.text()
    assert "10 latents: seeds 0-9, psi 0.8; 1 target" in text and "by chance 0.10" in text
    assert seeds_text((0, 1, 2, 7, 9, 10)) == "0-2,7,9-10"


def test_the_sheet_shows_both_looks_the_target_and_the_figures(source, adapted) -> None:
    few, many = (
        evaluate(source, adapted, [target()], Judges(tiny_encoders()), replace(CONFIG, shown=shown)).sheet()
        for shown in (2, 8)
    )
    assert few.width < many.width and few.height == many.height


class Pooled:
    """Stands where Inception and the face network do."""

    name = "pooled"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def test_reference_pictures_give_kid_and_fid(source, adapted) -> None:
    own = list(sample(adapted, range(100, 112), SampleConfig(psi=0.8)).clamp(-1, 1).split(1))
    far = [one * 0 + 1 for one in own]
    judges = Judges(tiny_encoders(), inception=Pooled())
    near, away = (
        evaluate(source, adapted, [target()], judges, CONFIG, references=one).references for one in (own, far)
    )
    assert near.pictures == 12 and (near.subsets, near.subset_size) == (100, 10)
    assert near.kid < away.kid and near.fid < away.fid
    same = list(sample(adapted, SEEDS, SampleConfig(psi=0.8)).clamp(-1, 1).split(1))
    exact = evaluate(source, adapted, [target()], judges, CONFIG, references=same)
    assert exact.references.fid == pytest.approx(0, abs=1e-6) and exact.references.subsets == 1
    assert "to 10 reference pictures" in exact.text() and "compare only equal numbers" in exact.text()


def test_identity_is_that_of_the_same_latents(source, adapted) -> None:
    judges = Judges(tiny_encoders(), faces=Pooled())
    own = evaluate(source, source, [target()], judges, CONFIG).identity
    assert own.cosine == pytest.approx(1) and own.others < 1
    other = evaluate(source, adapted, [target()], judges, CONFIG)
    assert other.identity.cosine < 1 and "identity (pooled)" in other.text()


def test_progress_counts_pictures_and_a_poll_stops_at_once(source, adapted) -> None:
    told: list[tuple[int, int]] = []
    evaluate(
        source, adapted, [target()], Judges(tiny_encoders()), CONFIG, progress=lambda *now: told.append(now)
    )
    assert told == [(4, 20), (8, 20), (10, 20), (14, 20), (18, 20), (20, 20)]

    class Cancelled(BaseException):
        pass

    polls: list[int] = []

    def poll() -> None:
        polls.append(1)
        if len(polls) == limit:
            raise Cancelled

    for limit in (1, 4, 8):
        polls.clear()
        with pytest.raises(Cancelled):
            evaluate(source, adapted, [target()], Judges(tiny_encoders()), CONFIG, poll=poll)
        assert len(polls) == limit


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seeds": (1,)}, "seeds must be 2 to"),
        ({"seeds": range(6000)}, "seeds must be 2 to"),
        ({"seeds": (1, 1)}, "must all differ"),
        ({"psi": 0.0}, "psi must not be 0"),
        ({"psi": float("nan")}, "psi"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"shown": 0}, "shown must be at least 1"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EvaluationConfig(**settings)


def test_what_does_not_fit_is_refused_before_anything_is_drawn(source, adapted, monkeypatch) -> None:
    monkeypatch.setattr(seen.Sitting, "see", lambda *_: pytest.fail("drawn"))
    judges, stranger = Judges(tiny_encoders()), tiny_bundle(SIZE, seed=9, name="stranger")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"targets": []}, "at least one target"),
        ({"targets": [target()[..., :8]]}, "a target must have shape"),
        ({"targets": [target() * float("nan")]}, "a target is not made of finite numbers"),
        ({"references": [target(), target()]}, "need the Inception network"),
        ({"references": [target()], "judges": Judges(tiny_encoders(), Pooled())}, "at least two reference"),
        ({"adapted": stranger}, "was not adapted from"),
    ]
    for given, said in cases:
        values = {"adapted": adapted, "targets": [target()], "judges": judges, "references": (), **given}
        with pytest.raises(ValueError, match=said):
            evaluate(
                source, values["adapted"], values["targets"], values["judges"], CONFIG,
                references=values["references"],
            )  # fmt: skip


def test_rows_are_judged_alike_and_the_best_is_marked(source, adapted) -> None:
    other = child(source, seed=8)
    referee = Referee(source, [target()], Judges(tiny_encoders()), CONFIG, rows=3)
    rows = [("one", lambda: adapted), ("two", lambda: other), ("source", lambda: source)]
    found = compare(referee, rows)
    assert [name for name, _ in found.rows] == ["one", "two", "source"]
    alone = evaluate(source, other, [target()], Judges(tiny_encoders()), CONFIG)
    assert found.rows[1][1].values() == alone.values()
    assert found.rows[found.best][1].score == max(one.score for _, one in found.rows)
    assert f"highest score: {found.rows[found.best][0]}" in found.text()
    assert json.loads(json.dumps(found.values()))["best"] == found.best
    assert found.sheet().height > alone.sheet().height
    with pytest.raises(ValueError, match=r"^stranger: .* was not adapted from"):
        compare(referee, [("stranger", lambda: tiny_bundle(SIZE, seed=9))])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(referee, [])
    assert best_of([1.0, 2.0, 2.0]) == 1


@pytest.mark.slow
def test_the_snapshots_of_a_kept_run_are_found_by_what_the_result_says(tmp_path: Path) -> None:
    world = tiny_inputs()
    result, _ = run(tmp_path, world)
    other, _ = run(tmp_path, world, seed=4)
    store = RunStore(tmp_path)
    files = kept_snapshots(store, result.bundle)
    assert list(files) == [2, 4] and files == dict(result.snapshots)
    assert not set(files.values()) & set(kept_snapshots(store, other.bundle).values())
    referee = Referee(world.source, [world.target], Judges(tiny_encoders()), EvaluationConfig(SEEDS), rows=2)
    found = compare(referee, snapshot_rows(files))
    assert [name for name, _ in found.rows] == ["step 2", "step 4"]
    scores = snapshot_scores(referee, files)
    assert list(scores.items()) == [
        (step, one.score) for step, (_, one) in zip(files, found.rows, strict=True)
    ]
    assert best_step(scores) == list(files)[found.best]


def test_a_run_that_is_not_kept_is_told(tmp_path: Path, source, adapted) -> None:
    with pytest.raises(ValueError, match="does not say how it was adapted"):
        kept_snapshots(RunStore(tmp_path), adapted)
    with pytest.raises(ValueError, match="no snapshots of .* are kept"):
        kept_snapshots(RunStore(tmp_path / "none"), child(source, inputs_of(tiny_encoders().clip)))
    referee = Referee(source, [target()], Judges(tiny_encoders()), CONFIG)
    with pytest.raises(ValueError, match="keeps no snapshot"):
        snapshot_scores(referee, {})
