"""Recorded runs of StyleCLIP's optimisation, replayed through the public editing code.

Fixtures are found by their JSON, see `golden_editing_support`; the formula of their weights is in
tests/golden. Codes are compared at the last step alone: some recordings hold the final code at every step.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_clip import recorded_clip
from golden_editing_support import IRSE, cases, checked, filled, read, recorded_bundle
from golden_support import assert_checks, formula_draw
from torch import Tensor

from oneshot_core import EditConfig, StepProgress, edit_latents
from oneshot_core.editing import learning_rate_at
from oneshot_core.editing.goal import legacy_pixels
from oneshot_core.editing.style_layout import convolution_styles
from oneshot_core.features.identity import ArcFace
from oneshot_core.latents import Latent

pytestmark = pytest.mark.golden
LOSS, GRADIENT, CODE, EXACT = 1e-9, 1e-7, 1e-8, 1e-12  # README of the recordings, section 9


def drawn(told: dict[str, Any], shape: list[int]) -> Tensor:
    """An input by its formula, in float64."""
    values = formula_draw(told["name"], shape, told["seed"]) * told["scale"]
    return torch.from_numpy(values.astype("float32")).double()


def sliced(values: Tensor, text: str) -> Tensor:
    """A slice in numpy's syntax, such as "[:, 0, ::5, ::3]"."""

    def end(part: str) -> int | None:
        return int(part) if part else None

    def place(part: str) -> Any:
        return slice(*map(end, part.split(":"))) if ":" in part else int(part)

    return values[tuple(place(part.strip()) for part in text.strip("[]").split(","))]


@pytest.mark.parametrize("path", cases("clip_opt_pre"))
def test_the_legacy_preprocessing(path: Path) -> None:
    told, tensors = read(path)
    compared = 0
    for size, given in told["inputs"].items():
        full = told["full"][size]
        x = tensors.get(f"in.x{size}")
        x = drawn(given, given["shape"]) if x is None else x.double()
        assert_checks(x, given["checks"], 1e-6, f"x{size}")
        x.requires_grad_()
        y = legacy_pixels(x, full["shape"][-1])
        assert list(y.shape) == full["shape"]
        assert_checks(y, full, EXACT, f"y{size}")
        for name, value in tensors.items():
            found = re.fullmatch(rf"out\.y{size}\.f64(\[.*\])?", name)
            if found:
                mine = sliced(y, found[1]) if found[1] else y
                torch.testing.assert_close(mine, value, atol=EXACT, rtol=0)
                compared += 1
        if (recorded := tensors.get(f"out.xgrad{size}.f64")) is not None:
            (gradient,) = torch.autograd.grad((y * drawn(given["R"], full["shape"])).sum(), x)
            torch.testing.assert_close(gradient, recorded, atol=EXACT, rtol=0)
    assert compared


@pytest.mark.parametrize("path", cases("clip_opt_pre"))
def test_the_schedule(path: Path) -> None:
    told, _ = read(path)
    args = told["schedule_args"]
    for steps, rates in told["schedule"].items():
        assert len(rates) == int(steps)
        for step, rate in enumerate(rates):
            mine = learning_rate_at(step, int(steps), args["initial_lr"], args["rampup"], args["rampdown"])
            assert mine == pytest.approx(rate, abs=EXACT)


