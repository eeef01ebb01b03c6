"""Trains the demo world's second encoders.

    python -m oneshot_core.demo.making.train_encoders --network clip --out DIR --seconds 400

Networks: clip (the small CLIP that methods see with), reader (another CLIP, built and seeded otherwise, that
no method trains with), judge. People are drawn on the training device. The length is a number of steps, or of
seconds for the whole program; then the learning rate follows the clock, and two runs differ as their machines
do.

WORK/NETWORK.state.safetensors holds everything; a training found there goes on. OUT/NETWORK.safetensors holds
the averaged weights as float16, with the configuration in its header, anew every minute; `--start` takes such
a file up, without its optimiser.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...checkpoints.native import read_tensors, write_tensors
from ...features import ClipEncoder
from ..world import CLIP_FORMAT
from .entrance import EntranceTest
from .faces import HELD_OUT_LOOKS, TRAINING_LOOKS
from .judge import JUDGE_LOOKS, JudgeNet, save_judge
from .people import People, draw_people
from .pretrain import Trainee, cosine
from .pretrain_clip import CLIP_V2, LOOKS, READER, WEIGHTS, ClipPlan, ClipTask, ClipTraining
from .pretrain_judge import LOSSES, JudgePlan, JudgeTraining, explained

_log = logging.getLogger(__name__)
_PLANS: Mapping[str, ClipPlan] = {"clip": CLIP_V2, "reader": READER}
_SEEDS = {"clip": 20, "reader": 21, "judge": 22}  # of weights, people and draws: all three differ
_TEST_SEED = 9_001  # of the people that the judge is tried on
_LOG_STEPS, _SAVE_SECONDS = 100, 60.0
_STARTED = time.monotonic()


class Plan(Protocol):
    """What a schedule reads from a plan."""

    @property
    def rate(self) -> float: ...  # noqa: D102
    @property
    def warm_up_steps(self) -> int: ...  # noqa: D102
    @property
    def average(self) -> float: ...  # noqa: D102


class Training(Protocol):
    """What the loop needs of a training."""

    task: Any
    optimiser: torch.optim.AdamW

    def step(self, step: int, rate: float) -> Tensor:
        """Do a step; returns the losses."""


@dataclass(frozen=True)
class Course:
    """How long a training takes: steps, or seconds of the program, whichever ends first."""

    steps: int | None
    seconds: float | None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("a training needs --steps or --seconds; give one of them")

    def share(self, step: int, seconds: float) -> float:
        """Tell how much of it is done, 1 at the end."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return max(by_steps, by_time)


