"""What the verbs work with: device, threads, generators, encoders, folders, by the names users type."""

from __future__ import annotations

import copy
import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import GeneratorBundle, load
from ..console import BadInput, duration, say, say_json
from ..demo.world import ASSETS, demo_encoders, demo_generator
from ..features import ClipEncoder, Encoders, load_clip, load_perceptual

DEMO = "demo"
CLIP_MODEL, PERCEPTUAL_NET = "ViT-B-32-quickgelu", "alex"
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
    return torch.device(name)


def checkpoint_path(name: str) -> Path:
    """Return the file that a generator's name means: the demo's for "demo", else the path itself."""
    return ASSETS / "generator.safetensors" if name == DEMO else Path(name)


def open_generator(name: str, device: torch.device) -> GeneratorBundle:
    """Load a checkpoint, or the demo's generator for the name "demo", onto a device."""
    bundle = demo_generator() if name == DEMO else load(name)
    return bundle if device.type == "cpu" else bundle.to(device)


def placed(module: Any, device: torch.device) -> Any:
    """Copy a module (or None) to a device; what is given stays where it is."""
    return None if module is None else copy.deepcopy(module).to(device)


def open_encoders(options: Namespace, bundle: GeneratorBundle, device: torch.device) -> Encoders:
    """Load CLIP and the perceptual net that the options name, by default those that suit the generator.

    Args:
        options: with `clip`, `lpips` (None for the default) and `offline`.
        bundle: the generator they are for; the demo's and what was adapted from it get the demo's encoders.
        device: where they go.

    Raises:
        EncoderError: weights are missing or do not fit; the message says where to get them.
    """
    demo = (options.clip is None or options.lpips is None) and _is_demo(bundle)
    clip = _open_clip(options.clip or (DEMO if demo else CLIP_MODEL), not options.offline)
    net = options.lpips or (DEMO if demo else PERCEPTUAL_NET)
    perceptual = load_perceptual(net, allow_download=not options.offline)
    return Encoders(placed(clip, device), placed(perceptual, device))


def _is_demo(bundle: GeneratorBundle) -> bool:
    """Tell whether a generator is the demo's or was adapted from it."""
    return checkpoint_path(DEMO).is_file() and bundle.family == demo_generator().family


def _open_clip(name: str, allow_download: bool) -> ClipEncoder:
    if name == DEMO:
        return demo_encoders().clip
    model, equals, file = name.partition("=")
    if equals:
        return load_clip(model, weights=file, allow_download=allow_download)
    if Path(name).is_file():
        return load_clip(CLIP_MODEL, weights=name, allow_download=allow_download)
    return load_clip(name, allow_download=allow_download)


def out_folder(name: str) -> Path:
    """Make the folder for results, before any work; raises BadInput when that is not possible."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"the folder {folder} cannot be made: {error.strerror or error}") from error
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
