"""Files of latent mappers: the own safetensors file, and what StyleCLIP's training writes.

Source of the foreign layout: orpatashnik/StyleCLIP mapper/training/coach.py ({state_dict: mapper.* and
decoder.*, opts}) and mapper/latent_mappers.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import CheckpointError, naming, write_tensors
from ..checkpoints.native import HEADER_KEY, check_kind, opened_file, opened_tensors
from ..checkpoints.restricted import container, read_contents
from ..checkpoints.stored import Source, StoredTensor, describe, opened
from ..edit_files import MAX_LAYERS, MAX_NAME, read_widths, short_text
from ..edits import EDIT_SPACES, MOST_STRENGTH, STYLE, W_PLUS
from ..json_values import Fields, JsonError
from ..tensors import check_finite, owned
from .mapper import (
    GROUPS,
    LAYERS,
    SINGLE,
    STEP,
    STYLE_PREFIX,
    LatentMapper,
    MapperNet,
    levels_groups,
    single_groups,
)

FORMAT, FORMAT_VERSION = "oneshot-mapper", 1
TEXTS = ("text", "neutral_text", "clip", "measured", "fingerprint", "family")
MAX_WIDTH = 4096  # of one MLP; its four layers have 268 MB then
FULL_SLOTS = 18  # of a generator of 1024 px
MAX_EXPANSION_BYTES = 24 * 1024**2  # that weights may have beyond the file
PUBLISHED_CLIP = "ViT-B-32:openai"  # what the published program reads texts with
_WEIGHT = re.compile(rf"(?:mapper\.)?((\w+)\.mapping\.([1-{LAYERS}])\.(weight|bias))")


def save_mapper(mapper: LatentMapper, path: Path | str) -> Path:
    """Write a mapper; atomic.

    Args:
        mapper: what to write.
        path: final name, usually ending in .safetensors.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "space": mapper.space,
        "widths": list(mapper.net.widths),
        "groups": [{"name": name, "keys": list(keys)} for name, keys in mapper.net.groups.items()],
        "step": mapper.step,
        **{name: getattr(mapper, name)[:MAX_NAME] for name in TEXTS},
    }
    tensors = {name: value.detach().cpu().float() for name, value in mapper.net.state_dict().items()}
    return write_tensors(path, tensors, header)


def load_mapper(path: Path | str) -> LatentMapper:
    """Read a file of `save_mapper`, or a checkpoint of StyleCLIP's mapper; nothing in it is run.

    Returns:
        Frozen, float32, on the CPU; of the generator in a checkpoint nothing is read.

    Raises:
        CheckpointError: missing, damaged, not finite, or no mapper; the message says what was found.
    """
    path = Path(path)
    with torch.inference_mode(False), naming(path):
        with opened(path) as data:
            if container(data) != "safetensors":
                root = read_contents(data).root
                return _published(root, data.size)
        with opened_tensors(path) as (sources, texts):
            if HEADER_KEY not in texts:
                return _of_weights(sources, {}, path.stat().st_size)
        with opened_file(path) as (sources, header):
            check_kind(header, FORMAT, FORMAT_VERSION, "mapper", "train")
            try:
                return _own(sources, Fields(header, "the header"))
            except CheckpointError:
                raise
            except (JsonError, ValueError) as error:
                raise CheckpointError(f"is a damaged mapper ({error}); train it again") from error


def _own(sources: Mapping[str, Source], fields: Fields) -> LatentMapper:
    widths = read_widths(fields)
    groups = dict[str, tuple[int, ...]]()
    for entry in fields.objects("groups", MAX_LAYERS):
        keys = entry.items("keys", MAX_LAYERS)
        name = entry.text("name")
        if not re.fullmatch(r"\w{1,40}", name) or name in groups or not all(type(key) is int for key in keys):
            raise JsonError(f"groups must have a name each and whole numbers, got {describe(name)}")
        groups[name] = tuple(keys)
    net = _filled(fields.text("space", choices=EDIT_SPACES), widths, groups, sources)
    step = fields.number("step", -MOST_STRENGTH, MOST_STRENGTH)
    texts: dict[str, Any] = {name: short_text(fields, name) for name in TEXTS}
    return LatentMapper(net, step, **texts)


def _filled(
    space: str, widths: Sequence[int], groups: Mapping[str, Sequence[int]], sources: Mapping[str, Source]
) -> MapperNet:
    """A network with the weights of a file, which must be all there and no others."""
    net = MapperNet(space, widths, groups)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    missing, strange = sorted(set(shapes) - set(sources)), sorted(set(sources) - set(shapes))
    if missing or strange:
        reason = f"lacks {missing[0]}" if missing else f"also holds {strange[0][:80]!r}"
        raise CheckpointError(f"is a damaged mapper: it {reason}; get the file again")
    for name, source in sources.items():
        if source.shape != shapes[name] or not source.dtype.is_floating_point:
            raise CheckpointError(
                f"is a damaged mapper: {name} is {source.dtype} of shape {list(source.shape)}, wanted "
                f"{list(shapes[name])}"
            )
    state = dict[str, Tensor]()
    for name, source in sources.items():
        state[name] = owned(source.read().float().contiguous())
        try:
            check_finite(state[name], name)
        except ValueError as error:
            raise CheckpointError(f"is a broken mapper: {error}; train it again") from error
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


