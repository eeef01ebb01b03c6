"""Training of the demo's second CLIP, and of the reader: encoders that know a person in another look.

A batch is made of groups of people. View A shows a group plainly or in a training look, view B shows the same
people in another look: a training look or one made up on the fly (`random_looks`). Some people are also seen
through small windows at the same places in both views. What is learned beside captions is what a large CLIP
knows from scale: who is who across looks, which window is which, and what words say about a face.
"""

from __future__ import annotations

import math
import random as python_random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...features import ClipEncoder, WordTokenizer, build_clip
from ...tensors import Images, seeded
from .faces import NUM_FACTORS, TRAINING_LOOKS
from .people import People
from .pretrain_encoders import look_prompts, windows
from .random_looks import random_look
from .readings import reading_targets
from .sentences import READINGS, TEMPLATES, Shown, full_sentence, sentence, vocabulary

LOOKS: tuple[str, ...] = ("plain", *TRAINING_LOOKS)
CROPS, SMALLEST_CROP = 16, 0.125
_RANDOM = -100  # look index of a picture in a made-up look; cross_entropy leaves it out
_DETAIL_PX = 8
_PLAIN_VARIANTS = 4  # sentences per person for the plain look; one for every other
_PERSON_SCALE, _CROP_SCALE, _LARGEST_SCALE = 15.0, 20.0, 50.0
WEIGHTS: Mapping[str, float] = {
    "caption": 1.0, "look": 0.3, "person": 1.0, "consistency": 1.0, "crop": 1.0, "factor": 5.0, "detail": 1.0,
    "reading": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class ClipPlan:
    """Architecture and batch of an encoder.

    Args:
        vision: open_clip's settings of the image tower.
        text_width: of the text tower.
        groups: of people in a batch, each in two looks.
        group: people in a group; the person loss tells them apart.
        crop_people: of a group, how many are seen through windows.
    """

    vision: Mapping[str, Any]
    embed_dim: int = 128
    text_width: int = 128
    text_layers: int = 3
    context: int = 48
    groups: int = 4
    group: int = 48
    crop_people: int = 8
    rate: float = 0.002
    weight_decay: float = 0.01
    warm_up_steps: int = 200
    average: float = 0.999
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)

    def config(self) -> dict[str, Any]:
        """Return open_clip's configuration, with this project's word list."""
        words = vocabulary()
        text = {
            "context_length": self.context,
            "vocab_size": WordTokenizer(words, self.context).vocab_size,
            "width": self.text_width,
            "heads": 4,
            "layers": self.text_layers,
        }
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": dict(self.vision),
            "text_cfg": text,
            "tokenizer": {"words": words},
        }


CLIP_V2 = ClipPlan({"image_size": 64, "layers": [1, 2, 2, 1], "width": 32, "head_width": 32})
READER = ClipPlan(
    {"image_size": 128, "patch_size": 16, "layers": 6, "width": 192, "head_width": 48},
    embed_dim=96,
    text_width=96,
    rate=0.001,
    weight_decay=0.05,
    warm_up_steps=500,
)


class ClipTask(nn.Module):
    """A CLIP in training with the heads that are thrown away afterwards."""

    def __init__(self, plan: ClipPlan, seed: int) -> None:
        super().__init__()
        self.plan = plan
        self.model: Any = build_clip(plan.config(), seed)
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(seeded(seed, 0, "demo.clip.heads").get_state())
            self.factors = nn.Linear(plan.embed_dim, NUM_FACTORS)
            self.detail = nn.Linear(plan.embed_dim, 3 * _DETAIL_PX**2)


