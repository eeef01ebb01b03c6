"""Give every input of every node odd values, in ComfyUI's loader, and print as JSON what came of it.

Run by ComfyUI's interpreter in its folder:

python refuse_values.py PACK
"""

from __future__ import annotations

import contextlib
import io as text_io
import json
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dump_schemas import PACK, base, nodes, own

import torch  # isort: skip - ComfyUI's environment, set up by dump_schemas

pack = sys.modules[nodes.NODE_CLASS_MAPPINGS["LoadStyleGAN"].__module__.rpartition(".nodes")[0]]
core = sys.modules[f"{pack.__name__}.oneshot_core"]
sys.path.insert(0, PACK)
(second := __import__("oneshot_core"))  # the engine's second copy


class Loose:
    """Has every attribute, each of them something odd."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Loose()


def older(name: str, module: str) -> Any:
    """An instance of a class of an older version of the engine: the same name, other fields."""
    return make_dataclass(name, ["values"], namespace={"__module__": module})(None)


SOUND: dict[str, Any] = {
    "ONESHOT_GENERATOR": core.demo_generator(),
    "ONESHOT_ENCODERS": core.EncoderChoice().open(allow_download=False),
    "ONESHOT_LATENT": core.Latent("w", torch.zeros(1, core.demo_generator().generator.config.w_dim)),
    "ONESHOT_LOOK": core.Look(
        tuple(torch.zeros(len(one.bias)) for one in core.demo_generator().generator.affine_layers()), "plain"
    ),
    "ONESHOT_METHOD": core.Recipe(),
    "ONESHOT_DIRECTION": core.Direction(
        "w",
        {0: torch.ones(core.demo_generator().generator.config.w_dim)},
        (core.demo_generator().generator.config.w_dim,) * core.demo_generator().num_layers,
    ),
    "ONESHOT_ALIGNMENT": core.Alignment((core.full_frame(8, 8),)),
    "IMAGE": torch.zeros(1, 8, 8, 3),
    "MASK": torch.ones(1, 8, 8),
}
ANYTHING = {
    "a float": 1.5, "a text": "text", "nothing": None, "a list": [1], "a dict": {"G": None}, "bytes": b"x",
    "another pack's dict": {"G_ema": torch.nn.Linear(1, 1), "z_dim": 512}, "a module": torch.nn.Linear(1, 1),
    "a loose object": Loose(), "a namespace": SimpleNamespace(generator=None, size=8, values=None),
    "a class": core.GeneratorBundle, "a tensor": torch.zeros(3), "NaN": float("nan"), "a huge number": 10**30,
    "an old generator": older("GeneratorBundle", "oneshot_core.checkpoints.bundle"),
    "an old latent": older("Latent", "oneshot_core.latents"),
    "an old look": older("Look", "oneshot_core.looks"),
    "an old alignment": older("Alignment", "oneshot_core.aligned_batches"),
    "an old direction": older("Direction", "oneshot_core.editing.direction"),
    "old encoders": older("EncodersOnDemand", "oneshot_core.features"),
}  # fmt: skip
PICTURES = {
    "NaN in it": torch.full((1, 8, 8, 3), float("nan")), "infinity in it": torch.full((1, 8, 8), torch.inf),
    "no picture": torch.zeros(0, 8, 8, 3), "no mask": torch.zeros(0, 8, 8), "bytes in it": torch.zeros(
        (1, 8, 8, 3), dtype=torch.uint8), "bytes in a mask": torch.zeros((1, 8, 8), dtype=torch.uint8),
    "five channels": torch.zeros(1, 8, 8, 5), "one axis": torch.zeros(8),
    "five axes": torch.zeros(1, 1, 8, 8, 3),
    "complex numbers": torch.zeros((1, 8, 8, 3), dtype=torch.complex64), "no height": torch.zeros(1, 0, 8, 3),
    "no memory": torch.zeros(1, 8, 8, 3, device="meta"), "sparse": torch.zeros(1, 8, 8).to_sparse(),
}  # fmt: skip
RIGHT = {  # what is right although it is in the tables above
    "STRING": {"a text"}, "FLOAT": {"a float"}, "ONESHOT_GENERATOR": set(), "ONESHOT_LATENT": set(),
    "ONESHOT_LOOK": set(), "ONESHOT_DIRECTION": set(), "ONESHOT_ALIGNMENT": set(), "ONESHOT_MAPPER": set(),
    "FACE_LANDMARKS": set(ANYTHING),
}  # fmt: skip


def default(one: Any) -> Any:
    """A value that an input takes."""
    kind = one.get_io_type()
    if kind in SOUND:
        return SOUND[kind]
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return {one.id: one.options[0].key, **{two.id: default(two) for two in one.options[0].inputs}}
    if kind == "COMBO":
        return one.default if one.default is not None else next(iter(one.options), "none")
    return getattr(one, "default", None)


def outcome(node: Any, values: dict[str, Any]) -> list[str]:
    """Kind and message of the error that a node ends in."""
    try:
        with contextlib.redirect_stdout(text_io.StringIO()), torch.inference_mode():
            node.execute(**values)
    except Exception as error:  # noqa: BLE001 - whatever comes out is reported
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return [type(error).__name__, "ValueError" if "ValueError" in kinds else "", str(error)]
    return ["", "", "accepted"]


def cases() -> dict[str, list[str]]:
    """Every input of every node with every odd value, and once without the value."""
    found = {}
    for name in own:
        node = nodes.NODE_CLASS_MAPPINGS[name]
        inputs = node.GET_SCHEMA().inputs
        for one in inputs:
            kind = one.get_io_type()
            odd = {**ANYTHING, **(PICTURES if kind in ("IMAGE", "MASK") else {})}
            for label, value in odd.items():
                fine = kind == "MASK" and label == "five channels"  # four axes: a stack of masks
                if label in RIGHT.get(kind, ()) or (value is None and one.optional) or fine:
                    continue
                values = {two.id: default(two) for two in inputs} | {one.id: value}
                found[f"{name}/{one.id}/{label}"] = outcome(node, values)
    return found


def copies() -> list[bool]:
    """Whether values of the engine's second copy pass, as both are the same engine."""
    values = sys.modules[f"{pack.__name__}.nodes.values"]
    made = (second.demo_generator(), second.Latent("w", torch.zeros(1, 4)), second.EncoderChoice().open(
        allow_download=False), second.Look((torch.zeros(2),), "plain"),
        second.Direction("w", {0: torch.ones(2)}, (2,)),
        second.Alignment((second.full_frame(8, 8),)))  # fmt: skip
    wanted = (core.GeneratorBundle, core.Latent, core.EncodersOnDemand, core.Look, core.Direction,
              core.Alignment)  # fmt: skip
    return [
        type(one) is not kind and values.is_kind(one, kind) for one, kind in zip(made, wanted, strict=True)
    ]