class Average:
    """Exponential average of a network's weights and floating-point buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        pairs = list(zip(self.module.state_dict().values(), module.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network; faster in the first steps, which are no guide."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, current = zip(*self._floats, strict=True)
        torch._foreach_lerp_(list(averages), list(current), 1 - decay)
        for average, value in self._others:
            average.copy_(value)


@dataclass
class Loop:
    """One training to its end.

    Args:
        name: of the network, and of its files.
        training: what is trained.
        plan: its rates.
        names: of the losses, for the log.
        course: how long.
        state_file: everything, to go on from.
        export: given the averaged network, writes the file that is used and returns figures for the log.
    """

    name: str
    training: Training
    plan: Plan
    names: tuple[str, ...]
    course: Course
    state_file: Path
    export: Callable[[nn.Module], str]

    def run(self) -> None:
        """Train; take up a saved state where there is one."""
        average = Average(self.training.task, self.plan.average)
        modules = {"task": self.training.task, "average": average.module}
        trainee = Trainee(modules, {"task": self.training.optimiser})
        if self.state_file.exists():
            trainee.load(self.state_file)
            _like_their_weights(self.training.optimiser)
            _log.info("%s goes on at step %d", self.name, trainee.step)
        before = trainee.seconds
        saved = logged = time.monotonic()
        logged_step = trainee.step
        while (share := self.course.share(trainee.step, trainee.seconds)) < 1:
            rate = cosine(self.plan.rate, self.plan.rate / 100, share)
            rate *= min(1.0, (trainee.step + 1) / self.plan.warm_up_steps)
            losses = self.training.step(trainee.step, rate)
            average.update(trainee.step)
            trainee.step += 1
            trainee.seconds = before + time.monotonic() - _STARTED
            if trainee.step % _LOG_STEPS == 0:
                pace = (time.monotonic() - logged) / (trainee.step - logged_step)
                self._report(trainee, losses, rate, pace)
                logged, logged_step = time.monotonic(), trainee.step
            if time.monotonic() - saved > _SAVE_SECONDS:
                self._save(trainee, average)
                saved = time.monotonic()
        self._save(trainee, average)

    def _report(self, trainee: Trainee, losses: Tensor, rate: float, pace: float) -> None:
        values = losses.tolist()
        if not all(abs(value) < float("inf") for value in values):
            raise FloatingPointError(f"a loss of {self.name} is not finite at step {trainee.step}: {values}")
        text = " ".join(f"{name} {value:.3f}" for name, value in zip(self.names, values, strict=True))
        _log.info(
            "%s step %d, %.0f s, %.1f ms a step, rate %.1e: %s",
            self.name, trainee.step, trainee.seconds, 1000 * pace, rate, text,
        )  # fmt: skip

    def _save(self, trainee: Trainee, average: Average) -> None:
        trainee.save(self.state_file)
        _log.info("%s at step %d: %s", self.name, trainee.step, self.export(average.module))


@torch.no_grad()
def _like_their_weights(optimiser: torch.optim.AdamW) -> None:
    """Lay moments out in memory as their weights are: the fused step reads both in the order they lie in."""
    for weight, state in optimiser.state.items():
        for name, value in state.items():
            if value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)


def write_clip(model: nn.Module, plan: ClipPlan, path: Path, history: Mapping[str, Any]) -> None:
    """Write a CLIP in float16 (batch statistics in float32), its configuration in the header."""
    tensors = {
        name: value.half() if value.is_floating_point() and "running_" not in name else value
        for name, value in model.state_dict().items()
    }
    header = {"format": CLIP_FORMAT, "format_version": 1, "config": plan.config(), "history": dict(history)}
    write_tensors(path, tensors, header)


def start_from(model: nn.Module, path: Path) -> None:
    """Give a model the weights of a file of `write_clip`; raises RuntimeError when they do not fit."""
    model.load_state_dict({name: value.float() for name, value in read_tensors(path)[0].items()})


def clip_loop(name: str, plan: ClipPlan, options: argparse.Namespace, course: Course) -> Loop:
    """Set up the training of the CLIP or of the reader."""
    people, seed = _people(LOOKS, options), options.seed
    task = ClipTask(plan, seed)
    if options.start:
        start_from(task.model, options.start)
    training = ClipTraining(task, people, seed)
    test = EntranceTest(
        device=options.device, people=options.test_people, readers=max(64, options.test_people)
    )

    def export(average: nn.Module) -> str:
        assert isinstance(average, ClipTask)
        model: nn.Module = copy.deepcopy(average.model)
        write_clip(model, plan, options.out / f"{name}.safetensors", {"seed": seed, "people": len(people)})
        return _examined(test, ClipEncoder(model, tokenizer=training.tokenizer, name=name))

    return Loop(name, training, plan, tuple(WEIGHTS), course, _state_file(name, options), export)


def _examined(test: EntranceTest, clip: ClipEncoder) -> str:
    """Say how an encoder does at the entrance: consistency, own person, right crop, looks passed."""
    result, said = test.run(clip), []
    for title, looks in (("training", TRAINING_LOOKS), ("held out", HELD_OUT_LOOKS)):
        mean, passed = result.mean(looks), sum(map(result.passes, looks))
        said.append(f"{title} {mean.consistency:.2f} {mean.person:.2f} {mean.crop:.2f} passed {passed}")
    sentences = result.mean(TRAINING_LOOKS).sentence
    return f"{', '.join(said)}, own sentence {sentences:.2f}, read well {result.read_well()}"


def judge_loop(plan: JudgePlan, options: argparse.Namespace, course: Course) -> Loop:
    """Set up the training of the judge."""
    training = JudgeTraining(plan, _people(JUDGE_LOOKS, options), options.seed)
    device = torch.device(options.device)
    tried = draw_people(options.test_people, JUDGE_LOOKS, _TEST_SEED, device)

    def export(average: nn.Module) -> str:
        assert isinstance(average, JudgeNet)
        save_judge(average, options.out / "judge.safetensors")
        found = torch.stack([explained(average, tried, look) for look in range(len(JUDGE_LOOKS))]).mean(1)
        return " ".join(
            f"{look} {value:.2f}" for look, value in zip(JUDGE_LOOKS, found.tolist(), strict=True)
        )

    return Loop("judge", training, plan, LOSSES, course, _state_file("judge", options), export)


def _people(looks: tuple[str, ...], options: argparse.Namespace) -> People:
    device = torch.device(options.device)
    began = time.monotonic()
    people = draw_people(
        options.people, looks, options.seed, device, batch=128 if device.type == "cuda" else 32
    )
    if device.type == "cuda":
        torch.cuda.synchronize()
    _log.info("%d people in %d looks drawn in %.0f s", options.people, len(looks), time.monotonic() - began)
    return people


def _state_file(name: str, options: argparse.Namespace) -> Path:
    return Path(options.work or options.out) / f"{name}.state.safetensors"


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m oneshot_core.demo.making.train_encoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", choices=tuple(_SEEDS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--work", type=Path, help="folder of the state; --out without it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float, help="of the whole program, drawing included")
    parser.add_argument("--people", type=int, default=8192)
    parser.add_argument("--groups", type=int, help="of people in a batch; the plan's without it")
    parser.add_argument("--group", type=int, help="people in a group; the plan's without it")
    parser.add_argument("--crop-people", type=int, help="of a group, seen through windows too")
    parser.add_argument("--test-people", type=int, default=48)
    parser.add_argument("--seed", type=int, help="the network's own without it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=Path, help="weights to start from (clip and reader)")
    options = parser.parse_args(arguments)
    options.seed = _SEEDS[options.network] if options.seed is None else options.seed
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train one network."""
    options = parsed(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True  # every batch has the same shapes
    for folder in filter(None, (options.out, options.work)):
        folder.mkdir(parents=True, exist_ok=True)
    course = Course(options.steps, options.seconds)
    sizes = ("groups", "group") if options.network == "judge" else ("groups", "group", "crop_people")
    changes = {name: getattr(options, name) for name in sizes if getattr(options, name)}
    if options.network == "judge":
        loop = judge_loop(replace(JudgePlan(), **changes), options, course)
    else:
        plan = replace(_PLANS[options.network], **changes)
        loop = clip_loop(options.network, plan, options, course)
    loop.run()


if __name__ == "__main__":
    main()
