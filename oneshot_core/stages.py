"""Running a network part by part: its inside is kept for the backward pass, or computed again there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from torch.utils.checkpoint import checkpoint

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]
# Runs a part of a network on its inputs: stage(part, *inputs, context=...).
Stage: TypeAlias = Callable[..., Any]


def kept(part: Callable[..., Any], *inputs: Any, context: Context = nullcontext) -> Any:
    """Run a part; what its backward pass needs is kept until then.

    Args:
        part: takes the inputs.
        inputs: tensors, or sequences of them.
        context: opened by other stages where the part runs again.
    """
    return part(*inputs)


def recomputed(part: Callable[..., Any], *inputs: Any, context: Context = nullcontext) -> Any:
    """Run a part of which only inputs and outputs are kept; it runs again when its backward pass is due.

    The values are the same, bit for bit on a CPU.

    Args:
        part: takes the inputs; draws nothing at random.
        inputs: tensors, or sequences of them.
        context: what was open around this call and will not be around the backward pass.
    """
    return checkpoint(
        part, *inputs, use_reentrant=False, preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), context()),
    )  # fmt: skip