def stamps() -> dict[str, Any]:
    """Fingerprints of every node that reads a file; a file that is rewritten, touched, changed."""
    folders = {
        name: base / "models" / name
        for name in (
            "oneshot_stylegan",
            "oneshot_latents",
            "oneshot_encoders",
            "oneshot_looks",
            "oneshot_directions",
        )  # fmt: skip
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x.safetensors").write_bytes(b"first")
    chosen = {
        "LoadStyleGAN": {"generator_name": "x.safetensors"},
        "OneShotLoadLatent": {"latent_name": "x.safetensors"},
        "OneShotLoadLook": {"look_name": "x.safetensors"},
        "OneShotLoadDirection": {"direction_name": "x.safetensors"},
        "OneShotLoadEncoders": {"clip": "demo", "perceptual": "alex", "download": False,
                                "clip_file": "automatic", "perceptual_file": "x.safetensors"},
    }  # fmt: skip
    found: dict[str, Any] = {"base": str(base)}
    for content in (b"first", b"first", b"other"):
        for folder in folders.values():
            (folder / "x.safetensors").write_bytes(content)
        for name, values in chosen.items():
            made = nodes.NODE_CLASS_MAPPINGS[name].fingerprint_inputs(**values)
            found.setdefault(name, []).append(made)
    return found


if __name__ == "__main__":
    Path(base, "input").mkdir(exist_ok=True)
    sys.stdout.write("\n" + json.dumps({"cases": cases(), "copies": copies(), "stamps": stamps()}) + "\n")
