"""Directions that need no text: SeFa's eigenvectors, GANSpace's principal components, differences of latents.

Source: SeFa (arXiv 2007.06600), genforce/sefa; GANSpace (arXiv 2004.02546); both as omertov/encoder4editing
uses them (editing/sefa.py, editing/ganspace.py). Deviation: SeFa's layers are edited in the slots that feed
them, where encoder4editing edits the slots before those.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import GeneratorBundle, check_family
from ..edits import MAX_EDITS, MOST_STRENGTH, W_PLUS, LatentEdit
from ..fingerprints import network_fingerprint
from ..latents import Latent
from ..networks import Generator
from ..ranges import check_number
from ..tensors import Latents, owned
from .direction import Direction
from .statistics import COUNT, LatentMoments, Progress, latent_moments

COMPONENTS = 5  # where no number is asked for, as genforce/sefa


def sefa_directions(
    bundle: GeneratorBundle, layers: Collection[int] | None = None, count: int = COMPONENTS
) -> list[Direction]:
    """Find the directions of w that change the styles of some layers most.

    Args:
        bundle: the generator; an adapted one has its own.
        layers: numbers of convolutions, which are also the slots that feed them, from 0; None: all.
        count: number of directions, at most W.

    Returns:
        Directions of length 1, the strongest first; the largest entry is positive. Of some layers they are
        in w+, of all in w. Usual strengths: -3 to 3.

    Raises:
        ValueError: layers or a count that do not exist, or weights that are not finite.
    """
    vectors, _ = sefa_eigenvectors(bundle, layers)
    _check_count(count, len(vectors))
    config = bundle.generator.config
    chosen = None if layers is None else sorted(set(layers))
    told = "all layers" if chosen is None else f"layers {', '.join(map(str, chosen))}"
    found = []
    for number, vector in enumerate(vectors[:count].float()):
        slots = (0,) if chosen is None else chosen
        found.append(
            Direction(
                "w" if chosen is None else W_PLUS,
                dict.fromkeys(slots, vector),
                (config.w_dim,) * config.num_layers,
                name=f"SeFa {number} of {told}",
                **_origin(bundle, "sefa"),
            )  # fmt: skip
        )
    return found


def sefa_eigenvectors(
    bundle: GeneratorBundle, layers: Collection[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Eigenvectors of what the affine layers of convolutions do, each row of their weights at length 1.

    Args:
        bundle: the generator.
        layers: numbers of convolutions; None: all.

    Returns:
        Vectors [W, W] float64 in rows, and eigenvalues [W], descending. The largest entry of a row is
        positive.
    """
    bundle.check_finite()
    convs = bundle.generator.convs
    chosen = list(range(len(convs))) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(convs):
        raise ValueError(
            f"layers of SeFa are convolutions from 0 to {len(convs) - 1}, got {chosen[:1] + chosen[-1:]}"
        )
    weights = torch.cat([convs[layer].affine.weight.detach().cpu().double() for layer in chosen])
    lengths = weights.norm(dim=1, keepdim=True)
    units = weights / torch.where(lengths > 0, lengths, 1.0)
    return _eigenvectors(units.T @ units)


