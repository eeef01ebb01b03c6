"""Network pickles in NVIDIA's and TensorFlow's layouts, written by a few independent lines."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

SIZE, CHANNELS, Z, W, LABELS = 16, {4: 8, 8: 6, 16: 4}, 10, 12, 3
FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
Tree = dict[str, Any]


class EasyDict(dict):
    """Pickles under the name of dnnlib's class."""

    __module__ = "dnnlib.util"


class Network:
    """Pickles under the name of the TensorFlow repository's class."""

    __module__ = "dnnlib.tflib.network"


class Module:
    """Pickles as the repositories' modules do: as a call with its source text and its state."""

    def __init__(self, name: str) -> None:
        self.name, self.tensors, self.buffers, self.children = name, {}, {}, {}
        self.attributes: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "_parameters": {name: torch.nn.Parameter(value) for name, value in self.tensors.items()},
            "_buffers": self.buffers, "_modules": self.children, "training": False, **self.attributes,
        }  # fmt: skip
        source = "raise RuntimeError('executed')\n" * 200
        description = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": self.name,
            "state": state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (description,)

    def at(self, path: str) -> Module:
        module = self
        for name in path.split(".") if path else []:
            module = module.children.setdefault(name, Module("Layer"))
        return module


@pytest.fixture(autouse=True)
def names_of_the_repositories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `pickle.dump` find the classes under the names that real files use; reading needs none of this."""

    def _reconstruct_persistent_obj(description: Any) -> None:
        raise AssertionError("the reader must not call this")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    for package in ("torch_utils", "dnnlib", "dnnlib.tflib"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for value in (_reconstruct_persistent_obj, EasyDict, Network):
        module = ModuleType(value.__module__)
        setattr(module, value.__name__, value)
        monkeypatch.setitem(sys.modules, value.__module__, module)
    yield


class Draw:
    """Random tensors from one seed."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def fill(module: Module, tensors: dict[str, Tensor]) -> Module:
    for name, value in tensors.items():
        path, _, leaf = name.rpartition(".")
        target = module.at(path)
        is_buffer = leaf in ("noise_const", "resample_filter", "w_avg")
        (target.buffers if is_buffer else target.tensors)[leaf] = value
    return module


