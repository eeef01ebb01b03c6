"""Make the part of the recordings of StyleCLIP's optimisation and mapper that the repository carries.

    python tests/golden_styleclip_subset.py ../shared/golden_editing tests/golden_editing

Everything is copied; no number is computed anew. Left out are pictures, gradients of later steps, and cases
of a kind that another one shows. ONESHOT_GOLDEN_EDITING names the whole set for `make test-golden`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

STEPS = 2  # whose gradients stay; losses and rates of all steps do
CASES = ("levels10_nocoarse", "stylespace")  # of the mapper
WANTED = {
    "clip_opt_pre": r"in\.x64|out\.xgrad64\.f64|out\.y64\..*|out\.y\d+\.f64\[:, [12],.*",
    "latent_mapper": rf"({'|'.join(CASES)})\..*",
    "latent_mapper_loss": r"in\..*|out\.arcface\..*|out\.default\.grad\.w_hat\.f64",
}


def wanted(name: str, told: dict[str, Any]) -> str:
    """Pattern of the tensors that stay."""
    if name in WANTED:
        return WANTED[name]
    first, last = "|".join(map(str, range(STEPS))), told["config"]["steps"] - 1
    return rf"in\.w0|out\.step({first})\.grad.*|out\.step{last}\.latent.*"


def copied(source: Path, out: Path, name: str) -> None:
    """Copy one fixture, cut."""
    told = json.loads((source / f"{name}.json").read_text(encoding="utf-8"))
    tensors = load_file(source / f"{name}.safetensors")
    pattern = wanted(name, told)
    save_file(
        {key: value for key, value in tensors.items() if re.fullmatch(pattern, key)},
        out / f"{name}.safetensors",
    )
    if name == "latent_mapper":
        told["cases"] = {key: case for key, case in told["cases"].items() if key in CASES}
    told.pop("arcface_shapes", None)
    (out / f"{name}.json").write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")


def main() -> None:
    """Copy all."""
    source, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    traces = sorted(path.stem for path in source.glob("clip_opt_*.json") if path.stem not in WANTED)
    for name in (*WANTED, *traces):
        copied(source, out, name)
    for path in source.glob("ranger.*"):
        shutil.copyfile(path, out / path.name)


if __name__ == "__main__":
    main()
