"""Make `tests/golden`, the part of the recordings that the core suite reads: every kind, in at most 12 MB.

    python tests/golden_subset.py ../shared/golden tests/golden

Everything is copied; no number is computed anew. A fixture gets smaller by leaving things out: tensors that
no test reads, the later entries of batches of pictures, all but one corner of large gradients, the later
iterations of a training run. Files that pack well are stored as NAME.xz; `golden_support.golden_dir` unpacks
them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

LIMIT = 12_000_000  # bytes
WORTH_PACKING = 30_000  # bytes saved
HOSTILE_LEFT_OUT = ("truncated_network_50.pkl", "truncated_network_98.pkl")  # _10 is there
NETWORK_PICKLES = (  # (name, whether it is supported: only then are its outputs compared)
    ("nv_ada_uncond_r32", True),
    ("nv_ada_cond_r32_proto3", True),
    ("nv_sg3repo_sg2_cond_r32_proto3", True),
    ("nv_ada_arch_resnet_r16", False),
    ("nv_ada_arch_orig_r16", False),
    ("nv_sg3_r_r32", False),
)
LOSSES = ("B2_n16_d64_all0_tau0.07_norm1", "B2_n3_d8_all0_tau0.5_norm0", "B4_n3_d8_all1_tau0.5_norm0")
TRACES = (  # (name, name here, iterations)
    ("trace_t1_f64_legacy", "trace_t1_small_f64_legacy", 3),
    ("trace_t1_f32_legacy", "trace_t1_small_f32_legacy", 3),
    ("trace_t2_f64_modern", "trace_t2_small_f64_modern", 4),  # R1 on patches in the last
)
CORNER = "[:, :, :16, :16]"  # of a gradient of pictures
UNREAD = {  # tensors that no test reads
    "nv_": r"out\.img_wplus_unfused",
    "rosinality_g_": r"out\.img\.(?!z_buffers|mix_trunc)\w+\.f32",
    "oneshotclip_patchd_": r"out\.((gns_input_grad|r1grad)\.(global|patch2)|patch0_flag3)\..*"
    r"|out\.gns_input_grad\..*f32",
    "trace_": r".*\.(logits|grad|w_before)",
}


def kept(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a fixture that the tests read."""
    for start, pattern in UNREAD.items():
        if name.startswith(start):
            tensors = {key: value for key, value in tensors.items() if not re.fullmatch(pattern, key)}
    return tensors


def first_entries(tensors: dict[str, Tensor], pattern: str, count: int) -> dict[str, Tensor]:
    """Cut batches to their first entries."""
    return {key: value[:count] if re.fullmatch(pattern, key) else value for key, value in tensors.items()}


