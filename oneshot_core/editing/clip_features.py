"""What CLIP sees in drawn pictures: reduced without aliasing, or in 8 bits as StyleCLIP shows them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..features import ClipEncoder
from ..tensors import Images


def picture_features(clip: ClipEncoder, images: Images, eight_bit: bool = False) -> Tensor:
    """Unit features [N, D] of drawn pictures.

    Args:
        clip: on the pictures' device.
        images: [N, 3, S, S].
        eight_bit: pictures become 8-bit ones that Pillow reduces, as in StyleCLIP's SingleChannel.py; without
            gradient. Else they are reduced by an antialiased bicubic filter, with gradient.
    """
    if eight_bit:
        return clip.encode_pictures([Image.fromarray(one) for one in to_eight_bit(images).numpy()])
    side = clip.preprocess.image_size
    if images.shape[-1] > side:
        images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    return clip.encode_images(images)


def to_eight_bit(images: Images) -> Tensor:
    """Pictures [N, 3, H, W] as [N, H, W, 3] uint8 on the CPU, cut off and not rounded, as StyleCLIP's are."""
    pixels = ((images.detach() + 1) / 2 * 255).clamp(0, 255)
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().contiguous()
