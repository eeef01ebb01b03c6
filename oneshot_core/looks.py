"""Looks: what an adaptation added to the styles, some thousand numbers that other generators take as well.

A style is `affine(w) = W w * gain + bias` (`networks.Linear`), so a number that is added to a style for every
latent is exactly a change of that bias. A look is the difference of the biases of all affine layers: what was
trained as the part "style offsets" and nothing else. Adding it needs no other forward pass, and the result is
a generator like any other.

Source: Alanov et al., StyleDomain (ICCV 2023, arXiv 2212.10229): directions of StyleSpace, scaled, added up
    and moved between generators. Theirs are of the convolutions alone, 6,048 numbers at 1024 px; these are of
    the RGB layers too, 9,088.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from .checkpoints import GeneratorBundle, Provenance, check_pair, related
from .choices import DEMO_TARGET, LOOK_STRENGTHS, STYLE_OFFSETS
from .copies import private_copy
from .file_names import last_part
from .networks import Generator
from .ranges import check_number
from .tensors import check_finite, check_shape, owned
from .texts import printable

MAX_TEXT = 80  # characters, so that a file keeps to its 40 KB
MAX_STEPS = 2**53 - 1
_PLAIN = "a look"  # where nothing names it
_OWN_ENDING = ".affine.bias"


@dataclass(frozen=True)
class Look:
    """Offsets of styles, and where they came from.

    Args:
        offsets: one [C] per modulated layer, in the order of `Generator.affine`; float32.
        name: what the look is called, at most 80 characters, as all texts here.
        family: fingerprint of the family of generators it was learnt in, "" when unknown.
        source: file of the generator it was learnt with.
        target: file of the picture, "" when unknown.
        method: preset that learnt it, "" when unknown.
        steps: of the training, 0 when unknown.
    """

    offsets: tuple[Tensor, ...]
    name: str
    family: str = ""
    source: str = ""
    target: str = ""
    method: str = ""
    steps: int = 0

    def __post_init__(self) -> None:
        for name in ("name", "family", "source", "target", "method"):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > MAX_TEXT or printable(text) != text:
                raise ValueError(
                    f"the {name} of a look must be at most {MAX_TEXT} characters without control "
                    f"characters, got {ascii(text)[:MAX_TEXT]}"
                )
        if not self.name:
            raise ValueError("a look needs a name")
        if not 0 <= self.steps <= MAX_STEPS:
            raise ValueError(f"the steps of a look must be 0 to {MAX_STEPS}, got {self.steps}")
        if not self.offsets:
            raise ValueError("a look needs the offsets of at least one layer")
        for offset in self.offsets:
            check_shape(offset, f"an offset of {self.name}", (None,))
            check_finite(offset, f"the look {self.name}", "make it again, or load another")

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of offsets of each layer."""
        return tuple(len(offset) for offset in self.offsets)

    def summary(self) -> str:
        """Say in one line what it is and where it came from."""
        learnt = f", learnt in {self.steps} steps" if self.steps else ""
        of = f" from {self.target}" if self.target else ""
        source = f" with {self.source}" if self.source else ""
        return f"{self.name}: {sum(self.widths):,} numbers{learnt}{of}{source}"


def look_between(source: GeneratorBundle, adapted: GeneratorBundle, name: str = "") -> Look:
    """Take the look out of a generator that was adapted by its style offsets alone.

    Args:
        source: the generator that was adapted.
        adapted: with `trained_parts` "style offsets".
        name: of the look; "": that of the target picture, or of the adapted generator's file.

    Returns:
        Differences of the affine layers' biases, on the CPU.

    Raises:
        ValueError: the two are not source and adapted, are equal, or differ in more than style offsets; the
            message names the first other weight.
    """
    check_pair(source, adapted)
    if source.generator.config != adapted.generator.config:
        raise ValueError(
            f"{source.title} and {adapted.title} are not built alike; as the source give the generator that "
            "was adapted"
        )
    ours, theirs = source.generator.state_dict(), adapted.generator.state_dict()
    differing = [key for key, value in ours.items() if not torch.equal(value, theirs[key].to(value))]
    if not differing:
        raise ValueError(f"{source.title} and {adapted.title} have the same weights, so there is no look")
    others = [key for key in differing if not key.endswith(_OWN_ENDING)]
    if others:
        raise ValueError(
            f"{adapted.title} differs from {source.title} in more than its style offsets, first in "
            f"{others[0]}; a look is made of those alone: adapt with trained_parts {STYLE_OFFSETS!r} and "
            "keep float32, or save the generator itself"
        )
    layers = zip(source.generator.affine_layers(), adapted.generator.affine_layers(), strict=True)
    offsets = tuple(owned(new.bias.to(old.bias) - old.bias).cpu().float() for old, new in layers)
    history = adapted.provenance.history
    target, steps = _entry(history, "recipe", "aim", "target"), history.get("step")
    return Look(
        offsets,
        _short(name or _stem(target) or _file_stem(adapted) or _PLAIN),
        source.family,
        _short(source.provenance.file_name),
        _short(target),
        _short(_entry(history, "recipe", "method", "preset")),
        steps if type(steps) is int and 0 <= steps <= MAX_STEPS else 0,
    )


