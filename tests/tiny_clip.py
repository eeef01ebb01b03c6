"""A tiny CLIP's configuration, one that reads some words, and pictures for it."""

from __future__ import annotations

import torch

from oneshot_core.features import ClipEncoder, WordTokenizer, build_clip

WORDS = ("a", "photo", "of", "sketch", "the")
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 12, "width": 16, "heads": 2, "layers": 1},
}


def pictures(count: int = 2, size: int = 40, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=dtype)


def reading_clip() -> ClipEncoder:
    """One that knows some words."""
    vocabulary = {**CONFIG["text_cfg"], "vocab_size": len(WORDS) + 4}
    model = build_clip({**CONFIG, "text_cfg": vocabulary}, seed=3)
    return ClipEncoder(model, tokenizer=WordTokenizer(list(WORDS), 8))
