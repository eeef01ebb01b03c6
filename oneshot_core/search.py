"""Latent search: the code of the source generator whose picture is closest to the target.

By CLIP as the method has it, or by II2S, the inversion of Mind the Gap and the paper's ablation baseline.

Source: paper section 3.1; cyclomon/OneshotCLIP train_oneshot.py, step 1 (methods.md A). II2S: arXiv
2012.09036, ZPdesu/MindTheGap models/II2S.py (editing.md 4.2).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .augmentation import ViewAugmentation
from .checkpoints import GeneratorBundle
from .checkpoints.bundle import estimate_mean_latent
from .choices import SEARCH_METHODS, SEARCH_RATE, SEARCH_STEPS
from .copies import fast_layout, private_copy
from .counterpart import Counterpart
from .draws import Draws, SeededDraws
from .features import Encoders, EncodersOnDemand, check_encoders, clips_for
from .fingerprints import determining, inputs_of
from .latent_optimiser import LatentOptimiser, StepProgress
from .latents import Latent, drawn_noise
from .networks import Generator
from .objective import DEFAULT, MAIN, Aim, AimFeatures, Objective, Profile, StepContext, StepDraws, View
from .objective.presets import AUGMENTED, clip_search, ii2s_search
from .pace import Pace
from .pictures import check_mask
from .precision import PRECISIONS, check_precision, forward_pass, precision_setting
from .ranges import MOST_RATE, check_number
from .saved_states import DamagedState, SavedState, StateError, StateFile, run_saved
from .tensors import Images, check_finite, check_shape, gradients, is_finite, owned
from .threads import ThreadWatch
from .whitening import whitening_of

log = logging.getLogger(__name__)

STATE_FORMAT, STATE_VERSION = "oneshot-search", 2


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the latent search."""

    steps: int = SEARCH_STEPS  # optimiser rounds; the published run makes 1001
    learning_rate: float = SEARCH_RATE  # Adam, on w directly
    seed: int = 0
    # Of clip, deviation, lpips, pixel; of ii2s pixel, lpips, prior. 0: without. Those of the other method
    # are passed over.
    weights: Mapping[str, float] = field(default_factory=dict)
    augment: bool = True  # compare augmented views with the target; False: the image itself
    profile: Profile = DEFAULT
    precision: str = "float32"  # of forward passes
    method: str = SEARCH_METHODS[0]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}; to skip the search pass a latent")
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        check_precision(self.precision)
        if self.method not in SEARCH_METHODS:
            raise ValueError(f"method must be one of {', '.join(SEARCH_METHODS)}, got {self.method!r}")
        known = {name for table in (clip_search(), ii2s_search()) for name in table.names}
        if unknown := sorted(set(self.weights) - known):
            names = ", ".join(self._table().names)
            raise ValueError(f"the search has no term {unknown}; its terms: {names}")
        if not self._table().active:
            raise ValueError("every term of the search has weight 0; give one of them a weight")

    def _table(self) -> Objective:
        """Names and weights of the terms."""
        table = clip_search() if self.method == SEARCH_METHODS[0] else ii2s_search()
        return table.reweighted(self.weights)

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "weights": {item.name: float(item.weight) for item in self._table().terms},
            "augment": self.augment,
            "profile": asdict(self.profile),
            **precision_setting(self.precision),
            # The method that was there first goes without saying: so kept searches keep their keys.
            **({} if self.method == SEARCH_METHODS[0] else {"method": self.method}),
        }


@dataclass(frozen=True)
class SearchResult:
    """The reference latent and what it looks like.

    Args:
        latent: space "w", [1, W]; of ii2s "w+", [1, L, W].
        reconstruction: [1, 3, S, S] with the generator's stored noise.
        losses: per term one value per step.
        counterpart: how good it is; None where that was not asked.
    """

    latent: Latent
    reconstruction: Images
    losses: dict[str, list[float]]
    counterpart: Counterpart | None = None

    @property
    def notes(self) -> list[str]:
        """What to tell of the counterpart."""
        return [] if self.counterpart is None else self.counterpart.notes


