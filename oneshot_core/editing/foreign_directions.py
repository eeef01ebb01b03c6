"""Directions that other programs wrote: InterFaceGAN's and NADA's boundaries, principal components of w.

Files say neither name nor generator; the user gives the generator. Nothing that is read can run code.

Source: genforce/interfacegan and rinongal/StyleGAN-nada (boundaries .npy [1, W]); omertov/encoder4editing
(interfacegan_directions/*.pt [1, W] or [L, W]; ganspace_pca/ffhq_pca.pt with mean, comp, std);
harskish/ganspace (.npz with lat_mean, lat_comp, lat_stdev).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import CheckpointError, GeneratorBundle, describe, naming, opened, read_contents
from ..checkpoints.arrays import opened_npz, read_npy
from ..checkpoints.rebuild import NumpyArray
from ..checkpoints.stored import ByteRange, Source, StoredTensor
from ..containers import START_BYTES, recognised, told
from ..tensors import owned
from ..texts import printable
from .components import component_direction, slots_direction
from .direction import Direction

MAX_VALUES = 64 * 1024**2  # numbers that are read of one array
_PCA_NAMES = (("mean", "comp", "std"), ("lat_mean", "lat_comp", "lat_stdev"))
_ADVICE = "give a boundary [1, W] or [L, W] as .npy, .npz or .pt"


def load_boundary(path: Path | str, bundle: GeneratorBundle) -> Direction:
    """Read a direction in w or w+ of InterFaceGAN, StyleGAN-NADA or encoder4editing.

    Args:
        path: .npy, .npz or .pt with one array [W], [1, W] or [L, W].
        bundle: the generator that it was found on, of which the file says nothing.

    Returns:
        A direction of the file's numbers, named by the file; [L, W] of equal rows are in w.

    Raises:
        CheckpointError: missing, damaged, or no such array for this generator.
    """
    path = Path(path)
    config = bundle.generator.config
    with torch.inference_mode(False), naming(path), _arrays(path) as (arrays, _):
        if len(arrays) != 1:
            shown = ", ".join(ascii(str(name)[:30]) for name in list(arrays)[:4])
            raise CheckpointError(f"holds {len(arrays)} arrays ({shown}); a boundary is one: {_ADVICE}")
        values = _read(next(iter(arrays.values())))
        flat = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
        if flat.shape[1] != config.w_dim or len(flat) not in (1, config.num_layers):
            raise CheckpointError(
                f"holds numbers of shape {list(values.shape)}; for {bundle.title} a boundary has [1, "
                f"{config.w_dim}] or [{config.num_layers}, {config.w_dim}]"
            )
        change = flat.expand(config.num_layers, -1)
        try:
            return slots_direction(owned(change.float()), **_texts(path, bundle, "boundary"))
        except ValueError as error:
            raise CheckpointError(str(error)) from error


def load_components(path: Path | str, bundle: GeneratorBundle, count: int | None = None) -> list[Direction]:
    """Read principal components of w, as encoder4editing and GANSpace keep them.

    Args:
        path: .pt with mean [1, W], comp [K, W] and std [K]; or GANSpace's .npz with lat_mean, lat_comp and
            lat_stdev.
        bundle: the generator that they were found on, of which the file says nothing.
        count: how many; None: all.

    Returns:
        As `ganspace_directions`; components keep the length that they have in the file.

    Raises:
        CheckpointError: missing, damaged, or no such arrays for this generator.
    """
    path = Path(path)
    config = bundle.generator.config
    with torch.inference_mode(False), naming(path), _arrays(path) as (arrays, kind):
        names = next((names for names in _PCA_NAMES if all(name in arrays for name in names)), None)
        if names is None:
            shown = ", ".join(ascii(str(name)[:30]) for name in list(arrays)[:6]) or "none"
            raise CheckpointError(
                f"is {kind} with the arrays {shown}; components are mean, comp and std, or lat_mean, "
                "lat_comp and lat_stdev"
            )
        mean, comp, std = (_read(arrays[name]) for name in names)
        comp = comp.reshape(-1, comp.shape[-1]) if comp.ndim else comp.reshape(1, 1)
        if comp.shape[1] != config.w_dim or mean.numel() != config.w_dim or std.numel() != len(comp):
            raise CheckpointError(
                f"has components of shape {list(comp.shape)}, a mean of {mean.numel()} numbers and "
                f"{std.numel()} deviations; {bundle.title} has a w of {config.w_dim}"
            )
        kept = len(comp) if count is None else count
        if not 1 <= kept <= len(comp):
            raise CheckpointError(f"holds {len(comp)} components, {kept} were asked for")
        texts = _texts(path, bundle, "ganspace")
        try:
            return [
                component_direction(
                    comp[number].float(), float(std.flatten()[number]), mean.flatten(), config.num_layers,
                    **{**texts, "name": f"{texts['name']} {number}"},
                )
                for number in range(kept)
            ]  # fmt: skip
        except ValueError as error:
            raise CheckpointError(str(error)) from error


def _texts(path: Path, bundle: GeneratorBundle, method: str) -> dict[str, Any]:
    name = printable(path.stem)[:200]
    return {"name": name, "method": method, "measured": bundle.title, "family": bundle.family}


@contextmanager
def _arrays(path: Path) -> Iterator[tuple[dict[str, Source], str]]:
    """Open a numpy or torch file: its arrays by name, unread, and what kind of file it is."""
    with opened(path) as data:
        start = data.read(0, min(data.size, START_BYTES))
        found = recognised(start, data.size)
        kind = "" if found is None else found.name
        if kind == "npz":
            with open(path, "rb") as file, opened_npz(file, data) as arrays:
                yield arrays, "a numpy file (.npz)"
            return
        if kind == "npy":
            yield {"the array": read_npy(data)}, "a numpy file (.npy)"
        elif kind in ("torch-zip", "torch-legacy", "pickle"):
            yield _of_torch(data), "a torch file"
        else:
            raise CheckpointError(told(start, data.size, "directions", _ADVICE) or f"holds none; {_ADVICE}")


def _of_torch(data: ByteRange) -> dict[str, Source]:
    root = read_contents(data).root
    entries: Mapping[Any, Any] = root if isinstance(root, Mapping) else {"the array": root}
    found = {}
    for name, value in entries.items():
        stored = value.tensor if isinstance(value, NumpyArray) else value
        if isinstance(stored, StoredTensor):
            found[str(name)] = stored.source(str(name))
    if not found:
        raise CheckpointError(f"holds {describe(root)}, no array; {_ADVICE}")
    return found


def _read(source: Source) -> Tensor:
    if source.numel > MAX_VALUES or not source.numel:
        raise CheckpointError(f"holds an array of shape {list(source.shape)}, which no direction has")
    values = source.read()
    if not values.is_floating_point() or not bool(values.isfinite().all()):
        raise CheckpointError(f"the array {source.name!r} is not made of finite numbers; make it again")
    return owned(values.double())
