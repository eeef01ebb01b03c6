"""What the verbs work with: device, threads, generators, encoders, folders, by the names users type."""

from __future__ import annotations

import math
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..checkpoints import GeneratorBundle, load
from ..demo.world import demo_generator
from ..encoder_choice import DEMO, DEMO_GENERATOR
from ..features import BytesProgress, Encoders
from ..inputs import Inputs, OpenNetworks, open_inputs
from ..latent_files import latent_notes, load_latent
from ..latents import Latent
from ..look_files import load_look
from ..looks import apply_looks, look_notes
from ..memory import keep_freed_memory
from ..recipe import Recipe
from ..writing import in_words, remove_stale_temporaries
from .console import BadInput, ProgressBar, duration, note, say, say_json

_Placed = TypeVar("_Placed", GeneratorBundle, Encoders)
_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota_file: Path = _QUOTA_FILE) -> int:
    """Count the CPU cores that this process may use, by affinity and by the container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no quota, or not Linux
        return cores


def prepare(options: Namespace) -> torch.device:
    """Set the number of CPU threads and choose the device that the options ask for.

    Raises:
        BadInput: the device is not there.
    """
    torch.set_num_threads(options.threads or min(usable_cores(), torch.get_num_threads()))
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = options.device
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if found[kind])
    if not found.get(name, False):
        there = ", ".join(kind for kind, is_there in found.items() if is_there)
        raise BadInput(f"this machine has no device {name!r} that torch can use; it has {there}")
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def checkpoint_path(name: str) -> Path:
    """Return the file that a generator's name means: the demo's for "demo", else the path itself."""
    return DEMO_GENERATOR if name == DEMO else Path(name)


def open_generator(
    name: str, device: torch.device, looks: Sequence[tuple[str, float]] = ()
) -> GeneratorBundle:
    """Load a checkpoint, or the demo's generator for the name "demo", onto a device.

    Args:
        name: file, or "demo".
        device: where it goes.
        looks: files of looks to add, each with its strength.
    """
    return placed(with_looks(demo_generator() if name == DEMO else load(name), looks), device)


def with_looks(bundle: GeneratorBundle, files: Sequence[tuple[str, float]]) -> GeneratorBundle:
    """Add looks from files to a generator, and tell which were learnt elsewhere; without, it is the same."""
    looks = [(load_look(file), strength) for file, strength in files]
    for line in look_notes(bundle, looks):
        note(line)
    return apply_looks(bundle, looks) if looks else bundle


def open_latent(name: str, bundle: GeneratorBundle) -> Latent:
    """Load latents for a generator, of this program or another, and tell what was assumed about them.

    Raises:
        CheckpointError: missing, damaged, or no latents.
    """
    latent = load_latent(name, bundle.num_layers)
    for line in latent_notes(latent):
        note(f"{Path(name).name}: {line}")
    return latent


def placed(loaded: _Placed, device: torch.device) -> _Placed:
    """Return what was loaded, on the CPU, or its copy on another device."""
    return loaded if device.type == "cpu" else loaded.to(device)


def open_all(
    recipe: Recipe,
    device: torch.device,
    options: Namespace,
    half: str = "",
    networks: OpenNetworks | None = None,
) -> Inputs:
    """Open what a recipe names, with a bar for every download; see `open_inputs`.

    Args:
        recipe: with a target.
        device: where networks go.
        options: with `offline` and `quiet`.
        half: "search" where nothing is to be trained.
        networks: those that earlier recipes opened.
    """
    downloads = not options.offline
    with shown_download(options.quiet) as progress:
        return open_inputs(
            recipe, device, half, allow_download=downloads, progress=progress, networks=networks
        )


@contextmanager
def shown_download(quiet: bool) -> Iterator[BytesProgress]:
    """Show downloads, each with a bar of its own, in megabytes."""
    bars: dict[int, ProgressBar] = {}

    def show(done: int, total: int | None) -> None:
        if not total:
            return
        if total not in bars:
            for bar in bars.values():
                bar.close()
            bars[total] = ProgressBar("download, MB", math.ceil(total / 1e6), quiet=quiet)
        bars[total].update(math.ceil(done / 1e6))

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def out_path(name: str) -> Path:
    """Read a name of a folder for results.

    Raises:
        BadInput: it is empty, the root of a disk, or a file.
    """
    if not name.strip():
        raise BadInput("--out is empty; name a folder for the results, such as --out results")
    path = Path(name)
    try:
        is_root, is_other = path.resolve().parent == path.resolve(), path.exists() and not path.is_dir()
    except (OSError, ValueError) as error:
        raise BadInput(f"--out {name!r} cannot be a folder: {error}") from error
    if is_root:
        raise BadInput(f"--out {name!r} is the root of a disk; name a folder for the results in it")
    if is_other:
        raise BadInput(f"the folder {path} cannot be made: there is a file of that name")
    return path


def out_folder(name: str) -> Path:
    """Make the folder for results, before any work; raises BadInput when that is not possible."""
    folder = out_path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = in_words(error) or error.strerror or error
        raise BadInput(f"the folder {folder} cannot take results: {reason}") from error
    remove_stale_temporaries(folder)
    return folder


def report(options: Namespace, result: dict[str, Any]) -> None:
    """Print a result: as JSON, or where its files are and how long it took."""
    if options.json:
        say_json(result)
        return
    for name, path in result["files"].items():
        say(f"{name:<12} {path}")
    if "seconds" in result:
        say(f"{'time':<12} {duration(result['seconds'])}")