def corners(tensors: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    """Keep one corner of gradients of pictures, under the name that the README's convention gives it."""
    cut = {key: value for key, value in tensors.items() if not re.fullmatch(pattern, key)}
    return cut | {f"{key}{CORNER}": value[:, :, :16, :16] for key, value in tensors.items() if key not in cut}


def narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Store float32 results that the recording holds as float64 in float32, where nothing is lost."""
    found = {}
    for key, value in tensors.items():
        single = value.float() if value.dtype is torch.float64 and re.search(r"\.f32\b", key) else value
        found[key] = single if torch.equal(single.to(value.dtype), value) else value
    return found


def write(out: Path, name: str, description: Any, tensors: dict[str, Tensor] | None) -> None:
    (out / f"{name}.json").write_text(json.dumps(description, separators=(",", ":")) + "\n")
    if tensors is not None:
        packed = {key: value.contiguous() for key, value in narrowed(tensors).items()}
        save_file(packed, out / f"{name}.safetensors")


def store(source: Path, target: Path) -> None:
    """Copy a file, packed where that saves much."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    if len(content) - len(packed) >= WORTH_PACKING:
        target.with_name(f"{target.name}.xz").write_bytes(packed)
    else:
        shutil.copyfile(source, target)


def read(full: Path, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Return description and tensors of a fixture."""
    return json.loads((full / f"{name}.json").read_text()), load_file(full / f"{name}.safetensors")


def copy_pickles(full: Path, out: Path) -> None:
    for name, supported in NETWORK_PICKLES:
        description, tensors = read(full, name)
        store(full / f"{name}.pkl", out / f"{name}.pkl")
        if not supported:
            for label in ("G", "D", "G_ema"):
                description["contents"][label].pop("checks")
            write(out, name, description, None)
            continue
        pictures = r"in\.wplus|in\.R|out\.img.*|out\.grad_wplus"
        write(out, name, description, first_entries(kept(name, tensors), pictures, 2))


def copy_tensorflow(full: Path, out: Path) -> None:
    description, tensors = read(full, "tf_legacy_r32")
    write(out, "tf_legacy_r32", description, first_entries(tensors, r"out\.img.*", 2))
    for name in (
        "tf_legacy_r32.pkl",
        "tf_legacy_r32_as_rosinality.pt",
        "tf_legacy_r32_as_rosinality.safetensors",
    ):
        store(full / name, out / name)


def copy_networks(full: Path, out: Path) -> None:
    for name in ("rosinality_g_s32", "rosinality_d_s32"):
        description, tensors = read(full, name)
        write(out, name, description, kept(name, tensors))
    name = "oneshotclip_patchd_s64"
    description, tensors = read(full, name)
    for key in [key for key in description if re.fullmatch(r"r1(gradcheck)?\.(global|patch2)\..*", key)]:
        description.pop(key)  # the same code as r1.patch0; seconds each
    write(out, f"{name}_small", description, corners(kept(name, tensors), r"out\.gns_input_grad\..*"))
    name = "oneshotclip_patchd_s32_fallthrough.safetensors"
    shutil.copyfile(full / name, out / name)


def copy_losses(full: Path, out: Path) -> None:
    entries, tensors = read(full, "oneshotclip_losses")
    some = {key: value for key, value in tensors.items() if key.startswith(LOSSES)}
    write(out, "oneshotclip_losses_small", [e for e in entries if e["key"] in LOSSES], some)
    description, tensors = read(full, "lpips_random")
    write(out, "lpips_random", description, corners(tensors, r"out\..*_grad\..*"))


def copy_traces(full: Path, out: Path) -> None:
    for name, small, iterations in TRACES:
        description, tensors = read(full, name)
        whole = len(description["iterations"])
        description["meta"]["subset"] = (
            f"the first {iterations} of {whole} iterations; without logits, and gradients of step 1"
        )
        description["iterations"] = description["iterations"][:iterations]
        for entry in description["iterations"]:
            for part in entry.values():
                if isinstance(part, dict):
                    part.pop("logits", None)
        for entry in description["step1"]:
            entry.pop("grad"), entry.pop("w_before")
        late = tuple(f"it{index}." for index in range(iterations, whole))
        some = {key: value for key, value in kept(name, tensors).items() if not key.startswith(late)}
        write(out, small, description, None if "_f32_" in name else some)


def copy_folders(full: Path, out: Path) -> None:
    for source in sorted((full / "hostile").iterdir()):
        if source.name not in HOSTILE_LEFT_OUT:
            store(source, out / "hostile" / source.name)
    for source in sorted((full / "skeleton").iterdir()):
        if source.name != "e4e_encoder_shapes.json":
            store(source, out / "skeleton" / source.name)


def files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path, help="folder of all recordings")
    parser.add_argument("out", type=Path, help="folder to make; must not exist")
    arguments = parser.parse_args()
    full, out = arguments.full, arguments.out
    out.mkdir(parents=True)
    shutil.copyfile(full / "weights_formula.json", out / "weights_formula.json")
    for copy in (copy_pickles, copy_tensorflow, copy_networks, copy_losses, copy_traces, copy_folders):
        copy(full, out)
    size = sum(path.stat().st_size for path in files(out))
    print(f"{size} bytes in {len(list(files(out)))} files")  # noqa: T201
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT} bytes")


if __name__ == "__main__":
    main()