def search_latent(  # noqa: PLR0913 - what to search for, and how to follow it
    bundle: GeneratorBundle,
    encoders: Encoders,
    target: Images,
    config: SearchConfig | None = None,
    *,
    start: Tensor | None = None,
    mask: Tensor | None = None,
    draws: Draws | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    state_file: Path | str | None = None,
) -> SearchResult:
    """Find the code whose image is closest to the target, near where the generator's codes lie.

    The method "clip" finds one w for all slots, in CLIP's and LPIPS's eyes; "ii2s" a code per slot, by pixels
    and LPIPS, held by its prior.

    Args:
        bundle: the source generator.
        encoders: CLIP and perceptual net.
        target: [1, 3, S, S] in [-1, 1], S the generator's size.
        config: settings; default `SearchConfig()`.
        start: [W], where the search starts and what it is held near; None: the mean latent.
        mask: [1, 1, S, S] in [0, 1], 1 = counts: where it is 0 the picture is taken from the target, so that
            nothing pulls there. None: all of the target counts.
        draws: where noise and views come from; default seeded by `config.seed`.
        callbacks: called after every step; one that raises stops the search.
        state_file: where the search is saved every 30 s and at any end; a file found there with the same
            settings is resumed and gives what an uninterrupted search would have given; one that is damaged
            is set aside. None: nothing is written.

    Returns:
        The latent, its image, the losses.

    Raises:
        ValueError: target or mask do not fit the generator, something that is given is not finite, or the
            state file has other settings.
        FloatingPointError: a loss or a gradient became NaN or infinite; the message names term, step and
            seed, and the state file keeps the last good step.
    """
    config = config or SearchConfig()
    check_search(bundle, encoders, target, mask, start)
    # In ComfyUI's inference mode no graph would be recorded (comfyui.md 3.1).
    with gradients():
        search = _Search(bundle, encoders, target, config, draws or SeededDraws(config.seed), start, mask)
        states = None if state_file is None else search_states(state_file)
        return run_saved(search, states, callbacks)


def search_states(path: Path | str) -> StateFile:
    """The state of a search at a path, and the one before it."""
    return StateFile(Path(path), STATE_FORMAT, STATE_VERSION, "a saved search")


def check_search(
    bundle: GeneratorBundle,
    encoders: Encoders | EncodersOnDemand,
    target: Images,
    mask: Tensor | None = None,
    start: Tensor | None = None,
) -> None:
    """Refuse what cannot be searched with, before any work starts; see `search_latent`.

    Raises:
        ValueError: a shape that does not fit, or NaN or infinity in the target, the mask, the start, the
            generator's weights, its mean latent or the encoders' weights.
    """
    check_shape(target, "target", (1, 3, bundle.size, bundle.size))
    check_finite(target, "the target", "give another picture")
    if mask is not None:
        check_mask(mask, bundle.size)
    if start is not None:
        check_finite(start, "the latent to start from")
    bundle.check_finite()
    check_encoders(encoders)


