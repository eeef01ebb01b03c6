"""Make the part of the recordings of style space and directions that tests/golden_editing holds.

    python tests/golden_directions_subset.py ../shared/golden_editing tests/golden_editing

No number is computed anew. A recording gets smaller by leaving tensors out, and channels behind the first.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

LIMIT = 2_000_000  # bytes of these fixtures
ROWS = 9  # channels of the finite differences: all of the first layer and some of the second
LEFT_OUT = {  # tensors that the fast tests do without
    "style_space": r".*\.f32|out\.img\.mod\d.*|out\.(grad\.)?style\.\d*[02468]\..*",
    "global_directions": r"out\.boundary\.cut\.beta0\.(0|15|2)\..*|out\.sprime\.cut\..*",
    "global_relevance_fd": r"state\.(?!mapping\.w_avg).*",
    "sefa_ganspace": r"out\.sefa\..*eigenvalues_sorted\.f32",
}
PER_CHANNEL = r"out\.(fs3|features|images)\..*"


def cut(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a fixture that are kept."""
    kept = {key: value for key, value in tensors.items() if not re.fullmatch(LEFT_OUT[name], key)}
    if name == "style_space":  # one picture of two, named as the other parts are
        pictures = [key for key in kept if key.startswith("out.img.")]
        kept |= {f"{key}[:1]": kept.pop(key)[:1].contiguous() for key in pictures}
    if name == "global_relevance_fd":
        kept = {
            key: value[:ROWS].contiguous() if re.fullmatch(PER_CHANNEL, key) else value
            for key, value in kept.items()
        }
    return kept


def main() -> None:
    """Cut every fixture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path, help="folder of all recordings")
    parser.add_argument("out", type=Path, help="folder of the tests")
    arguments = parser.parse_args()
    size = 0
    for name in LEFT_OUT:
        description = json.loads((arguments.full / f"{name}.json").read_text(encoding="utf-8"))
        description["subset"] = "a part of the recording, see golden_directions_subset.py"
        text, target = json.dumps(description, separators=(",", ":")) + "\n", arguments.out / name
        target.with_suffix(".json").write_text(text, encoding="utf-8")
        kept = cut(name, load_file(arguments.full / f"{name}.safetensors"))
        save_file(kept, target.with_suffix(".safetensors"))
        target.with_suffix(".safetensors").chmod(0o644)
        size += sum(target.with_suffix(end).stat().st_size for end in (".json", ".safetensors"))
    print(f"{size} bytes")  # noqa: T201
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT} bytes")


if __name__ == "__main__":
    main()
