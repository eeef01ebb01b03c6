"""A method that nobody built in, of two terms, two batches and two CLIPs: trained, resumed and refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from stand_ins import StandInClip, StandInPerceptual, picture, tiny_bundle
from torch import Tensor

from oneshot_core.checkpoints.bundle import estimate_mean_latent
from oneshot_core.features import Encoders
from oneshot_core.objective import (
    Aim,
    Batch,
    Needs,
    Objective,
    OptimiserPlan,
    Preset,
    Prior,
    Reference,
    StepContext,
    StepKind,
    Term,
    Trainable,
    WeightedTerm,
)
from oneshot_core.objective.adversarial import Fool
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.objective.terms import LatentDeviation
from oneshot_core.training import TrainConfig, adapt
from oneshot_core.training.memory import training_bytes

SIZE = 32


@dataclass(frozen=True)
class Across(Term):
    """The reference's picture keeps its CLIP distance to a batch of others."""

    others: str = "others"

    @property
    def needs(self) -> Needs:
        return Needs(views=frozenset({"main", self.others}), clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        main, others = step.view(), step.view(self.others)
        return step.over_clips(
            lambda i: (
                (main.clip(i) @ others.clip(i).T - main.source_clip(i) @ others.source_clip(i).T)
                .square()
                .mean()
            )
        )


@dataclass(frozen=True)
class Jitter(Term):
    """Pixels near the target's, with random weights."""

    purpose: str = "jitter"

    @property
    def needs(self) -> Needs:
        return Needs(views=frozenset({"main"}), target=True)

    @property
    def draws(self) -> tuple[str, ...]:
        return (self.purpose,)

    def check(self, size: int) -> None:
        if size > 512:
            raise ValueError(f"jitter is for pictures of at most 512 px, got {size}")

    def __call__(self, step: StepContext) -> Tensor:
        weights = step.draws.uniform(self.purpose, step.goal.targets.shape)
        return (weights.to(step.goal.targets) * (step.view().adapted - step.goal.targets).square()).mean()


def toy(**settings) -> Preset:
    objective = Objective((WeightedTerm("across", Across(), 2.0), WeightedTerm("jitter", Jitter())))
    batches = {"main": Batch(Reference()), "others": Batch(Prior(0.5), 3, mapping="own")}
    values = {"optimiser": OptimiserPlan(average_half_life=None), "trainable": Trainable(("mapping", "rgb"))}
    kinds = (StepKind("both", objective, batches),)
    return Preset(**{"name": "toy", "kinds": kinds, **values, **settings})


def encoders(second_weight: float = 0.5) -> Encoders:
    return Encoders(((StandInClip(), 1.0), (StandInClip(7), second_weight)), StandInPerceptual())


def run(
    steps: int, preset: Preset | None = None, folder: Path | None = None, aim: Aim | None = None, **given
):
    bundle = tiny_bundle(SIZE)
    aim = aim or Aim(picture(SIZE), bundle.mean_latent[None])
    config = TrainConfig(steps=steps, checkpoint_every_steps=2)
    return adapt(bundle, given.get("encoders") or encoders(), aim, preset or toy(), config, run_folder=folder)


def test_it_trains_what_it_names_and_nothing_else():
    before, after = tiny_bundle(SIZE).generator.state_dict(), run(4).bundle.generator.state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"mapping", "to_rgbs"}


def test_a_mapping_that_is_trained_has_a_mean_of_its_own_and_a_batch_that_it_maps():
    source, result = tiny_bundle(SIZE), run(4).bundle
    torch.testing.assert_close(result.mean_latent, estimate_mean_latent(result.generator))
    assert not torch.equal(result.mean_latent, source.mean_latent)
    with pytest.raises(ValueError, match="every batch maps with the source's"):
        dataclasses.replace(oneshot_clip(), trainable=Trainable(("mapping", "affine")))


def test_it_resumes_exactly(tmp_path):
    whole = run(5)
    run(2, folder=tmp_path)
    resumed = run(5, folder=tmp_path)
    theirs = resumed.bundle.generator.state_dict()
    assert all(torch.equal(v, theirs[name]) for name, v in whole.bundle.generator.state_dict().items())
    assert whole.losses == resumed.losses and set(whole.losses) == {"across", "jitter", "generator"}


def test_a_second_clip_counts_by_its_weight():
    first, second = (run(2, encoders=encoders(weight)).losses["across"][1] for weight in (0.5, 1.5))
    assert first != second


def test_another_clip_is_another_run(tmp_path):
    run(2, folder=tmp_path)
    with pytest.raises(ValueError, match="clip"):
        run(4, folder=tmp_path, encoders=encoders(0.25))


def test_what_it_lacks_is_said_before_any_work():
    for settings, aim, message in (
        ({}, Aim(None, torch.zeros(1, 7)), "needs a target picture"),
        ({}, Aim(picture(SIZE)), "needs the reference latent"),
        ({}, Aim(picture(SIZE), torch.zeros(1, 8)), "reference latent must have shape"),
        ({}, Aim(picture(16), torch.zeros(1, 7)), "target must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            run(1, toy(**settings), aim=aim)


def test_texts_are_needed_only_where_a_term_says_so():
    @dataclass(frozen=True)
    class Worded(Jitter):
        @property
        def needs(self) -> Needs:
            return dataclasses.replace(super().needs, texts=True)

    kind = toy().kinds[0]
    worded = dataclasses.replace(kind, objective=Objective((WeightedTerm("worded", Worded()),)))
    with pytest.raises(ValueError, match="needs a source text and a target text"):
        run(1, toy(kinds=(worded,)))


def test_a_searchs_term_and_a_missing_discriminator_are_refused():
    kind = toy().kinds[0]
    searching = Objective((*kind.objective.terms, WeightedTerm("deviation", LatentDeviation())))
    with pytest.raises(ValueError, match="belongs to a latent search"):
        run(1, toy(kinds=(dataclasses.replace(kind, objective=searching),)))
    fooling = Objective((*kind.objective.terms, WeightedTerm("adversarial", Fool("image"))))
    with pytest.raises(ValueError, match="has no discriminator plan"):
        toy(kinds=(dataclasses.replace(kind, objective=fooling),))


def test_a_term_refuses_sizes_that_it_does_not_fit():
    toy().kinds[0].check(512)
    with pytest.raises(ValueError, match="at most 512 px, got 1024"):
        toy().kinds[0].check(1024)


def test_its_memory_is_estimated_from_its_own_phases():
    bundle = tiny_bundle(SIZE)
    aim = Aim(picture(SIZE), bundle.mean_latent[None])
    kind = toy().kinds[0]
    larger = {**kind.batches, "others": dataclasses.replace(kind.batches["others"], size=64)}
    more = toy(kinds=(dataclasses.replace(kind, batches=larger),))
    small, large = (training_bytes(bundle, encoders(), aim, preset) for preset in (toy(), more))
    assert small < large