class Sentences:
    """Sentences about people as tokens, made once: [P, looks + 1, variants, context], the last look any."""

    def __init__(self, people: People, tokenizer: WordTokenizer, seed: int) -> None:
        dice = python_random.Random(seed)
        rows, names = people.factors.tolist(), people.looks
        shown = {look: Shown.by(look) for look in names}
        texts = []
        for row in rows:
            plain = [sentence(row, shown["plain"], dice) for _ in range(_PLAIN_VARIANTS)]
            texts += [full_sentence(words, "plain", dice) for words in plain]
            texts += [full_sentence(sentence(row, shown[look], dice), look, dice) for look in names[1:]]
            texts.append(full_sentence(sentence(row, Shown(False, False), dice), "plain", dice))
        tokens = torch.cat([tokenizer(texts[i : i + 4096]) for i in range(0, len(texts), 4096)])
        self.tokens = tokens.to(torch.int16).view(len(rows), -1, tokens.shape[1]).to(people.factors.device)

    def of(self, people: Tensor, looks: Tensor, variant: int) -> Tensor:
        """Choose a sentence for each of some people in some looks, [M], [M] -> [M, context]."""
        place = torch.where(looks == 0, variant, looks + _PLAIN_VARIANTS - 1)
        place = torch.where(looks == _RANDOM, self.tokens.shape[1] - 1, place)
        return self.tokens[people, place].long()


@dataclass(frozen=True)
class Batch:
    """Pictures of one step, M = groups x group people.

    Attributes:
        views: [2 M + 2 K, 3, S, S]: whole pictures of views A and B, then windows of A and B.
        people: [M] indices.
        looks: [2, M] look index of views A and B, -100 for a made-up one.
        crop_rows: [groups x crop_people] rows among the M people that are seen through windows.
    """

    views: Tensor
    people: Tensor
    looks: Tensor
    crop_rows: Tensor


def draw_batch(people: People, plan: ClipPlan, size_px: int, random: torch.Generator) -> Batch:
    """Draw the pictures of a step, on the people's device.

    Args:
        people: whom to show, drawn in `LOOKS`.
        plan: size of the batch.
        size_px: side of the views.
        random: a generator on the CPU; everything comes from it.
    """
    device = people.factors.device
    chosen = torch.randperm(len(people), generator=random)[: plan.groups * plan.group].to(device)
    pairs, looks = [], torch.zeros(2, plan.groups, dtype=torch.long)
    for number, members in enumerate(chosen.split(plan.group)):
        first, second = _two_looks(2 * number < plan.groups, len(people.looks), random)
        looks[:, number] = torch.tensor([first, second])
        if second == _RANDOM:
            other = random_look(people.pictures(members, 0), people.layer_maps(members), random)
        else:
            other = people.pictures(members, second)
        pairs.append((people.pictures(members, first), other))
    whole = torch.cat([torch.cat([pair[side] for pair in pairs]) for side in (0, 1)])
    rows = torch.arange(plan.groups * plan.group).view(plan.groups, -1)[:, : plan.crop_people].flatten()
    crops = _same_crops(whole.view(2, -1, *whole.shape[1:]), rows.to(device), size_px, random)
    views = torch.cat([_moved(whole, size_px, random), crops])
    return Batch(views, chosen, looks.repeat_interleave(plan.group, dim=1).to(device), rows.to(device))


def _two_looks(plain_first: bool, looks: int, random: torch.Generator) -> tuple[int, int]:
    """Choose the looks of a group's views: mostly plain, and another, every second time a made-up one."""
    chances = torch.rand(2, generator=random).tolist()
    drawn = (1 + torch.randint(looks - 1, (2,), generator=random)).tolist()
    first = 0 if plain_first or chances[0] < 0.4 else drawn[0]
    second = _RANDOM if chances[1] < 0.5 or drawn[1] == first else drawn[1]
    return first, second


def _moved(images: Images, size_px: int, random: torch.Generator) -> Images:
    """View whole pictures, a little moved, turned and zoomed, a rectangle of some erased."""
    count, device = len(images), images.device
    drawn = torch.rand(9, count, generator=random).to(device)
    centres = 0.2 * drawn[:2].t() - 0.1
    views = windows(images, centres, 0.75 + 0.35 * drawn[2], 0.3 * drawn[3] - 0.15, size_px)
    line = torch.arange(size_px, device=device)
    top, left = (drawn[4:6] * size_px * 0.75).long()
    height, width = (2 + drawn[6:8] * (size_px / 3 - 2)).long()
    rows = (line >= top[:, None]) & (line < (top + height)[:, None])
    columns = (line >= left[:, None]) & (line < (left + width)[:, None])
    erased = rows[:, None, :, None] & columns[:, None, None, :] & (drawn[8] < 0.3).view(-1, 1, 1, 1)
    return views.masked_fill(erased, 0.0)


