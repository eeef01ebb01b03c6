"""Which encoders a user picks, by name; it stands above the demo, whose encoders are one of the choices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .checkpoints import GeneratorBundle
from .choices import DEMO, PERCEPTUAL_NETS
from .demo.world import ASSETS, demo_encoders, demo_generator
from .features import (
    BytesProgress,
    ClipEncoder,
    EncoderError,
    EncodersOnDemand,
    Perceptual,
    assumed_activation,
    load_clip,
    load_perceptual,
)
from .file_names import model_and_file, models_of

DEMO_GENERATOR = ASSETS / "generator.safetensors"
CLIP_MODEL, PERCEPTUAL_NET = "ViT-B-32-quickgelu", "alex"  # the method's
JUDGING_CLIP = "ViT-B-16-quickgelu"  # another, which judges what the method's has helped to make


@dataclass(frozen=True)
class EncoderChoice:
    """Names and files of CLIP and the perceptual net; hashable, so that equal choices can share encoders.

    Attributes:
        clip: "demo", or an open_clip model `NAME` or `NAME:TAG` ("ViT-B-32:openai").
        clip_file: weights of that model; None: looked for, then downloaded where that is allowed.
        perceptual: one of `PERCEPTUAL_NETS`.
        perceptual_file: weights of its backbone; None: as for CLIP.
        more_clips: further CLIP models, each as (name, file, weight); losses are summed over all by weight,
            the first one's being 1.

    Raises:
        EncoderError: no or an unknown name, or a file for the demo's CLIP.
    """

    clip: str = DEMO
    clip_file: str | None = None
    perceptual: str = DEMO
    perceptual_file: str | None = None
    more_clips: tuple[tuple[str, str | None, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.clip.strip():
            raise EncoderError(
                f"clip must be {DEMO!r} or an open_clip model such as {CLIP_MODEL!r}, got none"
            )
        if self.clip == DEMO and self.clip_file:
            raise EncoderError(
                f"the demo's CLIP has weights of its own, but the file {self.clip_file} was given; name the "
                f"open_clip model that the file belongs to"
            )
        for name, _, weight in self.more_clips:
            if not name.strip() or not 0 < weight < math.inf:
                raise EncoderError(
                    f"a further CLIP model needs a name and a positive weight, got {name!r} and {weight}"
                )
        if self.perceptual not in PERCEPTUAL_NETS:
            raise EncoderError(f"perceptual must be {', '.join(PERCEPTUAL_NETS)}, got {self.perceptual!r}")

    @classmethod
    def judging(cls, bundle: GeneratorBundle) -> EncoderChoice:
        """Return who judges by default: another CLIP than the method's; of the demo there is only one."""
        choice = cls.suited_to(bundle)
        return choice if choice.clip == DEMO else replace(choice, clip=JUDGING_CLIP)

    @classmethod
    def suited_to(cls, bundle: GeneratorBundle) -> EncoderChoice:
        """Return the demo's for the demo's generator and for what was adapted from it, else the method's."""
        if DEMO_GENERATOR.is_file() and bundle.family == demo_generator().family:
            return cls()
        return cls(CLIP_MODEL, None, PERCEPTUAL_NET)

    def named(self, clip: str | None = None, perceptual: str | None = None) -> EncoderChoice:
        """Return this choice with what a user names instead.

        Args:
            clip: an open_clip model, a weights file of `CLIP_MODEL`, MODEL=FILE, or "demo", or several, see
                `clips_of`; none: as it is.
            perceptual: a net, or NET=FILE; none: as it is.
        """
        choice = self
        if clip:
            (model, file, _), *more = clips_of(clip)
            choice = replace(choice, clip=model, clip_file=file, more_clips=tuple(more))
        if perceptual:
            net, file = model_and_file(perceptual)
            choice = replace(choice, perceptual=net, perceptual_file=file)
        return choice

    def notes(self) -> list[str]:
        """Return a sentence about what is assumed of a file for CLIP: no file says which activation it has.

        Raises:
            EncoderError: open_clip does not know the model or the tag.
        """
        if not self.clip_file or ":" not in self.clip:  # without a tag, loading says it
            return []
        return [f"the CLIP weights file {Path(self.clip_file).name} {assumed_activation(self.clip)}"]

    def open(
        self, folder: Path | None = None, *, allow_download: bool, progress: BytesProgress | None = None
    ) -> EncodersOnDemand:
        """Return the encoders; nothing is read before their first use, on the CPU.

        Args:
            folder: searched first, and where downloads go; None: the caches of open_clip and torch.
            allow_download: False never touches the network.
            progress: called during a download with (bytes there, bytes in all or None); raising stops it.
        """

        def clip(name: str, file: str | None) -> ClipEncoder:
            if name == DEMO:
                return demo_encoders().clip
            return load_clip(name, file, folder=folder, allow_download=allow_download, progress=progress)

        def perceptual() -> Perceptual:
            if self.perceptual == DEMO and not self.perceptual_file:
                return demo_encoders().perceptual
            return load_perceptual(self.perceptual, self.perceptual_file, folder, allow_download, progress)

        more = [(partial(clip, name, file), weight) for name, file, weight in self.more_clips]
        names = [_named(self.clip, self.clip_file)]
        names += [f"{_named(name, file)}*{weight:g}" for name, file, weight in self.more_clips]
        return EncodersOnDemand(
            partial(clip, self.clip, self.clip_file),
            perceptual,
            "+".join(names),
            _named(self.perceptual, self.perceptual_file),
            more,
        )


