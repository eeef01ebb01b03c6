"""A recorded run of another method, StyleGAN-NADA with a direction from pictures, through the public code.

The method is no preset yet: its term stands here, which shows that a new method is a term and a table.
Fixtures: tests/golden_methods, or the folder that ONESHOT_GOLDEN_METHODS names.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from golden_support import assert_checks, fill_with_formula, formula_weights, rules
from rosinality_names import fill, original_state
from safetensors.torch import load_file
from torch import Tensor

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.draws import RecordedDraws
from oneshot_core.features import Encoders
from oneshot_core.features.clip import ClipEncoder, ClipPreprocess, build_clip
from oneshot_core.networks import Generator, GeneratorConfig
from oneshot_core.objective import (
    Aim,
    Batch,
    Needs,
    Objective,
    OptimiserPlan,
    Preset,
    Prior,
    StepContext,
    StepKind,
    Term,
    WeightedTerm,
)
from oneshot_core.objective.terms import direction_distance
from oneshot_core.training import Callback, TrainState, train

pytestmark = pytest.mark.golden
FOLDER = Path(os.environ.get("ONESHOT_GOLDEN_METHODS") or Path(__file__).parents[1] / "golden_methods")
FIRST_STEPS = 1


def traces() -> list[Path]:
    """Recorded runs of NADA whose direction comes from pictures and whose layers are not selected."""
    found = []
    for path in sorted(FOLDER.glob("nada_trace_*_modern.json")):
        meta = json.loads(path.read_text(encoding="utf-8"))["meta"]
        if meta.get("image_direction") and not meta["config"]["auto_layer_iters"]:
            found.append(path)
    return found


@dataclass(frozen=True)
class Directional(Term):
    """Pictures change along given directions of CLIP's feature space, one direction per model."""

    directions: tuple[tuple[float, ...], ...]

    @property
    def needs(self) -> Needs:
        return Needs(views=frozenset({"main"}), clip=True)

    def __call__(self, step: StepContext) -> Tensor:
        view = step.view()

        def loss(index: int) -> Tensor:
            features = view.clip(index)
            direction = torch.tensor(self.directions[index]).to(features)
            return direction_distance(features, view.source_clip(index), direction).mean()

        return step.over_clips(loss)


class Trace:
    """One recorded run and what it started from."""

    def __init__(self, path: Path) -> None:
        description = json.loads(path.read_text(encoding="utf-8"))
        self.meta, self.iterations = description["meta"], description["iterations"]
        self.config = self.meta["config"]
        self.tensors = {
            name: value.double() if value.is_floating_point() else value
            for name, value in load_file(FOLDER / self.meta["tensors"]).items()
        }
        self.draws32 = load_file(FOLDER / self.meta["tensors"])

    def bundle(self) -> GeneratorBundle:
        size, width = self.config["size"], self.meta["style_dim"]
        levels = size.bit_length() - 2
        channels = tuple(512 if 4 << level <= 32 else 16384 // (4 << level) for level in range(levels))
        config = GeneratorConfig(size, channels, z_dim=width, w_dim=width, mapping_layers=self.meta["n_mlp"])
        seed, table, prefix = self.config["seed"], rules("rosinality_rules"), self.meta["prefix"]
        weights = lambda name, shape: formula_weights(name, shape, seed, prefix, table)  # noqa: E731
        generator = fill(Generator(config), weights).double().eval().requires_grad_(False)
        mean = torch.zeros(width, dtype=torch.float64)
        return GeneratorBundle(generator, None, None, mean, Provenance("golden", "trace"))

    def encoders(self) -> Encoders:
        known = json.loads((FOLDER / "nada_losses.json").read_text(encoding="utf-8"))["meta"]["clip_models"]
        clips = []
        for name, weight in zip(self.config["clip_models"], self.config["clip_model_weights"], strict=True):
            model = build_clip(known[name]["clip_config"])
            fill_with_formula(model, known[name]["prefix"], self.config["seed"], rules("clip_rules"))
            side = known[name]["clip_config"]["vision_cfg"]["image_size"]
            preprocess = ClipPreprocess(side, antialias=self.config["antialias"])
            clips.append((ClipEncoder(model.double(), preprocess), weight))
        return Encoders(tuple(clips), None)

    def preset(self) -> Preset:
        named = self.meta["image_direction"]["direction"]
        directions = tuple(
            tuple(self.tensors[named[name]].flatten().tolist()) for name in self.config["clip_models"]
        )
        objective = Objective(
            (WeightedTerm("direction", Directional(directions), self.config["lambda_direction"]),)
        )
        batch = Batch(
            Prior(self.config["mixing"]), self.config["batch"], shared_mixing=False, shared_noise=False
        )
        adam = self.meta["adam"]
        ratio = OptimiserPlan().generator_ratio
        plan = OptimiserPlan(
            learning_rate=adam["lr"] / ratio,
            betas=tuple(beta ** (1 / ratio) for beta in adam["betas"]),
            average_half_life=None,
        )
        return Preset("stylegan_nada", (StepKind("free", objective, {"main": batch}),), optimiser=plan)

    def draws(self) -> RecordedDraws:
        table = {}
        for step, entry in enumerate(self.iterations):
            latents = entry["n_latents"]
            table[step, "adapted.mix"] = torch.tensor(0.0 if latents == 2 else 1.0)
            table[step, "adapted.z"] = self.draws32[entry["z"]]
            for ours, theirs in (("adapted", "g_dst"), ("source", "g_src")):
                for index, key in enumerate(entry[theirs]["noise"]):
                    table[step, f"{ours}.noise.{index}"] = self.draws32[key]
                if "inject_index" in entry[theirs]:  # the engine draws crossover - 1
                    table[step, f"{ours}.crossover"] = torch.tensor(entry[theirs]["inject_index"] - 1)
        return RecordedDraws(table)


@dataclass
class Follower(Callback):
    """Compare losses and weights after every step."""

    trace: Trace

    def after_step(self, state: TrainState) -> None:
        entry = self.trace.iterations[state.step - 1]
        place = f"step {state.step - 1}"
        assert abs(state.history["generator"][-1] - entry["loss"]) < 1e-8, place
        weights = original_state(state.adapted)
        for name, check in entry["weights_after"].items():
            assert_checks(weights[name], check, 1e-8, f"{place}, {name}")


def replay(path: Path, steps: int) -> None:
    trace = Trace(path)
    state = TrainState.create(trace.bundle(), trace.encoders(), Aim(), trace.preset(), trace.draws())
    train(state, steps, [Follower(trace)])
    assert state.step == steps and state.ema is state.adapted and state.discriminator is None


@pytest.mark.excerpt
@pytest.mark.parametrize("path", traces(), ids=lambda path: path.stem)
def test_nada_follows_the_first_iteration(path: Path) -> None:
    replay(path, FIRST_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("path", traces(), ids=lambda path: path.stem)
def test_nada_follows_all_recorded_iterations(path: Path) -> None:
    replay(path, len(Trace(path).iterations))


def test_there_is_a_recording() -> None:
    assert traces(), f"no recorded NADA run in {FOLDER}"
