"""Text edits of latents: StyleCLIP's optimisation, in W+ or in the styles, until CLIP finds the words.

Source: StyleCLIP (arXiv 2103.17249) section 4; orpatashnik/StyleCLIP optimization/run_optimization.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batches import check_batch, check_drawn
from ..checkpoints import GeneratorBundle, check_family
from ..edits import EDIT_SPACES, STYLE, W_PLUS, LatentEdit
from ..features import ClipEncoder
from ..features.identity import IdentityNet, identity_distance
from ..fingerprints import encoder_fingerprint, fingerprint, latent_fingerprint, network_fingerprint
from ..kept_folders import KeptFolders, KeptWork, kept_work
from ..latent_chunks import ChunkedWork, optimise_chunks
from ..latent_optimiser import RAMP_DOWN, RAMP_UP, LatentOptimiser, StepProgress, learning_rate_at
from ..latents import Latent, truncate, z_from_seeds
from ..memory import check_memory
from ..networks import Generator
from ..ranges import MOST_RATE, check_number
from ..tensors import Images, Latents, check_weights, gradients, is_finite, owned
from ..training.memory import editing_step_bytes
from .direction import Direction, check_told
from .goal import TextGoal, check_legacy, check_preprocessing
from .spaces import Variable, check_room, edit_widths

EDIT_COPIES = 4  # of the pictures that are held at the end: before and after, in chunks and joined
STARTS = ("given", "mean", "random")
L2_WEIGHTS = {W_PLUS: 0.008, STYLE: 0.0002}  # where none is given; at 0.008 an edit of styles shows nothing
MAX_NAME = 200  # characters of a text that become the name of its edit


@dataclass(frozen=True)
class EditConfig:
    """Settings of a text edit.

    Source: StyleCLIP's defaults, with 100 steps between its program's 300 and its notebook's 40.
    """

    steps: int = 100  # optimiser rounds per code
    learning_rate: float = 0.1  # Adam's highest rate, see `learning_rate_at`
    # Of the squared change, summed over all entries; 0: none. None: `L2_WEIGHTS`, 0 for the start "mean".
    l2_weight: float | None = None
    views: int = 0  # random crops that CLIP sees instead of the picture; 0: the picture itself
    seed: int = 0  # of the random views and of the start "random"
    batch_size: int = 2  # codes that are edited at once; needs memory, does not change the result
    space: str = W_PLUS  # what moves: the W+ code, or "style", the styles of the convolutions
    start: str = "given"  # "given": a latent; "mean": the mean one (free generation); "random": one of `seed`
    psi: float = 0.7  # truncation of the start "random"
    identity_weight: float = 0.0  # of 1 - cosine of a face recogniser's features before and after; 0: none
    preprocessing: str = "default"  # or "legacy", see `TextGoal.features`
    ramp_up: float = RAMP_UP  # see `learning_rate_at`
    ramp_down: float = RAMP_DOWN

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}"
            )
        if self.space not in EDIT_SPACES:
            raise ValueError(f"space must be one of {', '.join(EDIT_SPACES)}, got {self.space!r}")
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, got {self.start!r}")
        check_preprocessing(self.preprocessing)
        check_number(self.learning_rate, "learning_rate", above=0, high=MOST_RATE)
        if self.l2_weight is None:
            object.__setattr__(self, "l2_weight", 0.0 if self.start == "mean" else L2_WEIGHTS[self.space])
        check_number(self.deviation_weight, "l2_weight", low=0)
        check_number(self.identity_weight, "identity_weight", low=0)
        check_number(self.psi, "psi (usually 0.5 to 1)", low=-10, high=10)
        for name in ("ramp_up", "ramp_down"):
            check_number(getattr(self, name), name, above=0, high=1)
        if self.views < 0:
            raise ValueError(f"views must be 0 or more, got {self.views}")

    @property
    def deviation_weight(self) -> float:
        """The weight `l2_weight`, a number."""
        assert self.l2_weight is not None
        return self.l2_weight

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class EditResult:
    """The edited codes and what they look like.

    Args:
        latent: space "w+", [N, L, W]. Of an edit in w+ the codes are the edited ones; of one in style space
            they are those before it, and the latent carries `change`.
        images: [N, 3, S, S] of the edited codes, with the stored noise; float32 on the CPU, not clamped.
        before: [N, 3, S, S] of the codes that were given.
        losses: per term one value per step, mean over the codes.
        change: what the edit added, a vector per code and slot or style.
    """

    latent: Latent
    images: Images
    before: Images
    losses: dict[str, list[float]]
    change: LatentEdit


def edit_latents(  # noqa: PLR0913 - what to edit how, and how to follow it
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    latent: Latent | None,
    text: str,
    config: EditConfig | None = None,
    *,
    neutral_text: str = "",
    identity: IdentityNet | None = None,
    callbacks: Sequence[Callable[[StepProgress], None]] = (),
    kept: KeptFolders | None = None,
    poll: Callable[[], None] | None = None,
) -> EditResult:
    """Change codes until their pictures show what a text says, staying near the codes that were given.

    Each code of a batch is edited as if it were alone. What edits a latent carries already stay: those of W+
    are part of what is moved, those of styles of how it is drawn.

    Args:
        bundle: who draws the pictures; an adapted generator is edited like any other.
        clip: reads pictures and text, on the generator's device.
        latent: N codes in any space; z is mapped. None for the starts "mean" and "random", which are one.
        text: what the pictures are to show, such as "a face with a hat".
        config: settings; default `EditConfig()`.
        neutral_text: what they show now in the same wording, such as "a face". The change of the picture is
            then compared with the change from this text to the other (`direction_distance`), instead of the
            picture with the text, which keeps it nearer to the old one. "": the published loss, 1 - cosine of
            picture and text.
        identity: recognises faces, on the generator's device; needed for an `identity_weight` above 0.
        callbacks: called after every step with the rounds done, summed over all codes; may raise.
        kept: where the work is kept, saved every 30 s and at any end; the same work is gone on with there, to
            what an uninterrupted one would have given, and one that is done takes no step. None: nowhere.
        poll: called while another process is at the same work; may raise to give up.

    Returns:
        Codes, pictures, pictures before, losses: "clip" or "direction", "deviation" and "identity".

    Raises:
        ValueError: see `check_edit`; words that CLIP does not know, two texts of one meaning, weights that
            are not finite, or a step that does not fit main memory.
        EncoderError: the CLIP model reads no text.
        FloatingPointError: a loss or gradient is not finite; the message names term, code, step and seed.

    Source: StyleCLIP section 4, orpatashnik/StyleCLIP optimization/run_optimization.py and criteria/;
        `neutral_text`: StyleGAN-NADA (arXiv 2108.00946) section 4.1. Deviations: the default preprocessing
        (editing.md 1a); starts use the bundle's mean latent, where it averages 4096 latents.
    """
    config = config or EditConfig()
    check_edit(bundle, latent, text, config, identity)
    _check_work(bundle, clip, config, (text, neutral_text), identity)
    start = _started(bundle, latent, config)
    given = (bundle, clip, latent, text, config, neutral_text, identity)
    with gradients(), kept_work(kept, lambda: edit_settings(*given), poll) as saved:
        goal = TextGoal.of(clip, text, neutral_text, config.preprocessing, config.views, config.seed)
        work = _Work(bundle.generator, goal, config, identity if config.identity_weight else None)
        chunks, losses = _run(work, start, callbacks, saved)
        edited, change, images, before = _joined(bundle, start, chunks, text, config)
    names = {"generator": start.generator_name or bundle.title, "clip": clip.name, "text": text}
    origin = _origin(start, {**names, "neutral_text": neutral_text, "settings": config.describe()})
    return EditResult(replace(edited, origin=origin), images, before, losses, change)


def edit_settings(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    latent: Latent | None,
    text: str,
    config: EditConfig,
    neutral_text: str = "",
    identity: IdentityNet | None = None,
) -> dict[str, Any]:
    """Everything that determines an edit's codes, as JSON values."""
    return {
        "generator": network_fingerprint(bundle.generator),
        "mean": fingerprint({"mean": bundle.mean_latent}),
        "clip": encoder_fingerprint(clip),
        "identity": encoder_fingerprint(identity) if config.identity_weight else "",
        "latent": "" if latent is None else latent_fingerprint(latent),
        "texts": [text, neutral_text],
        "edit": config.describe(),
    }