def _same_crops(whole: Tensor, rows: Tensor, size_px: int, random: torch.Generator) -> Images:
    """Windows at the same places in both views, [2, M, 3, H, W] -> [2 x rows x CROPS, 3, S, S].

    Six of ten are an eighth of the side, as the patch loss takes them, the others up to a half.
    """
    count = len(rows) * CROPS
    drawn = torch.rand(4, count, generator=random).to(whole.device)
    larger = torch.exp(math.log(SMALLEST_CROP) + drawn[0] * math.log(0.5 / SMALLEST_CROP))
    scales = torch.where(drawn[1] < 0.6, SMALLEST_CROP, larger)
    centres = (2 * drawn[2:4].t() - 1) * (1 - scales)[:, None]
    upright = torch.zeros_like(scales)
    parts = [
        windows(view[rows].repeat_interleave(CROPS, 0), centres, scales, upright, size_px) for view in whole
    ]
    return torch.cat(parts)


class ClipTraining:
    """One training: the task, its optimiser, its sentences, and what a step does."""

    def __init__(self, task: ClipTask, people: People, seed: int) -> None:
        """Set up on the people's device.

        Args:
            task: what is trained; moved to the device.
            people: drawn in `LOOKS`.
            seed: of sentences and draws.
        """
        self.plan, self.people, self.seed = task.plan, people, seed
        self.device = people.factors.device
        self.task = task.to(self.device)
        self.task.model.visual.to(memory_format=torch.channels_last)
        config = self.plan.config()
        self.tokenizer = WordTokenizer(config["tokenizer"]["words"], self.plan.context)
        self.sentences = Sentences(people, self.tokenizer, seed)
        self.prepare = ClipEncoder(build_clip(config, seed)).preprocess
        self.prompts = self.tokenizer(look_prompts(LOOKS)).to(self.device)
        pairs = [
            text
            for template in TEMPLATES
            for pair in READINGS.values()
            for text in map(template.format, pair)
        ]
        self.readings = self.tokenizer(pairs).view(len(TEMPLATES), -1, self.plan.context).to(self.device)
        matrices = [p for p in task.parameters() if p.ndim > 1]
        vectors = [p for p in task.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.plan.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=self.plan.rate, betas=(0.9, 0.98), fused=True)

    def step(self, step: int, rate: float) -> Tensor:
        """Do one step at a learning rate; returns the losses in the order of `WEIGHTS`, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = self.losses(step)
        total = torch.stack([self.plan.weights[name] * loss for name, loss in losses.items()]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.task.parameters(), 1.0)
        self.optimiser.step()
        return torch.stack(list(losses.values())).detach()

    def losses(self, step: int) -> dict[str, Tensor]:
        """Compute the unweighted losses of a step, by name in the order of `WEIGHTS`."""
        random = seeded(self.seed, step, "demo.clip.v2")
        batch = draw_batch(self.people, self.plan, self.prepare.image_size, random)
        variants = torch.randint(_PLAIN_VARIANTS, (2,), generator=random).tolist()
        template = int(torch.randint(len(TEMPLATES), (), generator=random))
        said = [
            self.sentences.of(batch.people, looks, v) for looks, v in zip(batch.looks, variants, strict=True)
        ]
        lowered = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        pixels = self.prepare(batch.views).to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lowered == torch.bfloat16):
            features = self.task.model.encode_image(pixels)
            texts = self.task.model.encode_text(torch.cat([*said, self.prompts, self.readings[template]]))
        unit, texts = F.normalize(features.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        count = 2 * len(batch.people)
        captions, prompts, readings = texts.split([count, len(LOOKS), 2 * len(READINGS)])
        scale = self.task.model.logit_scale.exp().clamp(max=_LARGEST_SCALE)
        whole, crops = unit[:count].unflatten(0, (2, -1)), unit[count:]
        factors = self.people.factors[batch.people]
        shown = torch.cat([batch.looks, batch.looks[:, batch.crop_rows].repeat_interleave(CROPS, 1)], 1)
        seen = torch.cat([whole, crops.unflatten(0, (2, -1))], 1)
        group = self.plan.group
        plain = (self.plan.groups + 1) // 2 * group  # of these, view A is plain for certain
        return {
            "caption": caption_loss(whole, captions.unflatten(0, (2, -1)), scale),
            "look": F.cross_entropy(
                (scale * seen @ prompts.t()).flatten(0, 1), shown.flatten(), ignore_index=_RANDOM
            ),
            "person": person_loss(whole.unflatten(1, (-1, group))),
            "consistency": consistency_loss(whole.unflatten(1, (-1, group))),
            "crop": crop_loss(crops.view(2, -1, CROPS, crops.shape[-1])),
            "factor": F.mse_loss(self.task.factors(whole * 8), factors.expand(2, -1, -1)),
            "detail": F.mse_loss(
                self.task.detail(unit * 8), F.adaptive_avg_pool2d(batch.views, _DETAIL_PX).flatten(1)
            ),
            "reading": reading_loss(whole[0, :plain], readings, factors[:plain]),
        }


def caption_loss(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Tell whose caption is whose within each view, both ways; [2, M, D] unit features."""
    logits = scale * pictures @ texts.transpose(1, 2)
    own = torch.arange(logits.shape[1], device=logits.device).repeat(2)
    return _both_ways(logits, own)