def apply_looks(bundle: GeneratorBundle, looks: Sequence[tuple[Look, float]]) -> GeneratorBundle:
    """Add looks to a generator.

    Args:
        bundle: the generator the looks were learnt with, a sibling (another adaptation of it), or any other
            whose modulated layers have the same widths; it is not changed.
        looks: each with its strength from -1 to 2: 0 adds nothing, 1 what was learnt, 2 twice that, -1 its
            opposite. The offsets of several add up.

    Returns:
        A bundle of its own on the CPU, with the mean latent and the discriminator of the given one, so that
        it can be adapted further. Its history tells looks and strengths, its notes what `look_notes` says.

    Raises:
        ValueError: no look, a strength out of range, a look of other widths, or a sum that is not finite.
    """
    if not looks:
        raise ValueError("there is no look to add; give at least one")
    for look, strength in looks:
        check_number(strength, f"strength of the look {look.name}", *LOOK_STRENGTHS)
        _check_widths(look, bundle)
    generator: Generator = private_copy(bundle.generator, "cpu")
    with torch.inference_mode(False), torch.no_grad():
        for index, layer in enumerate(generator.affine_layers()):
            # In float64, so that one look at strength 1 gives the adapted bias to its last bit.
            added = sum(float(strength) * look.offsets[index].cpu().double() for look, strength in looks)
            layer.bias.copy_(layer.bias.double() + added)
            advice = "lower its strength, or leave it out"
            check_finite(layer.bias, f"the sum of {bundle.title} and the look", advice)
    return replace(
        bundle,
        generator=generator,
        raw_generator=None,  # which only the official profile starts from, and no look was learnt on
        mean_latent=owned(bundle.mean_latent).cpu(),
        provenance=_provenance(bundle, looks),
    )


def look_notes(bundle: GeneratorBundle, looks: Sequence[tuple[Look, float]]) -> list[str]:
    """Say which looks were learnt in another family of generators, as sentences; none for the same family."""
    return [
        f"the look {look.name} was learnt with {look.source or 'another generator'}, which is not of the "
        f"family of {bundle.title}: its layers have the same widths, but what they mean may differ"
        for look, _ in looks
        if not related(bundle, look.family)
    ]


def _check_widths(look: Look, bundle: GeneratorBundle) -> None:
    own = bundle.generator.style_widths
    if look.widths != own:
        raise ValueError(
            f"the look {look.name} does not fit {bundle.title}: the look has the widths "
            f"{_listed(look.widths)}; the generator {_listed(own)}; use a generator of the look's widths"
        )


def _listed(widths: Sequence[int]) -> str:
    """Widths by resolution: two modulated layers at 4 px, three at each further one."""
    levels = [widths[:2], *(widths[start : start + 3] for start in range(2, len(widths), 3))]
    return ", ".join(f"{4 * 2**i} px: {' '.join(map(str, level))}" for i, level in enumerate(levels))


def _provenance(bundle: GeneratorBundle, looks: Sequence[tuple[Look, float]]) -> Provenance:
    known = bundle.provenance
    added = [
        {
            "name": look.name,
            "strength": float(strength),
            "family": look.family,
            "source": look.source,
            "target": look.target,
            "method": look.method,
            "steps": look.steps,
        }
        for look, strength in looks
    ]
    history = {
        "parent": {"file_name": known.file_name, "sha256": known.sha256, "family": bundle.family},
        "looks": added,
        "base": dict(known.history),
    }
    name = " + ".join([known.file_name, *(f"{look.name} ({strength:g})" for look, strength in looks)])
    notes = (*known.notes, *look_notes(bundle, looks))
    return Provenance("look", name, inferred=known.inferred, notes=notes, history=history)


def _entry(values: Any, *path: str) -> str:
    """A text within nested objects, which a file may hold or not."""
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, str) else ""


def _stem(target: str) -> str:
    return target.removeprefix(DEMO_TARGET) if target.startswith(DEMO_TARGET) else PurePath(target).stem


def _file_stem(adapted: GeneratorBundle) -> str:
    """Name of its file without ending; one that was never saved has none of its own."""
    known = adapted.provenance
    return "" if known.sha256 is None else PurePath(known.file_name).stem


def _short(text: str) -> str:
    text = printable(last_part(text) or "")
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
