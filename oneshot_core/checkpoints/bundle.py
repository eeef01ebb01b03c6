"""What a network file becomes: an immutable bundle of networks, mean latent and provenance."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..json_values import Fields, JsonError, told
from ..latents import Latent
from ..networks import Discriminator, Generator
from ..tensors import check_finite, check_weights, seeded
from ..texts import printable

MEAN_LATENT_SAMPLES = 10_000  # as the method's official code
MEAN_LATENT_SEED = 0
MAX_NOTES, MAX_TEXT = 1_000, 10_000
_Network = TypeVar("_Network", Generator, Discriminator)


@dataclass(frozen=True)
class Provenance:
    """Where a bundle came from; every value is JSON."""

    format: str  # "oneshot-stylegan", "rosinality", "nvidia", "tensorflow", "e4e", or who made it in memory
    file_name: str
    sha256: str | None = None  # of the whole file; None for what was never a file
    inferred: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the file does not state and how it was found
    notes: tuple[str, ...] = ()
    history: Mapping[str, Any] = field(default_factory=dict)  # parent, preset, target hash, settings, ...

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return {
            "format": self.format,
            "file_name": self.file_name,
            "sha256": self.sha256,
            "inferred": dict(self.inferred),
            "notes": list(self.notes),
            "history": dict(self.history),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Build from `to_dict` values; raises ValueError for unknown or missing keys and for wrong types."""
        given = Fields(values, "provenance")
        notes = given.texts("notes", MAX_NOTES)
        sha256 = given.text("sha256", default=None)
        history = given.object("history")
        if "parent" in history.names():
            history.object("parent").text("file_name", default="")
        read = cls(
            _clean(given.text("format"), "format"),
            _clean(given.text("file_name"), "file_name"),
            None if sha256 is None else _clean(sha256, "sha256"),
            {name: given.object("inferred").value(name) for name in given.object("inferred").names()},
            tuple(_clean(note, "notes") for note in notes),
            {name: history.value(name) for name in history.names()},
        )
        given.close()
        return read


def _clean(text: str, name: str) -> str:
    """Refuse a text that would move the cursor of a terminal that shows it, and endless ones."""
    if len(text) > MAX_TEXT or printable(text) != text:
        raise JsonError(
            f"provenance: {name} must be at most {MAX_TEXT} characters without control characters, found "
            f"{told(text)}"
        )
    return text