def _started(bundle: GeneratorBundle, latent: Latent | None, config: EditConfig) -> Latent:
    """The codes to start from."""
    if config.start == "given":
        assert latent is not None  # `check_edit` refuses none
        return latent
    origin: dict[str, Any] = {"method": config.start, "generator": bundle.title}
    w = bundle.mean_latent[None]
    if config.start == "random":
        origin |= {"seeds": [config.seed], "psi": config.psi}
        with torch.no_grad():
            z = z_from_seeds([config.seed], bundle.generator.config.z_dim)
            drawn = bundle.generator.map_single(z.to(bundle.generator.const))
        w = truncate(owned(drawn).cpu().float(), bundle.mean_latent.cpu(), config.psi)
    return Latent("w", owned(w).float(), bundle.family, origin)


def direction_of_edit(result: EditResult, bundle: GeneratorBundle) -> Direction:
    """Make a direction of what an edit changed, the mean over its codes, to be kept and added to others.

    Args:
        result: of `edit_latents`.
        bundle: the generator that it was made with.

    Raises:
        ValueError: the edit changed nothing.
    """
    origin = result.latent.origin
    means = {key: value.mean(dim=0) for key, value in result.change.vectors.items()}
    return Direction(
        result.change.space, means, result.change.widths,
        name=result.change.name, method="latent optimisation", text=origin["text"],
        neutral_text=origin["neutral_text"], clip=origin["clip"], measured=bundle.title,
        fingerprint=network_fingerprint(bundle.generator), family=bundle.family,
    )  # fmt: skip