def _eigenvectors(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors in rows and eigenvalues of a symmetric matrix, descending, with one choice of sign."""
    with torch.inference_mode(False), torch.no_grad():
        values, columns = torch.linalg.eigh(owned(symmetric))
    rows = columns.T.flip(0)
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return rows * torch.where(largest < 0, -1.0, 1.0), values.flip(0)


def ganspace_directions(
    bundle: GeneratorBundle,
    count: int = COMPONENTS,
    samples: int = COUNT,
    seed: int = 0,
    *,
    moments: LatentMoments | None = None,
    progress: Progress | None = None,
) -> list[Direction]:
    """Find the principal components of w, from its exact covariance.

    Args:
        bundle: the generator.
        count: number of directions, at most W.
        samples: codes that the covariance is measured from.
        seed: of the draws.
        moments: of w, where they were measured before; `samples` and `seed` are then not used.
        progress: told how many of how many codes are mapped; one that raises stops.

    Returns:
        Directions in w whose strength counts standard deviations of the component, the widest first; the
        largest entry is positive. They know deviation and mean, so that `set_coordinate` takes them.

    Raises:
        ValueError: a count that does not exist; see also `latent_moments`.
    """
    config = bundle.generator.config
    _check_count(count, config.w_dim)
    moments = moments or latent_moments(bundle, samples, seed, progress=progress)
    vectors, values = _eigenvectors(moments.covariance)
    deviations = values.clamp(min=0).sqrt()
    return [
        component_direction(
            vectors[number].float(), float(deviations[number]), moments.mean, config.num_layers,
            name=f"GANSpace {number}", **_origin(bundle, "ganspace"),
        )
        for number in range(count)
    ]  # fmt: skip


def component_direction(
    component: Tensor, deviation: float, mean: Tensor, slots: int, **texts: str
) -> Direction:
    """Make the direction of a component: strength 1 adds its vector times its deviation.

    Args:
        component: [W], near length 1; its type is the direction's.
        deviation: of the coordinate along it.
        mean: [W], where the coordinate is 0.
        slots: number L of slots of the generator.
        texts: of the direction, such as name and method.

    Raises:
        ValueError: a deviation of 0, along which no latent differs.
    """
    if not deviation > 0:
        name = texts.get("name", "the component")
        raise ValueError(f"{name} has the deviation {deviation:g}: no latent differs along it; give fewer")
    return Direction(
        "w", {0: component * deviation}, (len(component),) * slots,
        sigma={0: torch.tensor([deviation]).to(component)}, mean={0: mean.to(component)}, **texts,
    )  # fmt: skip


def _origin(bundle: GeneratorBundle, method: str) -> dict[str, Any]:
    return {
        "method": method,
        "measured": bundle.title,
        "fingerprint": network_fingerprint(bundle.generator),
        "family": bundle.family,
    }


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"count must be 1 to {most} directions, got {count}")


# Setting a coordinate ----------------------------------------------------------------------------------


def coordinate(codes: Latents, direction: Direction) -> Tensor:
    """Where codes lie along a component, in its deviations: 0 is the mean.

    Args:
        codes: [N, L, W] or [N, W]; of several slots the first counts, as in encoder4editing.
        direction: in w, with deviation and mean, as `ganspace_directions` gives it.

    Returns:
        [N].

    Raises:
        ValueError: the direction knows no deviation or mean.
    """
    vector, deviation, mean = _component(direction)
    first = (codes[:, 0] if codes.ndim == 3 else codes).detach().cpu()
    first = first.to(torch.promote_types(first.dtype, vector.dtype))
    return (first - mean.to(first)) @ vector.to(first) / float(deviation) ** 2


def _component(direction: Direction) -> tuple[Tensor, Tensor, Tensor]:
    known = direction.kind == "w" and set(direction.sigma) == {0} and set(direction.mean) == {0}
    if not known or direction.sigma[0].numel() != 1 or direction.mean[0].shape != direction.vectors[0].shape:
        raise ValueError(
            f"{direction.title} is no component with deviation and mean, so its coordinate is unknown; add "
            "it with a strength instead, or take one of GANSpace"
        )
    return direction.vectors[0], direction.sigma[0], direction.mean[0]


@torch.no_grad()
def set_coordinate(
    latent: Latent,
    generator: Generator,
    direction: Direction,
    strength: float,
    slots: tuple[int, int] | None = None,
) -> Latent:
    """Set where every code of a latent lies along a component, instead of adding to it.

    Args:
        latent: any space; its W+ edits count, and it carries one more afterwards. Codes are taken as they
            are, before any truncation.
        generator: maps it.
        direction: in w, with deviation and mean, as `ganspace_directions` gives it.
        strength: the coordinate afterwards, in deviations, where all slots are changed.
        slots: first slot that is changed and the one after the last; None: all.

    Raises:
        ValueError: the direction knows no deviation, slots that do not exist, or a latent that does not fit.

    Source: omertov/encoder4editing editing/ganspace.py.
    """
    check_number(strength, f"strength of {direction.title}", low=-MOST_STRENGTH, high=MOST_STRENGTH)
    number = len(direction.widths)
    first, end = slots or (0, number)
    if not 0 <= first < end <= number:
        raise ValueError(f"slots to change must lie within 0 and {number}, got {first} to {end}")
    if len(latent.edits) >= MAX_EDITS:
        raise ValueError(f"the latent carries {MAX_EDITS} edits already; combine directions first")
    plain = replace(latent, edits=tuple(edit for edit in latent.edits if edit.space == W_PLUS))
    now = coordinate(plain.codes(generator), direction)
    vector = direction.vectors[0]
    change = (strength - now)[:, None] * vector.to(now)  # [N, W]
    name = f"{direction.name} set to {strength:g}"
    edit = LatentEdit(
        W_PLUS, dict.fromkeys(range(first, end), change), direction.widths, 1.0, name, direction.measured
    )
    told = {"method": "coordinate", "direction": direction.name, "strength": float(strength)}
    seeds = {"seeds": latent.origin["seeds"]} if "seeds" in latent.origin else {}
    origin = {**told, "edited": latent.origin, **seeds}
    return replace(latent, origin=origin, edits=(*latent.edits, edit))


# Differences --------------------------------------------------------------------------------------------


@torch.no_grad()
def reference_direction(
    bundle: GeneratorBundle, with_it: Latent, without: Latent, name: str = ""
) -> Direction:
    """Make the direction from some latents to others: the difference of their mean codes.

    Args:
        bundle: whose latents they are.
        with_it: N codes of pictures that have something.
        without: M codes of pictures that do not.
        name: of the direction.

    Returns:
        In w+; in w where no latent has different slots.

    Raises:
        ValueError: latents of another family, or two of the same mean.
    """
    means = []
    for latent, what in ((with_it, "latents with it"), (without, "latents without it")):
        check_family(latent, bundle, what)
        means.append(latent.codes(bundle.generator, "a difference").double().mean(dim=0).cpu())
    change = (means[0] - means[1]).float()  # [L, W]
    if not bool(change.any()):
        raise ValueError("both latents have the same mean code; give two that differ")
    return slots_direction(change, name=name, **_origin(bundle, "difference"))


def slots_direction(change: Tensor, **texts: Any) -> Direction:
    """Make a direction of one vector per slot [L, W]: in w where all are the same, else in w+."""
    widths = (change.shape[1],) * len(change)
    if bool((change == change[0]).all()):
        return Direction("w", {0: change[0]}, widths, **texts)
    return Direction(
        W_PLUS, {slot: vector for slot, vector in enumerate(change) if bool(vector.any())}, widths, **texts
    )
