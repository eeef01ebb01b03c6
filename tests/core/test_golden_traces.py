"""Replay of the recorded official training runs through the public search and training code (golden section
7)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_support import (
    assert_checks,
    cases,
    describe,
    fill_with_formula,
    formula_weights,
    rules,
    tensors_of,
)
from rosinality_names import fill, original_state
from torch import nn

from oneshot_core.checkpoints.bundle import GeneratorBundle, Provenance
from oneshot_core.draws import RecordedDraws
from oneshot_core.features import Encoders
from oneshot_core.features.clip import ClipEncoder, build_clip
from oneshot_core.networks import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from oneshot_core.objective import OFFICIAL, Aim
from oneshot_core.objective.presets import oneshot_clip
from oneshot_core.search import SearchConfig, search_latent
from oneshot_core.training import Callback, TrainState, train

pytestmark = pytest.mark.golden
TRACES = cases("trace_*.json")
SEARCHES = cases(
    "trace_*_f64_*.json",
    lambda told: bool(told["step1"]),  # no losses in float32
    slow=lambda told: len(told["step1"]) > 2,
)


class NoPerceptual(nn.Module):
    """The recorded runs replaced LPIPS by the constant 0."""

    def features(self, images):
        return []

    def distance(self, first, second, dropout=None):
        return torch.zeros(1)


class Trace:
    """One recorded run and the networks it started from."""

    def __init__(self, path: Path) -> None:
        self.description = describe(path)
        # a float32 trace stores losses only; its draws are those of the float64 run of the same settings
        self.tensors = tensors_of(path.with_name(path.name.replace("_f32_", "_f64_")))
        self.meta = self.description["meta"]
        self.config = self.meta["config"]
        self.dtype = torch.float64 if self.meta["dtype"] == "f64" else torch.float32
        size, multiplier = self.config["size"], self.config["cm"]
        resolutions = [2**level for level in range(2, int(np.log2(size)) + 1)]
        channels = tuple(512 if side <= 32 else 16384 // side * multiplier for side in resolutions)
        self.generator_config = GeneratorConfig(
            size=size,
            channels=channels,
            z_dim=self.config["latent"],
            w_dim=self.config["latent"],
            mapping_layers=self.config["n_mlp"],
        )
        self.discriminator_config = DiscriminatorConfig(size=size, channels=channels)

    def weights(self, prefix: str):
        seed, table = self.config["seed"], rules("rosinality_rules")
        return lambda name, shape: formula_weights(name, shape, seed, prefix, table)

    def bundle(self) -> GeneratorBundle:
        raw = fill(Generator(self.generator_config), self.weights("g.")).to(self.dtype)
        ema = fill(Generator(self.generator_config), self.weights("g_ema.")).to(self.dtype)
        judge = fill(Discriminator(self.discriminator_config), self.weights("d.")).to(self.dtype)
        return GeneratorBundle(
            generator=ema.eval().requires_grad_(False),
            discriminator=judge.eval().requires_grad_(False),
            raw_generator=raw.eval().requires_grad_(False),
            mean_latent=self.tensors["w_mean"].reshape(-1).to(self.dtype),
            provenance=Provenance(
                format="golden", file_name="trace", sha256=None, inferred={}, notes=(), history={}
            ),
        )

    def encoders(self) -> Encoders:
        model = build_clip(self.meta["clip_config"])
        fill_with_formula(model, "clip.", self.config["seed"], rules("clip_rules"))
        return Encoders.of(ClipEncoder(model.to(self.dtype)), NoPerceptual())

    @property
    def target(self) -> torch.Tensor:
        return self.tensors["target"].to(self.dtype)[None]

    def preset(self):
        config = self.config
        profile = dataclasses.replace(
            OFFICIAL,
            zero_filled_grads=self.meta["zero_grad"] == "legacy",
            crop_px=config["crop"],
            patch_negatives="all" if config["nce"] else OFFICIAL.patch_negatives,
            lpips_dropout=False,  # LPIPS is the constant 0 here
        )
        preset = oneshot_clip(profile).reweighted(
            {"patch": config["lambda_patch"], "semantic": config["lambda_const"]}
        )
        preset = preset.adjusted("patch", crops=config["ncrop"], temperature=config["tau"])
        preset = preset.scheduled({"reference": 1, "random": config["ref_freq"] - 1})
        plan = dataclasses.replace(
            preset.discriminator,
            r1_gamma=config["r1"],
            r1_every=config["d_reg_every"],
            heads=config["highp"],
        )
        preset = preset.rebatched(config["batch"], config["mixing"])
        return dataclasses.replace(preset, discriminator=plan)

    def search_draws(self) -> RecordedDraws:
        table = {}
        for step, entry in enumerate(self.description["step1"]):
            for index, key in enumerate(entry["g_source"]["noise"]):
                table[step, f"search.noise.{index}"] = self.tensors[key]
        return RecordedDraws(table)

    def training_draws(self) -> RecordedDraws:
        table = {
            (0, f"heads.{index}.weight"): torch.zeros(
                1, self.discriminator_config.channels[3 if index < 2 else 2], 3, 3
            )
            for index in range(4)
        }
        for step, entry in enumerate(self.description["iterations"]):
            for ours, theirs in (("discriminator", "d_fake"), ("adapted", "g_fake"), ("source", "g_src")):
                if theirs in entry:
                    self._add_call(table, step, ours, entry[theirs])
            for ours, theirs in (
                ("fake", "disc_fake"),
                ("real", "disc_real"),
                ("r1", "disc_r1"),
                ("adapted", "disc_g"),
            ):
                if theirs in entry:
                    table[step, f"{ours}.head"] = torch.tensor(entry[theirs]["p_ind"])
            if "flips" in entry["real"]:
                table[step, "real.flip"] = torch.tensor(entry["real"]["flips"])
            if "crops_xy" in entry:
                table[step, "crops"] = torch.tensor(entry["crops_xy"])
        return RecordedDraws(table)

    def _add_call(self, table: dict, step: int, purpose: str, call: dict) -> None:
        for index, key in enumerate(call["noise"]):
            table[step, f"{purpose}.noise.{index}"] = self.tensors[key]
        if "mix_uniform" in call:
            table[step, f"{purpose}.mix"] = torch.tensor(call["mix_uniform"], dtype=torch.float64)
            table[step, f"{purpose}.z"] = self.tensors[call["z"]]
        if "inject_index" in call:  # the engine draws crossover - 1
            table[step, f"{purpose}.crossover"] = torch.tensor(call["inject_index"] - 1)


@pytest.fixture(scope="module", params=TRACES)
def trace(request) -> Trace:
    return Trace(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("trace", SEARCHES, indirect=True)
def test_search_follows_the_recorded_steps(trace: Trace) -> None:
    entries = trace.description["step1"]
    seen = []
    config = SearchConfig(
        steps=len(entries),
        learning_rate=trace.config["f_lr"],
        augment=False,
        profile=dataclasses.replace(OFFICIAL, lpips_dropout=False),
        weights={
            "clip": trace.config["lambda_optclip"],
            "deviation": trace.config["lambda_optl2"],
            "pixel": trace.config["lambda_optrec"],
        },
    )
    result = search_latent(
        trace.bundle(),
        trace.encoders(),
        trace.target,
        config,
        start=trace.tensors["w_mean"].reshape(-1),
        draws=trace.search_draws(),
        callbacks=[seen.append],
    )
    for entry, progress in zip(entries, seen, strict=True):
        for ours, theirs in (("clip", "clip"), ("deviation", "l2"), ("pixel", "rec")):
            assert abs(progress.losses[ours] - entry["losses"][theirs]) < 1e-8, (entry["step"], theirs)
        after = trace.tensors[entry["w_after"]].to(progress.codes)
        assert (progress.codes - after).abs().max() < 1e-8
    assert (result.latent.values - trace.tensors["ref_w_final"]).abs().max() < 1e-6


@dataclasses.dataclass
class Recorder(Callback):
    trace: Trace
    tolerance: float
    worst: float = 0.0

    def after_step(self, state: TrainState) -> None:
        entry = self.trace.description["iterations"][state.step - 1]
        last = {name: values[-1] for name, values in state.history.items()}
        ours = {
            "d": last.get("discriminator"),
            "real_score": last.get("real_score"),
            "fake_score": last.get("fake_score"),
            "g": last.get("generator"),
        }
        if "disc_r1" in entry:
            ours["r1"] = last["r1"]
        if "c" in entry["losses"]:
            ours["c"] = last["semantic"] * self.trace.config["lambda_const"]
            ours["p"] = last["patch"] * self.trace.config["lambda_patch"]
        for name, value in ours.items():
            error = abs(value - entry["losses"][name])
            self.worst = max(self.worst, error)
            place = f"step {state.step - 1}, loss {name}"
            # float32's rounding is relative to the value, and grows from step to step
            scale = 1.0 if self.trace.dtype is torch.float64 else max(1.0, abs(entry["losses"][name]))
            assert error < self.tolerance * scale, f"{place}: {value} against {entry['losses'][name]}"
        if self.trace.dtype is torch.float64 and "weights_after" in entry:
            self._compare_weights(state, entry["weights_after"])

    def _compare_weights(self, state: TrainState, checks: dict) -> None:
        modules = {
            "generator": state.adapted,
            "g_ema": state.ema,
            "discriminator": state.discriminator,
            "extra": state.heads,
        }
        for part, values in checks.items():
            weights = original_state(modules[part])
            for name, check in values.items():
                assert_checks(weights[name], check, self.tolerance, f"step {state.step - 1}, {part}.{name}")


def replay(trace: Trace, steps: int) -> Recorder:
    """Run the public training code on the recorded draws and compare after every step."""
    double = trace.dtype is torch.float64
    reference = trace.tensors["ref_w_final"].to(trace.dtype)
    state = TrainState.create(
        trace.bundle(),
        trace.encoders(),
        Aim(trace.target, reference),
        trace.preset(),
        trace.training_draws(),
    )
    if state.heads is not None:
        fill(state.heads, trace.weights("extra."))
    recorder = Recorder(trace, tolerance=1e-8 if double else 1e-3)
    train(state, steps, [recorder])
    assert state.step == steps
    return recorder


@pytest.mark.slow
def test_training_follows_all_recorded_iterations(trace: Trace) -> None:
    recorded = len(trace.description["iterations"])
    replay(trace, recorded if trace.dtype is torch.float64 else min(4, recorded))
