"""What a text edit wants to see: the distance of pictures from a text, in CLIP's eyes.

Source: StyleCLIP (arXiv 2103.17249) section 4; orpatashnik/StyleCLIP criteria/clip_loss.py. With a neutral
text: StyleGAN-NADA (arXiv 2108.00946) section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draws import Draws, SeededDraws
from ..features import ClipEncoder
from ..objective.directions import direction_distance
from ..resampling import enlarged_average
from ..tensors import Images, owned

PREPROCESSINGS = ("default", "legacy")
SMALLEST_VIEW = 0.8  # side of a random view, as a fraction of the picture's
SOFTNESS = 0.1  # of the direction: every edit starts from an unchanged picture, see `direction_distance`
LEGACY_PARTS = 32  # averages per enlarged pixel of the published chain: by 7, then S / 32, which gives 224


@dataclass(frozen=True)
class TextGoal:
    """What pictures are compared with, and how CLIP sees them; made by `TextGoal.of`."""

    clip: ClipEncoder
    text: Tensor  # [D], unit length
    direction: Tensor | None  # [D], from the neutral text to the text
    preprocessing: str
    views: int
    draws: Draws

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        clip: ClipEncoder,
        text: str,
        neutral_text: str = "",
        preprocessing: str = "default",
        views: int = 0,
        seed: int = 0,
    ) -> TextGoal:
        """Read the texts.

        Args:
            clip: reads pictures and texts.
            text: what pictures are to show.
            neutral_text: what they show now; "": pictures are compared with the text itself.
            preprocessing: one of `PREPROCESSINGS`, see `features`.
            views: random crops that CLIP sees instead of the picture; 0: the picture.
            seed: of the crops.

        Raises:
            ValueError: two texts of one meaning.
        """
        draws = SeededDraws(seed)
        if not neutral_text.strip():
            return cls(clip, owned(clip.encode_text([text]))[0], None, preprocessing, views, draws)
        target, neutral = owned(clip.encode_text([text, neutral_text]))
        # The direction would be rounding noise.
        if float((target - neutral).norm()) < 1e-4:
            raise ValueError(
                f"the CLIP model {clip.name} reads the same in text {text!r} and neutral_text "
                f"{neutral_text!r}; let them differ in the one thing to be changed, or leave neutral_text "
                "empty"
            )
        return cls(clip, target, target - neutral, preprocessing, views, draws)

    @property
    def name(self) -> str:
        """Under which its loss is logged."""
        return "clip" if self.direction is None else "direction"

    def features(self, images: Images) -> Tensor:
        """Unit CLIP features [n, D] of pictures.

        With "default" they are reduced with a low-pass filter and normalised as CLIP was trained. With
        "legacy" they go the way of the published code, see `legacy_pixels`.
        """
        side = self.clip.preprocess.image_size
        if self.preprocessing == "legacy":
            return self.clip.encode_prepared(legacy_pixels(images, side))
        if images.shape[-1] != side:
            # The method's own resize is bicubic without low-pass, which aliases strongly at 1024 px (Q29).
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        return self.clip.encode_images(images)

    def distance(self, images: Images, before: Images, step: int) -> Tensor:
        """Loss per picture [n], the mean over its views; the views are the same for every picture.

        Args:
            images: [n, 3, S, S].
            before: [n, 3, S, S], the pictures before the edit; only a direction looks at them.
            step: decides the views.
        """
        indices = range(self.views)
        views = [self._view(images, step, index) for index in indices] or [images]
        # Cut like the new ones: a direction from one crop to another would show the crop, not the edit.
        old = [self._view(before, step, index) for index in indices] or [before]
        pairs = zip(views, old, strict=True)
        return torch.stack([self._distance(view, old) for view, old in pairs]).mean(dim=0)

    def _distance(self, images: Images, before: Images) -> Tensor:
        features = self.features(images)
        if self.direction is None:
            # StyleCLIP's 1 - logit / 100: CLIP's logits are 100 times the cosine.
            return 1 - features @ self.text.to(features)
        with torch.no_grad():
            old = self.features(before)
        return direction_distance(features, old, self.direction.to(features), SOFTNESS)

    def _view(self, images: Images, step: int, index: int) -> Images:
        """Cut a random square out of the pictures."""
        share, top, left = self.draws.uniform(step, f"edit.view.{index}", (3,)).tolist()
        size = images.shape[-1]
        side = max(1, round(size * (SMALLEST_VIEW + share * (1 - SMALLEST_VIEW))))
        y, x = (int(place * (size - side + 1)) for place in (top, left))
        return images[:, :, y : y + side, x : x + side]


def legacy_pixels(images: Images, side: int = 224) -> Tensor:
    """What the published code shows CLIP: enlarged by 7, averaged over S / 32, in [-1, 1], not normalised.

    Args:
        images: [n, 3, S, S] in [-1, 1].
        side: that CLIP reads; by side / 32 the pictures are enlarged, which is 7 for 224.

    Returns:
        [n, 3, side, side].

    Raises:
        ValueError: the chain does not end at that side.

    Source: orpatashnik/StyleCLIP criteria/clip_loss.py. For parity with it; CLIP was trained on normalised
        pictures in another range.
    """
    check_legacy(images.shape[-1], side)
    return enlarged_average(images, side // LEGACY_PARTS, images.shape[-1] // LEGACY_PARTS)


def check_legacy(size: int, side: int) -> None:
    """Refuse pictures that `legacy_pixels` does not bring to the side that CLIP reads; raises ValueError."""
    enlarge, average = side // LEGACY_PARTS, size // LEGACY_PARTS
    if not (enlarge and average) or enlarge * size // average != side:
        raise ValueError(
            f"the preprocessing 'legacy' does not fit pictures of {size} px and a CLIP model of {side} px: "
            f"both must be multiples of {LEGACY_PARTS}; use 'default'"
        )


def check_preprocessing(name: str) -> None:
    """Refuse an unknown preprocessing; raises ValueError."""
    if name not in PREPROCESSINGS:
        raise ValueError(f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {name!r}")