# What StyleCLIP writes ----------------------------------------------------------------------------------


def _published(root: Any, file_bytes: int) -> LatentMapper:
    """Read the object of a torch file."""
    values = root.get("state_dict", root) if isinstance(root, dict) else root
    if not isinstance(values, dict):
        raise CheckpointError(f"holds {describe(values)}, no mapper; give a checkpoint of StyleCLIP's mapper")
    options = root.get("opts")
    sources = {
        key: value.source(key)
        for key, value in values.items()
        if isinstance(key, str) and isinstance(value, StoredTensor)
    }
    return _of_weights(sources, options if isinstance(options, dict) else {}, file_bytes)


def _of_weights(given: Mapping[str, Source], options: Mapping[Any, Any], file_bytes: int) -> LatentMapper:
    """Build the mapper that a checkpoint's names tell; its decoder is left alone."""
    sources, names = dict[str, Source](), dict[str, None]()
    for key, source in given.items():
        found = _WEIGHT.fullmatch(key)
        if found:
            sources[found[1]], names[found[2]] = source, None
        elif key.startswith("mapper."):
            raise CheckpointError(f"holds {key[:80]!r}, which no mapper of StyleCLIP has; it cannot be read")
    if not sources:
        raise CheckpointError(
            "holds no weights mapper.*; give a checkpoint of StyleCLIP's mapper, or a file that `edit "
            "--method mapper` wrote"
        )
    if sum(one.numel * one.dtype.itemsize for one in sources.values()) > file_bytes + MAX_EXPANSION_BYTES:
        raise CheckpointError("declares far larger weights than the file has; it is damaged or hostile")
    sides = {name: _side(sources, name) for name in names}
    notes = list[str]()
    if set(names) <= set(GROUPS) or set(names) == {SINGLE}:
        slots = _slots(given, options, notes)
        space, widths = W_PLUS, (max(sides.values()),) * slots
        known = single_groups(slots) if SINGLE in names else levels_groups(slots)
        groups = {name: keys for name, keys in known.items() if name in names}
    else:
        space, widths, groups = STYLE, *_of_styles(sides)
    text = options.get("description")
    try:
        net = _filled(space, widths, groups, sources)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"is a mapper that cannot be read ({error})") from error
    told = text if isinstance(text, str) else ""
    notes.append(
        "a mapper of StyleCLIP: the file does not say which generator it was trained with (usually FFHQ at "
        "1024 px); it fits that one, and those adapted from it"
    )
    return LatentMapper(net, STEP, told[:MAX_NAME], clip=PUBLISHED_CLIP, notes=tuple(notes))


def _side(sources: Mapping[str, Source], name: str) -> int:
    """Width of an MLP, by its first weight."""
    source = sources.get(f"{name}.mapping.1.weight")
    if source is None or len(source.shape) != 2 or not 1 <= source.shape[0] <= MAX_WIDTH:
        raise CheckpointError(
            f"is a damaged mapper: {name} has no first layer of at most {MAX_WIDTH} numbers"
        )
    return int(source.shape[0])


def _slots(given: Collection[str], options: Mapping[Any, Any], notes: list[str]) -> int:
    """Number of slots of the generator that a checkpoint was trained with."""
    size = options.get("stylegan_size")
    if type(size) is int and 8 <= size <= 4096 and size & (size - 1) == 0:
        return 2 * (size.bit_length() - 1) - 2
    levels = {int(found[1]) for key in given if (found := re.match(r"decoder\.to_rgbs\.(\d{1,2})\.", key))}
    if levels:  # one for each side from 8 px on
        return 2 * (max(levels) + 1) + 2
    notes.append(f"the file does not say the generator's size; {FULL_SLOTS} slots (1024 px) were assumed")
    return FULL_SLOTS


def _of_styles(sides: Mapping[str, int]) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Widths of all styles and the groups, of a mapper with one MLP per style."""
    numbers = dict[int, str]()
    for name in sides:
        found = re.fullmatch(rf"{STYLE_PREFIX}(\d{{1,2}})", name)
        if found is None or int(found[1]) >= MAX_LAYERS:
            raise CheckpointError(f"has an MLP {name[:40]!r}, which no mapper of StyleCLIP has")
        numbers[int(found[1])] = name
    count = max(numbers) + 1
    if count % 3 == 1:  # the last style is a colour's, which has an MLP in some mappers only
        count += 1
    widths = []
    for index in range(count):
        # A colour's layer reads what the convolution before it gives: as many channels as that one reads.
        own = numbers.get(index) or (numbers.get(index - 1) if index % 3 == 1 else None)
        if own is None:
            raise CheckpointError(f"is a damaged mapper: it lacks {STYLE_PREFIX}{index}")
        widths.append(sides[own])
    return tuple(widths), {name: (number,) for number, name in sorted(numbers.items())}