def clips_of(text: str) -> tuple[tuple[str, str | None, float], ...]:
    """Read CLIP models as a recipe names them: `NAME`, `NAME=FILE` or a file, several joined by +.

    Args:
        text: such as "ViT-B-32:openai+ViT-B-16:openai*0.5"; a weight stands behind *, 1 where there is none.

    Returns:
        (name, file, weight) each.

    Raises:
        EncoderError: a weight that is no number, or another weight than 1 for the first.
    """
    found = []
    for part in models_of(text):
        name, star, weight = part.strip().rpartition("*") if not Path(part).is_file() else ("", "", part)
        model, file = (CLIP_MODEL, part) if Path(part).is_file() else model_and_file(name if star else weight)
        try:
            share = float(weight) if star else 1.0
        except ValueError:
            raise EncoderError(f"write a CLIP model and its weight as NAME*0.5; got {part!r}") from None
        found.append((model, file, share))
    if found[0][2] != 1.0:
        raise EncoderError(f"the first CLIP model has the weight 1; weigh others against it, got {text!r}")
    return tuple(found)


def further_clips(text: str) -> tuple[tuple[str, str | None, float], ...]:
    """Read CLIP models beside a first one, as in `clips_of`; empty text gives none. Raises EncoderError."""
    return clips_of(f"{DEMO}+{text}")[1:] if text.strip() else ()


def encoder_notes(bundle: GeneratorBundle, clip: str, perceptual: str) -> list[str]:
    """Say which encoders know only the demo's portraits, where they are to judge another generator.

    Args:
        bundle: the generator.
        clip: name of the CLIP model, as `EncodersOnDemand.clip_name`.
        perceptual: name of the perceptual net.

    Returns:
        A sentence per encoder; none where all fit. It is allowed, only seldom what is meant.
    """
    if DEMO not in (clip, perceptual) or EncoderChoice.suited_to(bundle).clip == DEMO:
        return []
    named = (
        ("CLIP", clip, f"{CLIP_MODEL.removesuffix('-quickgelu')}:openai"),
        ("perceptual net", perceptual, PERCEPTUAL_NET),
    )
    return [
        f"the demo's {kind} has seen only the demo's portraits, but {bundle.provenance.file_name} is another "
        f"generator; the method uses {better}"
        for kind, name, better in named
        if name == DEMO
    ]


def _named(name: str, file: str | None) -> str:
    return f"{name}={Path(file).name}" if file else name
