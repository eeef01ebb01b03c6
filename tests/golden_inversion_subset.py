"""Make the part of the recordings of inversion programs that the repository carries.

    python tests/golden_inversion_subset.py ../shared/golden_editing tests/golden_editing

Everything is copied; no number is computed anew. Left out are gradients, intermediate values, the feature
maps of encoders, and codes between the first and the last step. ONESHOT_GOLDEN_EDITING names the whole set.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

# fixture: name of the copy, tensors that stay, entries that go
KEPT = {
    "projector_parts": ("projector_parts", r".*", ()),
    "projector_ada": (
        "projector_ada",
        r"state\..*|in\..*|out\.(projected_w|noise_final).*|out\.step{last}\.w",
        (),
    ),
    "projector_rosinality": (
        "projector_rosinality",
        r"in\.(?!latent0).*|out\.(latent_mean|noise_final|img_final).*|out\.step{last}\.latent",
        ("weight_checks",),
    ),
    "ii2s": ("ii2s", r"in\..*|out\.(v|bicubic|inverse|p_norm).*|out\.step{last}\.latent", ("weight_checks",)),
    "e4e_encoder": ("e4e_encoder", r"in\..*|out\.(codes|encoder_w).*", ("taps",)),
    "latent_mapper_loss": (
        "arcface",
        r"in\.x.*|out\.arcface.*",
        ("clip_config", "clip_weight_checks", "token_ids", "text", "config"),
    ),
}


def main(full: Path, out: Path) -> None:
    """Copy what stays."""
    for name, (copy, wanted, left_out) in KEPT.items():
        told = json.loads((full / f"{name}.json").read_text(encoding="utf-8"))
        for entry in left_out:
            told.pop(entry, None)
        told["subset"] = f"part of {name}, see tests/{Path(__file__).name}"
        last = len(told["steps"]) - 1 if isinstance(told.get("steps"), list) else 0
        tensors = load_file(full / f"{name}.safetensors")
        pattern = wanted.replace("{last}", str(last))
        some = {key: value for key, value in tensors.items() if re.fullmatch(pattern, key)}
        save_file(some, out / f"{copy}.safetensors")
        (out / f"{copy}.json").write_text(json.dumps(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