@dataclass(frozen=True)
class GeneratorBundle:
    """A generator with all that belongs to it; never changed in place, training works on copies."""

    generator: Generator  # EMA weights, eval mode, no gradients
    discriminator: Discriminator | None
    raw_generator: Generator | None  # the generator without EMA, when the file has both
    mean_latent: Tensor  # [W] float32
    provenance: Provenance

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.generator.config.size

    @property
    def num_layers(self) -> int:
        """Number of slots of a W+ code."""
        return self.generator.config.num_layers

    @property
    def title(self) -> str:
        """What messages call it: its file, and whose child it is; one that was never saved has no file."""
        known = self.provenance
        if known.format == "adapted":
            return f"the generator adapted from {self.parent_name or known.file_name}"
        if known.format == "blended":
            return f"the blend of {known.file_name}"
        if known.format == "look":
            return known.file_name  # which names generator and looks
        return f"{known.file_name} (adapted from {self.parent_name})" if self.parent_name else known.file_name

    @property
    def parent_name(self) -> str:
        """File of the generator that this one was adapted from; "" where it was not adapted."""
        history = self.provenance.history
        name = "" if "blend" in history else history.get("parent", {}).get("file_name")
        return printable(name or "")

    def summary(self) -> str:
        """Describe the bundle in a few lines: size, widths, discriminator, where it came from."""
        config, origin = self.generator.config, self.provenance
        widths = " ".join(map(str, config.channels))
        parameters = sum(value.numel() for value in self.generator.parameters())
        parent = printable(origin.history.get("parent", {}).get("file_name") or "")
        lines = [
            f"StyleGAN2 generator, {self.size} px, {parameters / 1e6:.1f} M parameters",
            f"widths from 4 px on: {widths}; z {config.z_dim}, w {config.w_dim}, {self.num_layers} slots",
            f"classes: {config.c_dim}" if config.c_dim else "unconditional",
            self.critic(),
            f"source: {origin.file_name} ({origin.format})" + (f", adapted from {parent}" if parent else ""),
            f"family: {self.family[:12]}",
        ]
        return "\n".join([*lines, *origin.notes])

    def critic(self) -> str:
        """Say whether the discriminator is there, with which an adaptation goes more surely."""
        return "without discriminator" if self.discriminator is None else "with discriminator"

    def to(self, device: torch.device | str) -> GeneratorBundle:
        """Copy the networks to a device; the original, and the mean latent, stay where they are."""

        def moved(network: _Network | None) -> _Network | None:
            return None if network is None else copy.deepcopy(network).to(device)

        generator = moved(self.generator)
        assert generator is not None
        return replace(
            self,
            generator=generator,
            discriminator=moved(self.discriminator),
            raw_generator=moved(self.raw_generator),
        )

    def check_finite(self, training: bool = False) -> None:
        """Refuse networks that cannot draw, or with `training` cannot be trained.

        Raises:
            ValueError: a weight or the mean latent is NaN or infinite; the message names the first.
        """
        advice = "the training that made it broke down; use an earlier snapshot or another file"
        networks: list[tuple[str, torch.nn.Module | None]] = [("generator", self.generator)]
        if training:
            networks += [("discriminator", self.discriminator), ("raw generator", self.raw_generator)]
        for label, network in networks:
            check_weights(network, f"the {label} of {self.provenance.file_name}", advice)
        check_finite(self.mean_latent, f"the mean latent of {self.provenance.file_name}", advice)

    @property
    def family(self) -> str:
        """Fingerprint of the latent space: equal for a generator and what the default profile adapts from it.

        SHA-256 in hex over the mapping weights (as float32), z and w dimensions and size. Adaptation leaves
        the mapping network alone, so that a latent of the parent means the same person to the child.
        """
        config = self.generator.config
        digest = hashlib.sha256(json.dumps([config.z_dim, config.w_dim, config.size]).encode())
        for name, value in sorted(self.generator.mapping.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()


def estimate_mean_latent(
    generator: Generator, samples: int = MEAN_LATENT_SAMPLES, seed: int = MEAN_LATENT_SEED
) -> Tensor:
    """Average the mapping of random latents, for files that do not store the mean.

    Args:
        generator: any device and dtype; a conditional one gets its classes in turn.
        samples: number of latents, at least 1.
        seed: of the draws.

    Returns:
        [W] float32 on the CPU.

    Source: rosinality stylegan2-pytorch model.py, Generator.mean_latent, with seeded draws.
    """
    config = generator.config
    weight = generator.mapping.layers[0].weight
    with torch.inference_mode(False), torch.no_grad():
        total = torch.zeros(config.w_dim, dtype=torch.float64)
        for step, start in enumerate(range(0, samples, 1000)):
            count = min(1000, samples - start)
            z = torch.randn(count, config.z_dim, generator=seeded(seed, step, "mean_latent.z"))
            c = None
            if config.c_dim:
                classes = torch.arange(start, start + count) % config.c_dim
                c = torch.zeros(count, config.c_dim).scatter_(1, classes[:, None], 1.0).to(weight)
            total += generator.map_single(z.to(weight), c).cpu().double().sum(dim=0)
        return (total / samples).float()


def related(bundle: GeneratorBundle, family: str) -> bool:
    """Tell whether a generator may draw latents of a family: its own, its parent's, or an unknown one."""
    parent = bundle.provenance.history.get("parent", {})
    return not family or family == bundle.family or family == parent.get("family")


def check_family(latent: Latent, bundle: GeneratorBundle, what: str = "latent") -> None:
    """Refuse a latent of another family, width or number of slots.

    Args:
        latent: what is to be drawn or edited.
        bundle: by whom.
        what: the user's word for it, such as "reference".

    Raises:
        ValueError: it names both generators, by their files.
    """
    if not related(bundle, latent.family):
        whose = latent.generator_name
        known = whose not in ("", bundle.title)
        told = f"{whose}, not of {bundle.title}" if known else f"another generator than {bundle.title}"
        raise ValueError(
            f"this {what} is of {told}: use the generator that the {what} was made with, or one adapted from "
            "it"
        )
    latent.check(bundle.generator, bundle.title, what)


def check_pair(source: GeneratorBundle, adapted: GeneratorBundle) -> None:
    """Refuse two generators of which one was not adapted from the other, and a pair that is swapped.

    Raises:
        ValueError: it names both, and whom the adapted one was adapted from.
    """
    if not (related(adapted, source.family) or related(source, adapted.family)):
        parent = adapted.parent_name
        wanted = f", {parent}" if parent not in ("", source.provenance.file_name) else ""
        raise ValueError(
            f"{adapted.title} was not adapted from {source.title}: their latents do not correspond; as the "
            f"source give the generator that was adapted{wanted}"
        )
    if _is_child(source, adapted) and not _is_child(adapted, source):
        raise ValueError(
            f"source and adapted are swapped: the source is {source.title}, the adapted generator is "
            f"{adapted.title}; exchange them"
        )


def _is_child(one: GeneratorBundle, other: GeneratorBundle) -> bool:
    """Whether one was adapted from the other, as far as records tell."""
    parent = one.provenance.history.get("parent", {}) if one.parent_name else {}
    known = other.provenance
    if not parent or parent.get("family") != other.family:
        return False
    digests = parent.get("sha256"), known.sha256
    if all(digests):
        return digests[0] == digests[1]
    return known.format != "adapted" and parent.get("file_name") == known.file_name
