"""Make `tests/golden_methods`, the part of the recordings of other methods that the repository carries.

    python tests/golden_methods_subset.py ../shared/golden_methods tests/golden_methods

Everything is copied; no number is computed anew. Left out are cases of a kind that another one shows, and the
later iterations of runs. ONESHOT_GOLDEN_METHODS names the whole set for `make test-golden`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

KEPT = {  # description: list in it, keys of the cases that stay, tensors that go with them
    "nada_losses": (
        "cases",
        r"direction_ViTB32_noaa|direction_given|global|manifold|texture|patch_.*|combined",
    ),
    "mtg_losses": ("cases", r".*_ViTB32_noaa|ref_l2|ref_lpips"),
}
DISTANCES, ANCHORS, DOWN = ("b4", "b2"), ("b",), ("f2_40",)
TRACES = {"nada_trace_n1_modern": 2, "nada_trace_n2_modern": 5}


def copied(source: Path, out: Path, name: str, wanted: str) -> None:
    """Copy the tensors whose names match."""
    found = load_file(source / f"{name}.safetensors")
    some = {key: value for key, value in found.items() if re.match(wanted, key)}
    save_file(some, out / f"{name}.safetensors")


def written(out: Path, name: str, values: dict[str, Any]) -> None:
    """Write a description."""
    (out / f"{name}.json").write_text(json.dumps(values) + "\n", encoding="utf-8")


def losses(source: Path, out: Path) -> None:
    """Copy the cases of the losses."""
    for name, (entry, wanted) in KEPT.items():
        told = json.loads((source / f"{name}.json").read_text(encoding="utf-8"))
        told[entry] = [case for case in told[entry] if re.fullmatch(wanted, case["key"])]
        for table in ("clip_weight_checks", "clip_shapes"):
            told["meta"].pop(table, None)
        if name == "nada_losses":
            told.pop("preprocess"), told.pop("image_direction")
            told["trainable"] = {key: one for key, one in told["trainable"].items() if key.startswith("32/")}
        if name == "mtg_losses":
            told["downsample"] = [one for one in told["downsample"] if one["key"] in DOWN]
        written(out, name, told)
        copied(source, out, name, rf"in\.|out\.target|({wanted})\.out")
    copied(source, out, "mtg_downsample", rf".*({'|'.join(DOWN)})")
    copied(source, out, "nada_text_direction", r".*")
    told = json.loads((source / "cdc_losses.json").read_text(encoding="utf-8"))
    told["distance"] = [one for one in told["distance"] if one["key"] in DISTANCES]
    told["anchors"] = [one for one in told["anchors"] if one["key"] in ANCHORS]
    told["path"]["calls"] = told["path"]["calls"][:1]
    written(out, "cdc_losses", told)
    copied(source, out, "cdc_distance", rf"({'|'.join(DISTANCES)})\.")
    copied(source, out, "cdc_anchors", rf"({'|'.join(ANCHORS)})\.")
    copied(source, out, "cdc_path", r"0\.")


def traces(source: Path, out: Path) -> None:
    """Copy the first iterations of runs."""
    for name, iterations in TRACES.items():
        told = json.loads((source / f"{name}.json").read_text(encoding="utf-8"))
        told["iterations"] = told["iterations"][:iterations]
        written(out, name, told)
        stem = Path(told["meta"]["tensors"]).stem
        copied(source, out, stem, rf"(?!it\d)|it[0-{iterations - 1}]\.")
        for file in told["meta"]["config"].get("style") or []:
            shutil.copy(source / file, out / file)


if __name__ == "__main__":
    here, there = map(Path, sys.argv[1:3])
    losses(here, there)
    traces(here, there)