def person_loss(whole: Tensor) -> Tensor:
    """Find each person of a group again in the other look; [2, groups, people, D] unit features.

    What all of a group share in a view, its look, is taken out first.
    """
    first, second = F.normalize(whole - whole.mean(2, keepdim=True), dim=-1)
    logits = _PERSON_SCALE * first @ second.transpose(1, 2)
    own = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
    return _both_ways(logits, own)


def consistency_loss(whole: Tensor) -> Tensor:
    """Semantic consistency of the second view, relative to that of total collapse, averaged over groups.

    The gradient passes through both: of the first alone it would be least for features that are all alike.

    Args:
        whole: [2, groups, people, D] unit features.
    """
    first, second = whole @ whole.transpose(2, 3)
    apart = 1 - torch.eye(first.shape[-1], device=whole.device)
    kept = ((second - first).square() * apart).sum((1, 2))
    collapsed = ((1 - first).square() * apart).sum((1, 2))
    return (kept / collapsed.clamp_min(1e-6)).mean()


def crop_loss(crops: Tensor) -> Tensor:
    """Find each window of a picture again in the other look; [2, pictures, CROPS, D] unit features."""
    logits = _CROP_SCALE * crops[0] @ crops[1].transpose(1, 2)
    own = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
    return _both_ways(logits, own)


def reading_loss(pictures: Tensor, texts: Tensor, factors: Tensor) -> Tensor:
    """1 - correlation of what pictures and pairs of texts say with what is so, averaged over factors.

    Args:
        pictures: [N, D] unit features of plain faces.
        texts: [2 x readings, D], for each factor less and more.
        factors: [N, NUM_FACTORS].
    """
    pairs = texts.unflatten(0, (-1, 2))
    said = pictures @ F.normalize(pairs[:, 1] - pairs[:, 0], dim=-1).t()
    return 1 - correlations(said, reading_targets(factors)).mean()


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of each column with the same column of another table, [N, C], [N, C] -> [C]."""
    a, b = first - first.mean(0), second - second.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-6)


def _both_ways(logits: Tensor, own: Tensor) -> Tensor:
    """Contrast rows and columns of square tables, [T, n, n]."""
    rows, columns = logits.flatten(0, 1), logits.transpose(1, 2).flatten(0, 1)
    return (F.cross_entropy(rows, own) + F.cross_entropy(columns, own)) / 2