class Replay:
    """One recorded run, replayed; what is told after every step is kept."""

    def __init__(self, path: Path) -> None:
        self.told, self.tensors = read(path)
        self.config = self.told["config"]
        assert (self.config["adam_betas"], self.config["adam_eps"]) == ([0.9, 0.999], 1e-8)  # torch's
        self.styles: list[int] = self.told.get("optimised_style_indices", [])
        self.bundle = recorded_bundle(self.told)
        checks = self.told["weight_checks"]
        clip = recorded_clip(self.told, checks["clip"])
        identity = None
        if self.config["id_lambda"]:
            seed, prefix = self.config["weight_seed"], self.told["arcface_prefix"]
            identity = filled(ArcFace().double(), seed, prefix, IRSE).double()
            checked(checks["arcface"], identity)
        settings = EditConfig(
            steps=self.config["steps"], learning_rate=self.config["lr"],
            l2_weight=self.config["l2_lambda"], identity_weight=self.config["id_lambda"],
            space="style" if self.styles else "w+", preprocessing="legacy",
            ramp_up=self.config["rampup"], ramp_down=self.config["rampdown"],
        )  # fmt: skip
        self.seen: list[tuple[StepProgress, Tensor]] = []
        latent, text = Latent("w+", self.tensors["in.w0"]), self.config["description"]
        follow = {"identity": identity, "callbacks": [self.follow]}
        self.result = edit_latents(self.bundle, clip, latent, text, settings, **follow)

    def follow(self, now: StepProgress) -> None:
        self.seen.append((now, now.preview()))

    def compare(self) -> None:
        """Compare losses and gradients at every step, then codes and pictures where they are recorded."""
        for entry, (now, _) in zip(self.told["steps"], self.seen, strict=True):
            losses = now.losses
            total = losses["clip"] + self.config["l2_lambda"] * losses["deviation"]
            assert losses["clip"] == pytest.approx(entry["clip_loss"], abs=LOSS)
            if self.config["id_lambda"]:
                assert losses["identity"] == pytest.approx(entry["id_loss"], abs=LOSS)
                total += self.config["id_lambda"] * losses["identity"]
            assert total == pytest.approx(entry["total"], abs=LOSS)
            step = entry["step"]
            rate = learning_rate_at(
                step, self.config["steps"], self.config["lr"], self.config["rampup"], self.config["rampdown"]
            )
            assert rate == pytest.approx(entry["lr"], abs=EXACT)
            assert now.gradient is not None
            for name, mine in self.parts(now.gradient):
                recorded = self.tensors.get(f"out.step{step}.grad{name}")
                if recorded is not None:
                    most = GRADIENT * float(recorded.abs().max())
                    torch.testing.assert_close(mine, recorded.reshape(mine.shape), atol=most, rtol=0)
        self.compare_pictures()

    def compare_pictures(self) -> None:
        first = self.tensors.get("out.img_orig.f64")
        if first is not None:
            torch.testing.assert_close(self.seen[0][1], first, atol=CODE, rtol=0)
        now, drawn_last = self.seen[-1]
        last = self.tensors.get("out.img_last.f64")  # drawn in the last step, before its update
        if last is not None:
            torch.testing.assert_close(drawn_last, last, atol=CODE, rtol=0)
        assert now.codes is not None
        step, compared = self.config["steps"] - 1, 0
        for name, mine in self.parts(now.codes):
            recorded = self.tensors.get(f"out.step{step}.latent{name}")
            if recorded is not None:
                torch.testing.assert_close(mine, recorded.reshape(mine.shape), atol=CODE, rtol=0)
                compared += 1
        assert compared

    def parts(self, values: Tensor) -> list[tuple[str, Tensor]]:
        """Values by the ends of their recorded names."""
        if not self.styles:
            return [("", values)]
        styles = self.bundle.generator.affine(self.tensors["in.w0"].double())
        assert list(convolution_styles(len(styles))) == self.styles
        for index, style in enumerate(styles):  # the optimised ones may hold their final values
            recorded = self.tensors.get(f"in.style0.{index}.f64")
            if index not in self.styles and recorded is not None:
                torch.testing.assert_close(style.flatten(), recorded.flatten(), atol=CODE, rtol=0)
        widths = [styles[index].shape[1] for index in self.styles]
        names = [f".{index}" for index in self.styles]
        return list(zip(names, values.flatten().split(widths), strict=True))


def is_trace(case: Any) -> bool:
    (path,) = case.values
    return path is None or "steps" in json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow  # 10 s each: 512 channels in float64
@pytest.mark.parametrize("path", [case for case in cases("clip_opt") if is_trace(case)])
def test_an_edit_repeats_the_recorded_steps(path: Path) -> None:
    replay = Replay(path)
    assert len(replay.seen) == replay.config["steps"]
    replay.compare()
