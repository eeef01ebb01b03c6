"""How the styles of a generator lie: which layer reads which slot of a W+ code, and what layers are called.

Styles stand in the order of `Generator.affine`: convolution and colours of 4 px, then per resolution the
enlarging convolution, the convolution and the colours (editing.md 0).
"""

from __future__ import annotations

from collections.abc import Collection


def is_colours(style: int) -> bool:
    """Whether a style belongs to a layer that makes colours (toRGB) rather than to a convolution."""
    return style % 3 == 1


def convolution_styles(count: int) -> tuple[int, ...]:
    """Those of `count` styles that belong to convolutions, in order."""
    return tuple(style for style in range(count) if not is_colours(style))


def slot_of(style: int) -> int:
    """Slot of a W+ code that a style is made of; colours share theirs with the next convolution."""
    level = (style + 1) // 3
    if is_colours(style):
        return 2 * level + 1
    return 2 * level - 1 if style % 3 == 2 else 2 * level


def resolution_of(style: int) -> int:
    """Side in pixels of what a style's layer draws."""
    return 4 << (style + 1) // 3


def style_title(style: int) -> str:
    """What messages call a style, such as "style 5 (16 px, first convolution)"."""
    if is_colours(style):
        part = "colours"
    elif style == 0:
        part = "convolution"
    else:
        part = "first convolution" if style % 3 == 2 else "second convolution"
    return f"style {style} ({resolution_of(style)} px, {part})"


def check_styles(styles: Collection[int], count: int, what: str = "layers") -> tuple[int, ...]:
    """Sort numbers of styles, each once.

    Args:
        styles: numbers from 0.
        count: styles of the generator.
        what: the user's word for them, for the message.

    Raises:
        ValueError: a number that does not exist, or none.
    """
    chosen = tuple(sorted(set(styles)))
    if not chosen:
        raise ValueError(
            f"{what} names no style; leave it out for all, or give numbers from 0 to {count - 1}"
        )
    if chosen[0] < 0 or chosen[-1] >= count:
        wrong = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise ValueError(f"{what} must be numbers of styles from 0 to {count - 1}, got {wrong}")
    return chosen
