"""Training of the demo's judge on people seen in every look, the held-out ones too: it only measures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...tensors import Images, seeded
from .judge import JUDGE_LOOKS, JudgeNet
from .people import People
from .pretrain_clip import person_loss
from .pretrain_encoders import windows

LOSSES = ("look", "factor", "person")


@dataclass(frozen=True)
class JudgePlan:
    """Batch and rates of the judge."""

    groups: int = 4  # of people, each in two looks
    group: int = 32
    rate: float = 0.003
    weight_decay: float = 0.001
    warm_up_steps: int = 100
    average: float = 0.999


class JudgeTraining:
    """One training of the judge: its optimiser and what a step does."""

    def __init__(self, plan: JudgePlan, people: People, seed: int) -> None:
        """Set up on the people's device; the people are drawn in `JUDGE_LOOKS`."""
        self.plan, self.people, self.seed, self.device = plan, people, seed, people.factors.device
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(seeded(seed, 0, "demo.judge.weights").get_state())
            judge = JudgeNet(JUDGE_LOOKS)
        self.task = judge.to(self.device).to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            judge.parameters(), lr=plan.rate, weight_decay=plan.weight_decay, fused=True
        )

    def step(self, step: int, rate: float) -> Tensor:
        """Do one step at a learning rate; returns the losses in the order of `LOSSES`, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        look, factor, person = self._losses(seeded(self.seed, step, "demo.judge.v2"))
        self.optimiser.zero_grad(set_to_none=True)
        (look + 10 * factor + 0.5 * person).backward()
        nn.utils.clip_grad_norm_(self.task.parameters(), 1.0)
        self.optimiser.step()
        return torch.stack([look, factor, person]).detach()

    def _losses(self, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        plan, people = self.plan, self.people
        count = plan.groups * plan.group
        chosen = torch.randperm(len(people), generator=random)[:count].to(self.device)
        pairs = [torch.randperm(len(people.looks), generator=random)[:2] for _ in range(plan.groups)]
        each = torch.stack(pairs).t().repeat_interleave(plan.group, 1).to(self.device)  # [2, M]
        views = people.images[chosen.repeat(2), each.flatten()].float() / 127.5 - 1
        pixels = _jiggled(views, random).to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            early, _, late = self.task.maps(pixels)
        logits, factors = self.task.told(early.float(), late.float())
        places = F.normalize(late_places(late.float()), dim=1).view(2, plan.groups, plan.group, -1)
        return (
            F.cross_entropy(logits, each.flatten()),
            F.mse_loss(factors, people.factors[chosen].repeat(2, 1)),
            person_loss(places),
        )


def late_places(late: Tensor) -> Tensor:
    """The last map by quarters of its sides, flat: what is where, [N, C, 8, 8] -> [N, 16 C]."""
    return F.adaptive_avg_pool2d(late, 4).flatten(1)


def _jiggled(images: Images, random: torch.Generator) -> Images:
    """Move and zoom pictures by up to two units."""
    drawn = torch.rand(3, len(images), generator=random).to(images)
    centres = 0.06 * drawn[:2].t() - 0.03
    return windows(images, centres, 0.97 + 0.06 * drawn[2], torch.zeros_like(drawn[2]), images.shape[-1])


@torch.no_grad()
def explained(judge: JudgeNet, people: People, look: int) -> Tensor:
    """R squared of every factor the judge reads off people in one look, [NUM_FACTORS]."""
    rows = torch.arange(len(people), device=people.factors.device)
    found = torch.cat([judge(people.pictures(part, look))[1] for part in rows.split(64)])
    rest = (found - people.factors).square().mean(0)
    return 1 - rest / people.factors.var(0, unbiased=False)