def check_edit(
    bundle: GeneratorBundle,
    latent: Latent | None,
    text: str,
    config: EditConfig,
    identity: IdentityNet | None = None,
) -> None:
    """Refuse what cannot be edited whatever CLIP reads it; see `edit_latents`.

    Raises:
        ValueError: an empty text, a latent of another family or of no code, none where one is needed, weights
            of the generator that are not finite, an identity weight without an identity network, or more
            codes than memory holds pictures of.
    """
    if not text.strip():
        raise ValueError('the text is empty; say what the pictures are to show, such as "a smiling face"')
    check_told({"text": text})
    check_identity(config.identity_weight, identity)
    if config.start == "given":
        if latent is None:
            raise ValueError("there is no latent to edit; give one, or set start to mean or random")
        check_family(latent, bundle)
        if not len(latent.values):
            raise ValueError("the latent holds no code; give at least one")
        check_room(latent, config.space)
    elif latent is not None:
        raise ValueError(
            f"start is {config.start}, but a latent was given; leave it out, or set start to given"
        )
    elif config.start == "random" and bundle.generator.config.c_dim:
        raise ValueError(f"{bundle.title} needs a class for random latents; give a latent, with start given")
    bundle.check_finite()
    count = 1 if latent is None else len(latent.values)
    advice = "edit fewer latents at a time"
    check_batch(bundle, count, config.batch_size, copies=EDIT_COPIES, advice=advice)


def check_identity(weight: float, identity: IdentityNet | None) -> None:
    """Refuse a weight of the identity term without a network for it; raises ValueError."""
    if not weight:
        return
    if identity is None:
        raise ValueError(
            f"identity_weight is {weight:g}, but there is no identity network (ArcFace, model_ir_se50.pth); "
            "give it, or set the weight to 0"
        )
    check_weights(identity, f"the identity network {identity.name}", "load its file again")


def _check_work(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    config: EditConfig,
    texts: tuple[str, str],
    identity: IdentityNet | None,
) -> None:
    """Refuse a CLIP model that cannot be used or cannot read the texts, and a step that main memory cannot
    hold; on a device its own limit tells."""
    check_weights(clip, f"the CLIP model {clip.name}", "load its file again, or use another")
    check_texts(clip, *texts)
    if config.preprocessing == "legacy":
        check_legacy(bundle.size, clip.preprocess.image_size)
    if bundle.generator.const.device.type == "cpu" and isinstance(clip, torch.nn.Module):
        asked = identity if config.identity_weight else None
        needed = editing_step_bytes(bundle, clip, config.batch_size, config.views, identity=asked)
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


class _Work(NamedTuple):
    """What every chunk is edited with."""

    generator: Generator
    goal: TextGoal
    config: EditConfig
    identity: IdentityNet | None


