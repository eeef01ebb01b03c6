"""Dictionaries by gradients: the whole of what CLIP sees of every channel, without a picture for each.

For each sample the gradients along every direction of a basis are a vector for every channel: its tangent in
CLIP's space. Unit tangents are averaged over the samples, as unit differences are in a dictionary by finite
differences (editing.md 2). No text is needed, and any is a product afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints import GeneratorBundle
from ..features import ClipEncoder
from ..fingerprints import encoder_fingerprint, fingerprint, network_fingerprint
from ..saved_states import DamagedState, SavedState, StateFile, run_saved
from ..tensors import check_finite, check_shape
from .dictionary import Dictionary
from .finite_differences import MAX_IMAGES, counted, state_file
from .statistics import Progress, StyleStatistics
from .style_gradients import TINY, StyleView, take_gradients, view_of
from .style_layout import check_styles, convolution_styles

METHOD = "gradients"
BASIS_ERROR = 1e-3  # by which products of two vectors of a basis may differ from 0 and 1


@dataclass(frozen=True)
class GradientDictionaryConfig:
    """Settings of a dictionary by gradients."""

    samples: int = 16  # as finite differences have
    seed: int = 0  # of the first sample; the others follow
    styles: tuple[int, ...] | None = None  # of which all channels are measured; None: of all convolutions
    batch_size: int = 4  # samples at once; needs memory

    def __post_init__(self) -> None:
        if self.styles is not None:
            object.__setattr__(self, "styles", tuple(self.styles))
        if not 1 <= self.samples <= MAX_IMAGES:
            raise ValueError(f"samples must be 1 to {MAX_IMAGES}, got {self.samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def describe(self) -> dict[str, Any]:
        """Return what determines the result as JSON values; `batch_size` changes no more than last bits."""
        values = asdict(self)
        del values["batch_size"]
        values["styles"] = None if self.styles is None else list(self.styles)
        return values

    def rows(self, view: StyleView) -> Tensor:
        """Which [K] of the view's channels are measured, as a mask.

        Raises:
            ValueError: a style that does not exist, or none that is drawn.
        """
        count = len(view.statistics.widths)
        chosen = self.styles
        chosen = convolution_styles(count) if chosen is None else check_styles(chosen, count, "styles")
        kept = torch.isin(view.places[0], torch.tensor(chosen))
        if not bool(kept.any()):
            raise ValueError(
                f"none of these layers is drawn at {view.max_px} px, which is all that {view.clip.name} "
                "reads; choose coarser ones"
            )
        return kept


def measure_gradient_dictionary(
    bundle: GeneratorBundle,
    clip: ClipEncoder,
    config: GradientDictionaryConfig | None = None,
    statistics: StyleStatistics | None = None,
    *,
    basis: Tensor | None = None,
    state: Path | str | None = None,
    progress: Progress | None = None,
) -> Dictionary:
    """Measure a dictionary: one forward pass per sample, and one backward pass per sample and vector.

    Args:
        bundle: the generator, adapted or not.
        clip: reads the pictures, on the generator's device.
        config: settings; default `GradientDictionaryConfig()`.
        statistics: of its styles; None: measured from 100,000 codes at psi 0.7.
        basis: [M, D] orthonormal, the part of CLIP's space that is looked at, such as what many pairs of
            texts span; rows lie in it. None: all of it, M = D.
        state: file in which what was measured is kept; see `measure_dictionary`.
        progress: told after each batch how many samples of how many are done; one that raises stops.

    Returns:
        Rows as finite differences give them, from tangents at the samples instead of secants.

    Raises:
        ValueError: settings, statistics or a basis that do not fit, weights that are not finite, or a step
            that does not fit main memory.
        StateError: the state belongs to other settings.
        FloatingPointError: a picture is not finite.
    """
    config = config or GradientDictionaryConfig()
    view = view_of(bundle, clip, statistics)
    statistics = view.statistics
    view.check_memory(min(config.batch_size, config.samples))
    kept = config.rows(view)
    with torch.inference_mode(False):
        vectors = _basis(view, basis)
        seen_by = encoder_fingerprint(clip)
        told = {
            "method": METHOD,
            "generator": network_fingerprint(bundle.generator),
            "mean": fingerprint({"mean": bundle.mean_latent}),
            "clip": seen_by,
            "statistics": statistics.digest,
            "truncation": [statistics.psi, statistics.cutoff],
            "basis": "" if basis is None else fingerprint({"basis": basis}),
            "config": config.describe(),
        }
        states = None if state is None else state_file(state)
        work = _Tangents(view, vectors, kept, config, told)
        mean, effect = run_saved(work, states, counted(progress))
        return Dictionary(
            (F.normalize(mean, dim=1) @ vectors.double().cpu()).float(),
            view.places[0][kept], view.places[1][kept], statistics,
            rho=mean.norm(dim=1).float(), effect=effect.float(),
            clip=clip.name, clip_fingerprint=seen_by, method=METHOD, settings=told,
        )  # fmt: skip


class _Tangents:
    """Sums over samples of the kept channels' unit tangents [K, M], and of the tangents' lengths [K]."""

    def __init__(
        self,
        view: StyleView,
        vectors: Tensor,
        kept: Tensor,
        config: GradientDictionaryConfig,
        settings: Mapping[str, Any],
    ) -> None:
        self._view, self._vectors, self._kept = view, vectors, kept
        self._config, self._settings = config, settings
        tangents = torch.zeros(int(kept.sum()), len(vectors), dtype=torch.float64)
        lengths = torch.zeros(len(tangents), dtype=torch.float64)
        self._sums: tuple[Tensor, Tensor, tuple[float, ...]] = tangents, lengths, ()  # and each sample's size
        self._saved = 0  # samples

    def run(self, callbacks: Sequence[Callable[[tuple[int, int]], None]]) -> tuple[Tensor, Tensor]:
        """Take the samples that are missing; mean unit tangents and mean lengths, float64."""
        config = self._config

        def taken(values: Tensor) -> None:
            found = values[:, :, self._kept].double()  # [M, n, K]
            sizes = found.norm(dim=0)
            tangents, lengths, before = self._sums
            # One assignment: a signal between two would save a batch that is counted in half.
            self._sums = (
                tangents + (found / sizes.clamp_min(TINY)).sum(dim=1).T,
                lengths + sizes.sum(dim=0),
                (*before, *sizes.mean(dim=1).tolist()),
            )
            for callback in callbacks:
                callback((len(self._sums[2]), config.samples))

        seeds = range(config.seed + len(self._sums[2]), config.seed + config.samples)
        take_gradients(self._view, self._vectors, seeds, config.batch_size, taken)
        tangents, lengths, _ = self._sums
        return tangents / config.samples, lengths / config.samples

    def save(self, states: StateFile) -> None:
        """Write the sums; atomic. No sample twice, and never what is not finite."""
        tangents, lengths, sizes = self._sums
        if len(sizes) > self._saved and all(map(math.isfinite, sizes)):
            tensors = {"tangents": tangents, "lengths": lengths}
            states.save(SavedState(len(sizes), self._settings, tensors, {"size": list(sizes)}))
            self._saved = len(sizes)

    def restore(self, states: StateFile, path: Path) -> None:
        """Go on from a file; one that raises DamagedState has changed nothing."""
        tangents, lengths, _ = self._sums
        found = states.read(path, self._settings, {"tangents": tangents, "lengths": lengths})
        if not 0 < found.step <= self._config.samples:
            raise DamagedState(f"{path}: holds {found.step} samples, there are {self._config.samples}")
        self._sums = found.tensors["tangents"], found.tensors["lengths"], tuple(found.history["size"])
        self._saved = found.step


def _basis(view: StyleView, basis: Tensor | None) -> Tensor:
    """Orthonormal vectors [M, D]."""
    with torch.no_grad():
        width = view.features(view.sampled([0])).shape[1]
    if basis is None:
        return torch.eye(width)
    check_shape(basis, "the basis", (None, width))
    check_finite(basis, "the basis")
    error = (basis.double() @ basis.double().T - torch.eye(len(basis), dtype=torch.float64)).abs().max()
    if float(error) > BASIS_ERROR:
        raise ValueError(
            "the vectors of the basis must have length 1 and be orthogonal to each other (products differ by "
            f"{float(error):.2g}); orthonormal_basis makes such ones"
        )
    return basis


def orthonormal_basis(changes: Sequence[Tensor] | Tensor, count: int) -> Tensor:
    """What many changes of CLIP's feature span: their principal directions, the widest first.

    Args:
        changes: P changes [D], such as `text_change` gives them for many pairs of texts.
        count: M vectors, at most P and D.

    Returns:
        [M, D] orthonormal; of the changes themselves, not of their differences to the mean.

    Raises:
        ValueError: fewer changes than vectors, or changes that span less.
    """
    table = torch.stack(list(changes)).double() if not isinstance(changes, Tensor) else changes.double()
    if not 1 <= count <= min(table.shape):
        raise ValueError(f"count must be 1 to {min(table.shape)} vectors for these changes, got {count}")
    _, sizes, rows = torch.linalg.svd(table, full_matrices=False)
    if float(sizes[count - 1]) <= 1e-6 * float(sizes[0]):
        raise ValueError(f"these changes span fewer than {count} directions; ask for fewer")
    return rows[:count].float()
