"""Judging adapted generators: one by `evaluate`, several of one source by `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..batches import check_chunk
from ..checkpoints import GeneratorBundle, check_pair
from ..features import check_encoders
from ..fingerprints import clip_fingerprints, encoder_fingerprint, fingerprint, network_fingerprint
from ..metrics import direction, found_again, likeness
from ..run_folder import versions
from ..tensors import Images, check_finite, check_shape
from .agreement import snapshot_score
from .config import EvaluationConfig, Judges, Poll, ShareDone
from .figures import ClipFigures, Evaluation, Identity, PerceptualFigures, ReferenceFigures
from .inception import reference_figures
from .seen import Seen, Sitting, features_of
from .taking_part import clip_part, perceptual_part


class Referee:
    """Judges generators by the same latents and the same targets; the source is looked at once.

    Args:
        source: who was adapted; its device is that of the work.
        targets: at least one, each [1, 3, S, S] in [-1, 1], S the generator's size.
        judges: encoders and, where wanted, the networks of KID, FID and identity.
        config: seeds and truncation.
        references: pictures of the target's domain for KID and FID, [1, 3, S, S] each; none, or at least two.
        rows: how many generators will be judged, for the progress.
        progress: told after each chunk how many pictures of how many are done; one that raises stops.
        poll: called before each piece of work; it may raise.

    Raises:
        ValueError: a target of another size, too few references, encoders that are not finite.
    """

    def __init__(
        self,
        source: GeneratorBundle,
        targets: Sequence[Images],
        judges: Judges,
        config: EvaluationConfig | None = None,
        *,
        references: Sequence[Images] = (),
        rows: int = 1,
        progress: ShareDone | None = None,
        poll: Poll | None = None,
    ) -> None:
        self.source, self.judges, self.config = source, judges, config or EvaluationConfig()
        self.references = list(references)
        self._check(targets)
        self._poll, self._progress = poll or (lambda: None), progress or (lambda done, total: None)
        self._sitting = Sitting(source, targets, judges, self.config, self._poll)
        self._total, self._done = len(self.config.seeds) * (rows + 1), 0

    def _check(self, targets: Sequence[Images]) -> None:
        size = self.source.size
        if not targets:
            raise ValueError("an evaluation needs at least one target picture")
        for name, images in (("a target", targets), ("a reference picture", self.references)):
            for image in images:
                check_shape(image, name, (1, 3, size, size))
                check_finite(image, name, "give another picture")
        if self.references and self.judges.inception is None:
            raise ValueError("reference pictures are for KID and FID, which need the Inception network")
        if len(self.references) == 1:
            raise ValueError("KID and FID need at least two reference pictures, better hundreds; got one")
        check_encoders(self.judges.encoders)
        self.source.check_finite()

    @cached_property
    def _seen_source(self) -> Seen:
        return self._seen(self.source)

    def _seen(self, bundle: GeneratorBundle) -> Seen:
        check_chunk(bundle, min(self.config.batch_size, len(self.config.seeds)))
        return self._sitting.see(bundle, self._told)

    def _told(self, pictures: int) -> None:
        self._done += pictures
        self._progress(self._done, self._total)

    @cached_property
    def _reference_features(self) -> Tensor:
        found = []
        for image in self.references:
            self._poll()
            found.append(features_of(self.judges.inception, image, self._sitting.device))
        return torch.cat(found)

    def check(self, adapted: GeneratorBundle) -> None:
        """Refuse a generator that was not adapted from the source, or cannot draw; raises ValueError."""
        check_pair(self.source, adapted)
        adapted.check_finite()

    def judge(self, adapted: GeneratorBundle) -> Evaluation:
        """Judge a generator, on the source's device.

        Raises:
            ValueError: see `check`.
            FloatingPointError: a picture is not made of finite numbers.
        """
        self.check(adapted)
        source, seen = self._seen_source, self._seen(adapted)
        clips = self._clip_figures(adapted, source, seen)
        return Evaluation(
            adapted=adapted.title,
            source=self.source.title,
            settings=self.config.describe(),
            targets=len(self._sitting.targets),
            clips=clips,
            perceptual=self._perceptual_figures(adapted, source, seen),
            score=self._score(source, seen),
            references=self._reference_figures(seen),
            identity=self._identity(source, seen),
            fingerprints=self._fingerprints(adapted),
            versions=versions(),
            pictures=(source.shown, seen.shown, self._sitting.targets),
        )

    def score(self, adapted: GeneratorBundle) -> float:
        """The score of a generator alone, without the figures that take longer; errors as `judge`."""
        self.check(adapted)
        return self._score(self._seen_source, self._seen(adapted))

    def _clip_figures(self, adapted: GeneratorBundle, source: Seen, seen: Seen) -> tuple[ClipFigures, ...]:
        found = []
        for index, (clip, _) in enumerate(self.judges.encoders.clips):
            before, after = source.clips[index], seen.clips[index]
            targets = self._sitting.target_clips[index]
            found.append(
                ClipFigures(
                    name=clip.name,
                    part=clip_part(adapted, clip),
                    likeness=likeness(after, targets),
                    likeness_source=likeness(before, targets),
                    direction=direction(before, after, targets),
                    found_again=found_again(before, after),
                )
            )
        return tuple(found)

    def _score(self, source: Seen, seen: Seen) -> float:
        """Mean of the CLIP models' scores by their weights."""
        weights = [weight for _, weight in self.judges.encoders.clips]
        scores = [
            snapshot_score(before, after, targets)
            for before, after, targets in zip(
                source.clips, seen.clips, self._sitting.target_clips, strict=True
            )
        ]
        return sum(w * one for w, one in zip(weights, scores, strict=True)) / sum(weights)

    @cached_property
    def _source_diversity(self) -> float | None:
        return self._diversity(self._seen_source)

    def _diversity(self, seen: Seen) -> float | None:
        found = [self._sitting.spread(part) for part in seen.members if len(part) > 1]
        return sum(found) / len(found) if found else None

    def _perceptual_figures(self, adapted: GeneratorBundle, source: Seen, seen: Seen) -> PerceptualFigures:
        net = self.judges.encoders.perceptual
        return PerceptualFigures(
            name=net.name,
            part=perceptual_part(adapted, net),
            diversity=self._diversity(seen),
            diversity_source=self._source_diversity,
            members=tuple(map(len, seen.members)),
            found_again=found_again(source.content, seen.content),
        )

    def _reference_figures(self, seen: Seen) -> ReferenceFigures | None:
        if not self.references or self.judges.inception is None:
            return None
        return reference_figures(seen.inception, self._reference_features, self.judges.inception.name)

    def _identity(self, source: Seen, seen: Seen) -> Identity | None:
        if self.judges.faces is None:
            return None
        before, after = (torch.nn.functional.normalize(one.faces, dim=1) for one in (source, seen))
        others = before @ before.T
        count = len(before)
        strangers = (others.sum() - others.diagonal().sum()) / (count * (count - 1))
        return Identity(self.judges.faces.name, float((before * after).sum(1).mean()), float(strangers))

    def _fingerprints(self, adapted: GeneratorBundle) -> Mapping[str, Any]:
        return {
            "source": network_fingerprint(self.source.generator),
            "adapted": network_fingerprint(adapted.generator),
            "targets": [fingerprint({"target": one[None]}) for one in self._sitting.targets],
            "clip": [one for one, _ in clip_fingerprints(self.judges.encoders)],
            "perceptual": encoder_fingerprint(self.judges.encoders.perceptual),
        }


def evaluate(
    source: GeneratorBundle,
    adapted: GeneratorBundle,
    targets: Sequence[Images],
    judges: Judges,
    config: EvaluationConfig | None = None,
    *,
    references: Sequence[Images] = (),
    progress: ShareDone | None = None,
    poll: Poll | None = None,
) -> Evaluation:
    """Judge an adapted generator against its source and its targets; arguments and errors as `Referee`."""
    referee = Referee(source, targets, judges, config, references=references, progress=progress, poll=poll)
    return referee.judge(adapted)