class _Finished(NamedTuple):
    """A chunk when it is done; float32 on the CPU."""

    base: Latents
    values: Latents
    change: dict[int, Tensor]
    images: Images
    before: Images


def _run(
    work: _Work,
    latent: Latent,
    callbacks: Sequence[Callable[[StepProgress], None]],
    saved: KeptWork | None,
) -> tuple[list[_Finished], dict[str, list[float]]]:
    """Edit a latent chunk by chunk; also return the mean loss per term and step."""
    config, count = work.config, len(latent.values)
    size, device = min(config.batch_size, count), work.generator.const.device

    def make(first: int) -> _Chunk:
        return _Chunk(work, latent.part(slice(first, first + size)), first)

    chunked = ChunkedWork("edit", config.steps, count, size, device, saved)
    return optimise_chunks(chunked, make, _Chunk.finished, callbacks)


def _origin(latent: Latent, told: Mapping[str, Any]) -> dict[str, Any]:
    """What is written into the edited latent; seeds stay on top, where they number the samples."""
    origin: dict[str, Any] = {"method": "styleclip_optimisation", **told, "edited": latent.origin}
    if "seeds" in latent.origin:
        origin["seeds"] = latent.origin["seeds"]
    return origin


def _joined(
    bundle: GeneratorBundle, start: Latent, chunks: list[_Finished], text: str, config: EditConfig
) -> tuple[Latent, LatentEdit, Images, Images]:
    """The edited latent, what was added, the pictures and those before, of all chunks."""
    base, values, images, before = (
        torch.cat([getattr(one, name) for one in chunks]) for name in ("base", "values", "images", "before")
    )
    changed = {key: torch.cat([one.change[key] for one in chunks]) for key in chunks[0].change}
    widths = edit_widths(bundle.generator, config.space)
    change = LatentEdit(config.space, changed, widths, 1.0, text[:MAX_NAME])
    family = bundle.family if start.space == "z" else start.family or bundle.family  # z fits any mapping
    if config.space == W_PLUS:
        return Latent("w+", values, family, edits=start.style_edits), change, images, before
    return Latent("w+", base, family, edits=(*start.style_edits, change)), change, images, before


class _Chunk:
    """Codes that are edited at once, each as if it were alone."""

    def __init__(self, work: _Work, latent: Latent, first: int) -> None:
        self.work, self.config, self.goal = work, work.config, work.goal
        self.first = first  # its position in the batch
        # Fixed, as in the original: only the text may change the picture.
        self.noise = work.generator.constant_noise()
        self.variable = Variable.of(work.generator, self.config.space, latent)
        config = self.config
        rate = partial(
            learning_rate_at, steps=config.steps, highest=config.learning_rate,
            ramp_up=config.ramp_up, ramp_down=config.ramp_down,
        )  # fmt: skip
        self.optimiser = LatentOptimiser(self.variable.start, rate)
        with torch.no_grad():
            self.before = self.variable.render(self.variable.start, self.noise)
            self.who = None if work.identity is None else work.identity(self.before)

    def update(self, step: int) -> tuple[Images, dict[str, Tensor]]:
        """Do step 0, 1, ...; return the pictures [n, 3, S, S] before it and each term's values [n]."""
        images = self.variable.render(self.optimiser.codes, self.noise)
        losses = {self.goal.name: self.goal.distance(images, self.before, step)}
        total = losses[self.goal.name].sum()
        if self.config.deviation_weight:
            moved = (self.optimiser.codes - self.variable.start).square()
            losses["deviation"] = moved.flatten(1).sum(dim=1)
            total = total + self.config.deviation_weight * losses["deviation"].sum()
        if self.work.identity is not None and self.who is not None:
            losses["identity"] = identity_distance(self.work.identity(images), self.who)
            total = total + self.config.identity_weight * losses["identity"].sum()
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

    def finished(self) -> _Finished:
        """Codes, what was added to them, their pictures, the pictures before."""
        with torch.no_grad():
            images = self.variable.render(self.optimiser.codes, self.noise)
        kept = (self.variable.base, self.optimiser.codes, images, self.before)
        base, values, images, before = (owned(part).float().cpu() for part in kept)
        check_drawn(images, range(self.first, self.first + len(images)))
        return _Finished(base, values, self.variable.change(self.optimiser.codes), images, before)