class _Search:
    """One search: the latent, its optimiser, and what every step needs."""

    def __init__(
        self,
        bundle: GeneratorBundle,
        encoders: Encoders,
        target: Images,
        config: SearchConfig,
        draws: Draws,
        start: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        # The search runs on the weights that training starts from: raw ones in the official profile (Q22).
        raw = bundle.raw_generator if config.profile.trains_raw_generator else None
        self.bundle, self.config, self.draws = bundle, config, draws
        like = bundle.generator.const
        self.generator: Generator = private_copy(raw or bundle.generator, layout=fast_layout(like.device))
        self.goal = AimFeatures(Aim(target).to(like), encoders)
        self.clips = clips_for(encoders, PRECISIONS[config.precision])
        self.mask = None if mask is None else owned(mask).to(like)
        # As given, not as moved: the settings that a state is compared with must not depend on the device.
        self.given = (bundle, encoders, Aim(target), mask, start)
        if start is None:  # the published code averages the mapping of the generator it searches
            start = bundle.mean_latent if raw is None else estimate_mean_latent(raw)
        check_shape(start, "start", (self.generator.config.w_dim,))
        self.mean = owned(start).to(like)
        # One w for all slots, at a constant rate, as published (methods.md A): free slots would follow the
        # target further, to codes from which editing and adaptation go worse (editing.md 4.1).
        codes = self.mean[None]
        if config.method == "ii2s":  # whose slots are free, and held by the prior instead
            codes = self.generator.broadcast(codes)
            searched = bundle if raw is None else replace(bundle, generator=raw)
            objective = ii2s_search(whitening_of(searched).to(like))
        else:
            objective = clip_search(config.profile, config.augment)
        self.optimiser = LatentOptimiser(codes, lambda step: config.learning_rate)
        self.objective = objective.reweighted(config.weights)
        self.step = 0
        self.saved_step = -1
        self.history: dict[str, list[float]] = {name: [] for name in self.objective.names}
        profile = config.profile
        self.views = ViewAugmentation(
            views=profile.views,
            nearest_affine=profile.nearest_affine,
            jitter_on_signed=profile.jitter_on_signed,
            # So CLIP's own bicubic resize becomes the identity, as in the published chain (methods.md A).
            view_px=encoders.clip.preprocess.image_size,
        )

    def run(self, callbacks: Sequence[Callable[[StepProgress], None]]) -> SearchResult:
        """Run all steps."""
        steps = self.config.steps
        pace = Pace(steps, self.step)
        with ThreadWatch(self.mean.device, "search") as watch:
            while self.step < steps:
                watch.begin()
                image, losses = self._step(self.step)
                for name, value in losses.items():
                    self.history[name].append(value)
                self.step += 1
                self.optimiser.amid_step = False
                watch.end(self.step)
                preview, left = partial(torch.clone, image), pace.left(self.step)
                # Adam changes the codes in place; who keeps them wants those of this step.
                codes = owned(self.optimiser.codes)
                now = StepProgress(self.step, steps, losses, left, preview, codes, notes=watch.notes)
                for callback in callbacks:
                    callback(now)
        # Terms of weight 0 have no curve.
        return self._result({name: values for name, values in self.history.items() if values})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What determines the search, but for the number of steps; only who keeps a state pays for it.

        A mean that is estimated here, on a device, is no input: its last bits differ between devices.
        """
        return determining(inputs_of(*self.given), search=self.config.describe())

    def save(self, states: StateFile) -> None:
        """Write latent, Adam's moments, step and losses; atomic. Nothing amid a step, and no step twice.

        What is not finite is never written.
        """
        if self.optimiser.amid_step or self.step == self.saved_step:
            return
        tensors = self.optimiser.state()
        if not all(map(is_finite, tensors.values())):
            log.warning("the search is not finite after step %d; its saved state was left", self.step)
            return
        history = {name: values for name, values in self.history.items() if values}
        states.save(SavedState(self.step, self.settings, tensors, history))
        self.saved_step = self.step

    def restore(self, states: StateFile, path: Path) -> None:
        """Continue from a saved search; a bad one changes nothing.

        Raises:
            DamagedState: a StateError too: the file is damaged, or its parts do not fit together.
            StateError: it has other settings or more steps.
        """
        required, moments = self.optimiser.like_state()
        saved = states.read(path, self.settings, required, [moments])
        if saved.step > self.config.steps:
            raise StateError(f"{path} holds a search of {saved.step} steps, asked for {self.config.steps}")
        # Adam has moments from its first step on, and none before.
        if set(saved.history) - set(self.history) or bool(saved.step) != ("adam.step" in saved.tensors):
            raise DamagedState(
                f"{path}: its curves and moments are not those of a search of {saved.step} steps"
            )
        self.step = self.saved_step = saved.step
        self.optimiser.restore(saved.tensors)
        self.history = {name: list(saved.history.get(name, [])) for name in self.history}

    def _context(self, step: int) -> tuple[Images, StepContext]:
        """The latent's picture, with gradient, and what a step's terms see; the same at every call."""
        # Fresh noise at every step, as published (methods.md A).
        noise = drawn_noise(self.generator, self.draws, step, "search", batch=1)
        image = self._rendered(noise)
        # Equal to the target where nothing counts, so every term, CLIP's too, is blind there.
        seen = image if self.mask is None else torch.lerp(self.goal.targets, image, self.mask)
        return image, StepContext(
            goal=self.goal,
            views={
                MAIN: self._view(lambda: seen),
                # LPIPS and pixels compare the picture itself; a turned view would not lie on the target.
                AUGMENTED: self._view(lambda: self.views(seen, self.draws, step)),
            },
            draws=StepDraws(self.draws, step, prefix="search."),
            encode=self._encode,
            latent=self.optimiser.codes,
            mean_latent=self.mean,
        )

    def _step(self, step: int) -> tuple[Images, dict[str, float]]:
        image, context = self._context(step)
        total, values = self.objective(context)
        losses = {name: float(value) for name, value in values.items()}
        for name, value in losses.items():
            if not math.isfinite(value):
                raise self._broken(f"the search's term {name!r} became {value}", step)

        def check(what: str, values: Tensor) -> None:
            if what == "code" and not is_finite(values):
                raise self._broken("the latent became NaN or infinite", step)
            if what == "gradient" and not math.isfinite(values.norm()):  # of which Adam squares the entries
                guilty = self.objective.blamed(lambda: self._context(step)[1], [self.optimiser.codes])
                raise self._broken(f"the gradient of the search's {guilty} became NaN or infinite", step)

        self.optimiser.update(step, total, check)
        return image.detach(), losses

    def _view(self, images: Callable[[], Images]) -> View:
        return View(images, None, self._encode)

    def _rendered(self, noise: list[Tensor]) -> Images:
        """Draw the latent in the search's precision; the picture has the weights' dtype."""
        # Outside autocast, which would round what the affine layers give to bfloat16.
        styles = self.generator.affine(self.optimiser.codes)
        with forward_pass(self.mean.device, self.config.precision):
            return self.generator.render(styles, noise).to(self.mean.dtype)

    def _encode(self, index: int, images: Images) -> Tensor:
        with forward_pass(self.mean.device, self.config.precision):
            features = self.clips[index].encode_images(images)
            return features.to(torch.promote_types(features.dtype, torch.float32))

    def _broken(self, what: str, step: int) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {step} (seed {self.config.seed}); the same search breaks there again: lower its "
            "learning rate or the weight of that term, or change the seed"
        )

    def _result(self, history: dict[str, list[float]]) -> SearchResult:
        settings = self.config.describe()
        method, codes = f"{self.config.method}_search", self.optimiser.codes
        origin = {"method": method, "generator": self.bundle.title, "settings": settings}
        space = "w" if codes.ndim == 2 else "w+"
        latent = Latent(space, owned(codes).cpu(), self.bundle.family, origin)
        with torch.no_grad():
            # Stored noise, so that sampling the latent shows this very picture.
            image = self.generator.synthesize(self.optimiser.codes, self.generator.constant_noise())
        return SearchResult(latent, owned(image), history)