def nvidia_generator(conditional: bool = False, noise: bool = True) -> Module:
    draw, tensors = Draw(), {}
    label = W if conditional else 0
    if conditional:
        tensors |= {"mapping.embed.weight": draw(W, LABELS), "mapping.embed.bias": draw(W)}
    tensors |= {"mapping.fc0.weight": draw(14, Z + label), "mapping.fc0.bias": draw(14)}
    tensors |= {"mapping.fc1.weight": draw(W, 14), "mapping.fc1.bias": draw(W), "mapping.w_avg": draw(W)}
    tensors["synthesis.b4.const"] = draw(CHANNELS[4], 4, 4)
    for side, width in CHANNELS.items():
        block = f"synthesis.b{side}"
        inputs = CHANNELS.get(side // 2, width)
        layers = {"conv1": (width, width, 3), "torgb": (width, 3, 1)} | (
            {"conv0": (inputs, width, 3)} if side > 4 else {}
        )
        for name, (i, o, k) in layers.items():
            tensors |= {
                f"{block}.{name}.weight": draw(o, i, k, k), f"{block}.{name}.bias": draw(o),
                f"{block}.{name}.affine.weight": draw(i, W), f"{block}.{name}.affine.bias": draw(i),
            }  # fmt: skip
            if k == 3 and noise:
                tensors[f"{block}.{name}.noise_strength"] = torch.tensor(0.25)
                tensors[f"{block}.{name}.noise_const"] = draw(side, side)
        tensors[f"{block}.resample_filter"] = FILTER
    module = fill(Module("Generator"), tensors)
    for path in ("mapping.fc0", "mapping.fc1"):
        module.at(path).attributes = {"bias_gain": np.float64(0.02), "activation": "lrelu"}
    return module


def nvidia_discriminator() -> Module:
    draw, tensors = Draw(), {}
    for side in (16, 8):
        width, below = CHANNELS[side], CHANNELS[side // 2]
        tensors |= {
            f"b{side}.conv0.weight": draw(width, width, 3, 3), f"b{side}.conv0.bias": draw(width),
            f"b{side}.conv1.weight": draw(below, width, 3, 3), f"b{side}.conv1.bias": draw(below),
            f"b{side}.skip.weight": draw(below, width, 1, 1),
        }  # fmt: skip
    tensors |= {"b16.fromrgb.weight": draw(4, 3, 1, 1), "b16.fromrgb.bias": draw(4)}
    tensors |= {"b4.conv.weight": draw(8, 9, 3, 3), "b4.conv.bias": draw(8)}
    tensors |= {
        "b4.fc.weight": draw(8, 128),
        "b4.fc.bias": draw(8),
        "b4.out.weight": draw(1, 8),
        "b4.out.bias": draw(1),
    }
    module = fill(Module("Discriminator"), tensors)
    module.at("b4.mbstd").attributes = {"group_size": 8, "num_channels": 1}
    return module


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def tf_network(name: str, variables: dict[str, Any], components: Any = None, **settings: Any) -> Network:
    network = Network()
    network.version, network.name, network.static_kwargs = 4, name, settings
    network.components, network.build_module_src = components or {}, "raise RuntimeError('executed')"
    network.variables = list(variables.items())
    return network


def tf_generator(**settings: Any) -> Network:
    draw, variables = Draw(), {}

    def conv(name: str, i: int, o: int, k: int) -> None:
        variables[f"{name}/weight"], variables[f"{name}/bias"] = draw(k, k, i, o).numpy(), draw(o).numpy()
        variables[f"{name}/mod_weight"], variables[f"{name}/mod_bias"] = draw(W, i).numpy(), draw(i).numpy()
        if k == 3:
            variables[f"{name}/noise_strength"] = np.float32(0.5)

    variables["4x4/Const/const"] = draw(1, 8, 4, 4).numpy()
    conv("4x4/Conv", 8, 8, 3)
    conv("4x4/ToRGB", 8, 3, 1)
    for side in (8, 16):
        conv(f"{side}x{side}/Conv0_up", CHANNELS[side // 2], CHANNELS[side], 3)
        conv(f"{side}x{side}/Conv1", CHANNELS[side], CHANNELS[side], 3)
        conv(f"{side}x{side}/ToRGB", CHANNELS[side], 3, 1)
    for index, side in enumerate((4, 8, 8, 16, 16)):
        variables[f"noise{index}"] = draw(1, 1, side, side).numpy()
    mapping = {"Dense0/weight": draw(Z, W).numpy(), "Dense0/bias": draw(W).numpy()}
    parts = {"synthesis": tf_network("G_synthesis", variables), "mapping": tf_network("G_mapping", mapping)}
    outer = {"lod": np.float32(0), "dlatent_avg": draw(W).numpy()}
    return tf_network("G", outer, parts, resolution=SIZE, num_channels=3, **settings)


def tf_discriminator(**settings: Any) -> Network:
    draw, variables = Draw(), {"lod": np.float32(0)}
    shapes = {
        "16x16/FromRGB": (1, 1, 3, 4),
        "4x4/Conv": (3, 3, 9, 8),
        "4x4/Dense0": (128, 8),
        "Output": (8, 1),
    }
    for side in (16, 8):
        width, below = CHANNELS[side], CHANNELS[side // 2]
        shapes |= {
            f"{side}x{side}/Conv0": (3, 3, width, width),
            f"{side}x{side}/Conv1_down": (3, 3, width, below),
        }
        variables[f"{side}x{side}/Skip/weight"] = draw(1, 1, width, below).numpy()
    for name, shape in shapes.items():
        variables[f"{name}/weight"], variables[f"{name}/bias"] = draw(*shape).numpy(), draw(shape[-1]).numpy()
    return tf_network("D", variables, resolution=SIZE, **settings)


def foreign_class(monkeypatch: pytest.MonkeyPatch, dotted: str, *bases: type, **more: Any) -> type:
    """A class that pickles under a foreign name with its attributes, as undecorated modules do."""
    module, _, name = dotted.rpartition(".")
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        if ".".join(parts[:end]) not in sys.modules:
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    made = type(name, bases, {"__module__": module, "__qualname__": name, **more})
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


def foreign_module(kind: type, children: Tree | None = None, **tensors: Tensor) -> Any:
    """An object of that class with the attributes of a torch module."""
    made = kind()
    parameters = {name: torch.nn.Parameter(value) for name, value in tensors.items()}
    made.__dict__.update(
        training=False,
        _parameters=parameters,
        _buffers={},
        _modules=children or {},
        _non_persistent_buffers_set=set(),
    )
    return made
