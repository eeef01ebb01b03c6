"""Text edits of latents: StyleCLIP's optimisation of a W+ code until CLIP finds the words in the picture.

Source: StyleCLIP (arXiv 2103.17249) section 4; orpatashnik/StyleCLIP optimization/run_optimization.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import check_batch, check_drawn
from ..checkpoints import GeneratorBundle, check_family
from ..draws import SeededDraws
from ..features import ClipEncoder
from ..latent_optimiser import LatentOptimiser, StepProgress, learning_rate_at
from ..latents import Latent
from ..memory import check_memory
from ..networks import Generator
from ..objective.directions import direction_distance
from ..pace import Pace
from ..ranges import MOST_RATE, check_number
from ..tensors import Images, Latents, check_weights, gradients, is_finite, owned
from ..threads import ThreadWatch
from ..training.memory import editing_step_bytes

SMALLEST_VIEW = 0.8  # side of a random view, as a fraction of the picture's
EDIT_COPIES = 4  # of the pictures that are held at the end: before and after, in chunks and joined
SOFTNESS = 0.1  # of the direction: every edit starts from an unchanged picture, see `direction_distance`


@dataclass(frozen=True)
class EditConfig:
    """Settings of a text edit.

    Source: StyleCLIP's defaults, with 100 steps between its program's 300 and its notebook's 40.
    """

    steps: int = 100  # optimiser rounds per code
    learning_rate: float = 0.1  # Adam's highest rate, see `learning_rate_at`
    l2_weight: float = 0.008  # of the squared change of the code, summed over all its entries; 0: none
    views: int = 0  # random crops that CLIP sees instead of the picture; 0: the picture itself
    seed: int = 0  # of the random views; nothing else is random
    batch_size: int = 2  # codes that are edited at once; needs memory, does not change the result

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}"
            )
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        check_number(self.l2_weight, "l2_weight", low=0)
        if self.views < 0:
            raise ValueError(f"views must be 0 or more, got {self.views}")

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class EditResult:
    """The edited codes and what they look like.

    Args:
        latent: space "w+", [N, L, W].
        images: [N, 3, S, S] of the edited codes, with the stored noise; float32 on the CPU, not clamped.
        before: [N, 3, S, S] of the codes that were given.
        losses: per term one value per step, mean over the codes.
    """

    latent: Latent
    images: Images
    before: Images
    losses: dict[str, list[float]]


def edit_latents(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    latent: Latent,
    text: str,
    config: EditConfig | None = None,
    *,
    neutral_text: str = "",
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
) -> EditResult:
    """Change codes until their pictures show what a text says, staying near the codes that were given.

    Each code of a batch is edited as if it were alone.

    Args:
        bundle: who draws the pictures; an adapted generator is edited like any other.
        clip: reads pictures and text, on the generator's device.
        latent: N codes in any space; z is mapped.
        text: what the pictures are to show, such as "a face with a hat".
        config: settings; default `EditConfig()`.
        neutral_text: what they show now in the same wording, such as "a face". The change of the picture is
            then compared with the change from this text to the other (`direction_distance`), instead of the
            picture with the text, which keeps it nearer to the old one. "": the published loss, 1 - cosine of
            picture and text.
        callbacks: called after every step with the rounds done, summed over all codes; may raise.

    Returns:
        The codes, their pictures, the pictures before, the losses: "clip" or "direction", and "deviation".

    Raises:
        ValueError: see `check_edit`; words that CLIP does not know, two texts of one meaning, weights that
            are not finite, or a step that does not fit main memory.
        EncoderError: the CLIP model reads no text.
        FloatingPointError: a loss or a gradient became NaN or infinite; the message names term, code,
            step and seed.

    Source: StyleCLIP section 4, orpatashnik/StyleCLIP optimization/run_optimization.py and
        criteria/clip_loss.py, without the identity term; `neutral_text`: StyleGAN-NADA (arXiv 2108.00946)
        section 4.1. Deviation: pictures are reduced antialiased and normalised as CLIP was trained, where the
        published code feeds it [-1, 1] (editing.md 1a).
    """
    config = config or EditConfig()
    check_edit(bundle, latent, text, config)
    check_weights(clip, f"the CLIP model {clip.name}", "load its file again, or use another")
    check_texts(clip, text, neutral_text)
    _check_step(bundle, clip, config)
    with gradients():
        goal = _Goal.of(clip, text, neutral_text)
        with torch.no_grad():
            codes = owned(latent.codes(bundle.generator))  # w+, as StyleCLIP: each slot moves by itself
        chunks, losses = _run(bundle.generator, goal, codes, config, callbacks)
        values, images, before = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    whose = latent.generator_name or bundle.title
    origin = {"generator": whose, **_origin(latent, text, neutral_text, config)}
    family = bundle.family if latent.space == "z" else latent.family or bundle.family  # z fits any mapping
    return EditResult(Latent("w+", values, family, origin), images, before, losses)


def check_edit(bundle: GeneratorBundle, latent: Latent, text: str, config: EditConfig) -> None:
    """Refuse what cannot be edited whatever CLIP reads it; see `edit_latents`.

    Raises:
        ValueError: an empty text, a latent of another family or of no code, weights of the generator that are
            not finite, or more codes than memory holds pictures of.
    """
    if not text.strip():
        raise ValueError('the text is empty; say what the pictures are to show, such as "a smiling face"')
    check_family(latent, bundle)
    if not len(latent.values):
        raise ValueError("the latent holds no code; give at least one")
    bundle.check_finite()
    advice = "edit fewer latents at a time"
    check_batch(bundle, len(latent.values), config.batch_size, copies=EDIT_COPIES, advice=advice)


def _check_step(bundle: GeneratorBundle, clip: ClipEncoder, config: EditConfig) -> None:
    """Refuse a step that main memory cannot hold; on a device its own limit tells."""
    if bundle.generator.const.device.type == "cpu" and isinstance(clip, torch.nn.Module):
        needed = editing_step_bytes(bundle, clip, config.batch_size, config.views)
        seen = f", {config.views} views each" if config.views else ""
        what = f"the pictures of {config.batch_size} latents edited at once{seen},"
        check_memory(needed, what, "lower views" if config.views else "use a smaller CLIP model or generator")


def check_texts(clip: ClipEncoder, text: str, neutral_text: str = "") -> list[str]:
    """Refuse texts that CLIP cannot read; return sentences about what of them it does not read.

    Raises:
        ValueError: words that it does not know.
        EncoderError: it reads no text.
    """
    notes = list[str]()
    for one in (text, neutral_text):
        clip.check_text(one)
        notes += clip.text_notes(one)
    return list(dict.fromkeys(notes))


def _run(
    generator: Generator,
    goal: _Goal,
    codes: Latents,
    config: EditConfig,
    callbacks: Sequence[Callable[[StepProgress], None]],
) -> tuple[list[_Finished], dict[str, list[float]]]:
    """Edit codes [N, L, W] chunk by chunk; also return the mean loss per term and step."""
    parts = codes.split(config.batch_size)
    sums: dict[str, list[float]] = {}
    finished: list[_Finished] = []
    done, steps = 0, config.steps * len(codes)
    pace = Pace(steps)
    with ThreadWatch(codes.device, "edit") as watch:
        for index, part in enumerate(parts):
            first = index * config.batch_size
            chunk = _Chunk(generator, goal, config, part, first)
            for step in range(config.steps):
                watch.begin()
                images, losses = chunk.update(step)
                watch.end(index * config.steps + step + 1, len(part))
                for name, values in losses.items():
                    # Summed over chunks, so the curve is that of all codes whatever the batch size.
                    sums.setdefault(name, [0.0] * config.steps)[step] += float(values.sum()) / len(codes)
                done += len(part)
                means = {name: float(values.mean()) for name, values in losses.items()}
                left, preview = pace.left(done), partial(torch.clone, images)
                now = StepProgress(done, steps, means, left, preview, first=first, notes=watch.notes)
                for callback in callbacks:
                    callback(now)
            finished.append(chunk.finished())
    return finished, sums


_Finished: TypeAlias = "tuple[Latents, Images, Images]"  # codes, their pictures, the pictures before


def _origin(latent: Latent, text: str, neutral_text: str, config: EditConfig) -> dict[str, Any]:
    """What is written into the edited latent; seeds stay on top, where they number the samples."""
    origin: dict[str, Any] = {
        "method": "styleclip_optimisation",
        "text": text,
        "neutral_text": neutral_text,
        "settings": config.describe(),
        "edited": latent.origin,
    }
    if "seeds" in latent.origin:
        origin["seeds"] = latent.origin["seeds"]
    return origin


@dataclass(frozen=True)
class _Goal:
    """What the pictures are compared with."""

    clip: ClipEncoder
    text: Tensor  # [D], unit length
    direction: Tensor | None  # [D], from the neutral text to the text

    @classmethod
    @torch.no_grad()
    def of(cls, clip: ClipEncoder, text: str, neutral_text: str) -> _Goal:
        if not neutral_text.strip():
            return cls(clip, owned(clip.encode_text([text]))[0], None)
        target, neutral = owned(clip.encode_text([text, neutral_text]))
        # The direction would be rounding noise.
        if float((target - neutral).norm()) < 1e-4:
            raise ValueError(
                f"the CLIP model {clip.name} reads the same in text {text!r} and neutral_text "
                f"{neutral_text!r}; let them differ in the one thing to be changed, or leave neutral_text "
                "empty"
            )
        return cls(clip, target, target - neutral)

    @property
    def name(self) -> str:
        """Under which its loss is logged."""
        return "clip" if self.direction is None else "direction"

    def features(self, images: Images) -> Tensor:
        """Unit CLIP features [n, D] of pictures that are reduced with a low-pass filter first."""
        side = self.clip.preprocess.image_size
        if images.shape[-1] != side:
            # The method's own resize is bicubic without low-pass, which aliases strongly at 1024 px (Q29).
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        return self.clip.encode_images(images)

    def distance(self, images: Images, before: Images) -> Tensor:
        """Loss per picture [n], given the pictures before the edit."""
        features = self.features(images)
        if self.direction is None:
            # StyleCLIP's 1 - logit / 100: CLIP's logits are 100 times the cosine.
            return 1 - features @ self.text.to(features)
        with torch.no_grad():
            old = self.features(before)
        return direction_distance(features, old, self.direction.to(features), SOFTNESS)


class _Chunk:
    """Codes that are edited at once, each as if it were alone."""

    def __init__(
        self, generator: Generator, goal: _Goal, config: EditConfig, start: Latents, first: int
    ) -> None:
        self.generator, self.goal, self.config, self.start = generator, goal, config, start
        self.first = first  # its position in the batch
        # Fixed, as in the original: only the text may change the picture.
        self.noise = generator.constant_noise()
        self.draws = SeededDraws(config.seed)
        self.optimiser = LatentOptimiser(
            start, lambda step: learning_rate_at(step, config.steps, config.learning_rate)
        )
        with torch.no_grad():
            self.before = generator.synthesize(start, self.noise)

    def update(self, step: int) -> tuple[Images, dict[str, Tensor]]:
        """Do step 0, 1, ...; return the pictures [n, 3, S, S] before it and each term's values [n]."""
        images = self.generator.synthesize(self.optimiser.codes, self.noise)
        losses = {self.goal.name: self._distance(images, step)}
        total = losses[self.goal.name].sum()
        if self.config.l2_weight:
            losses["deviation"] = (self.optimiser.codes - self.start).square().sum(dim=(1, 2))
            total = total + self.config.l2_weight * losses["deviation"].sum()
        for name, values in losses.items():
            self._check(f"term {name!r}", values[:, None], step)

        def check(what: str, values: Tensor) -> None:
            named = f"gradient of term {self.goal.name!r}" if what == "gradient" else what
            self._check(named, values.flatten(1), step)

        self.optimiser.update(step, total, check)
        return images.detach(), {name: values.detach() for name, values in losses.items()}

    def _check(self, what: str, values: Tensor, step: int) -> None:
        """Refuse [n, K] values of which some are not finite, naming the first code that has them."""
        if is_finite(values):
            return
        place = int((~values.isfinite().all(dim=1)).nonzero()[0])
        raise FloatingPointError(
            f"the edit's {what} became NaN or infinite at step {step} for code {self.first + place} (seed "
            f"{self.config.seed}); lower the learning rate, change the seed, or leave that code out"
        )

    def _distance(self, images: Images, step: int) -> Tensor:
        """Loss per picture [n], the mean over its views; the views are the same for every code."""
        indices = range(self.config.views)
        views = [self._view(images, step, index) for index in indices] or [images]
        # Cut like the new ones: a direction from one crop to another would show the crop, not the edit.
        old = [self._view(self.before, step, index) for index in indices] or [self.before]
        pairs = zip(views, old, strict=True)
        return torch.stack([self.goal.distance(view, old) for view, old in pairs]).mean(dim=0)

    def _view(self, images: Images, step: int, index: int) -> Images:
        """Cut a random square out of the pictures."""
        share, top, left = self.draws.uniform(step, f"edit.view.{index}", (3,)).tolist()
        size = images.shape[-1]
        side = max(1, round(size * (SMALLEST_VIEW + share * (1 - SMALLEST_VIEW))))
        y, x = (int(place * (size - side + 1)) for place in (top, left))
        return images[:, :, y : y + side, x : x + side]

    def finished(self) -> _Finished:
        """Codes, their pictures, the pictures before; float32 on the CPU."""
        with torch.no_grad():
            images = self.generator.synthesize(self.optimiser.codes, self.noise)
        kept = (self.optimiser.codes, images, self.before)
        codes, images, before = (owned(part).float().cpu() for part in kept)
        check_drawn(images, range(self.first, self.first + len(codes)))
        return codes, images, before
