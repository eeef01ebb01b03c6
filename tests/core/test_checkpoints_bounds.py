"""Small files that ask for much are refused in no time and without the memory that they ask for."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_pickles import (
    Module,
    Tree,
    W,
    foreign_class,
    foreign_module,
    names_of_the_repositories,
    nvidia_discriminator,
    nvidia_generator,
    tf_generator,
    write,
)
from tiny_networks import tiny_bundle

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, Provenance, rosinality
from oneshot_core.checkpoints.stored import ByteRange, Storage, StoredTensor
from oneshot_core.networks import DiscriminatorConfig, GeneratorConfig

__all__ = ["names_of_the_repositories"]  # a fixture that every test here uses
MAX_CPU_SECONDS, MAX_BYTES = 3.0, 100 * 1024**2  # of a run beside others; alone they take a tenth


@contextmanager
def cheap() -> Iterator[None]:
    """Fail when the block takes much processor time or memory."""
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    before, began = peak(), time.process_time()
    yield
    seconds, grown = time.process_time() - began, peak() - before
    assert seconds < MAX_CPU_SECONDS and grown < MAX_BYTES, f"{seconds:.1f} s, {grown / 1e6:.0f} MB"


def refused(path: Path, message: str) -> None:
    for read in (checkpoints.inspect, checkpoints.load):
        with cheap(), pytest.raises(CheckpointError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def doubling(depth: int = 60) -> Any:
    """A value that is equal to another one made so, which nobody lives to see."""
    value: Any = []
    for _ in range(depth):
        value = (value, value)
    return value


def nested(depth: int = 2_500) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.fixture(autouse=True)
def deep_values_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `pickle.dump` write what is nested deeper than Python compares; reading must not need this."""
    limit, written = sys.getrecursionlimit(), pickle.dumps

    def dumps(value: Any, protocol: int) -> bytes:
        sys.setrecursionlimit(50_000)
        try:
            return written(value, protocol)
        finally:
            sys.setrecursionlimit(limit)

    monkeypatch.setattr(pickle, "dumps", dumps)


VALUES = [doubling, nested, endless, lambda: {"a": doubling()}, lambda: np.zeros(3, np.float32)]


LAYERS = ("", "mapping.fc0", "mapping.fc1", "synthesis.b8.conv0", "synthesis.b8.conv1")
JUDGES = ("", "b8.conv0", "b8.conv1", "b4.mbstd", "b4.fc")


def with_values(network: Module, name: str, value: Callable[[], Any]) -> Module:
    """Set an attribute of some layers, each to a value of its own."""
    for path in LAYERS if "synthesis" in network.children else JUDGES:
        layer = network.at(path)
        layer.attributes = {**layer.attributes, name: value()}
    return network


class TestValuesOfSettings:
    """Nested values are described, never compared, hashed or printed."""

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("name", ["conv_clamp", "bias_gain", "activation"])
    def test_nvidia(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        network = with_values(nvidia_generator(), name, value)
        refused(write(tmp_path / "n.pkl", {"G_ema": network}), f"{name} of a layer is a")

    @pytest.mark.parametrize("value", VALUES[:3])
    @pytest.mark.parametrize("name", ["c_dim", "_init_kwargs", "other"])
    def test_what_is_not_used_does_no_harm(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        network = with_values(nvidia_generator(), name, value)
        path = write(tmp_path / "n.pkl", {"G_ema": network, "progress": value()})
        with cheap():
            checkpoints.load(path)

    @pytest.mark.parametrize("value", VALUES[:3])
    @pytest.mark.parametrize("name", ["_modules", "_parameters", "_buffers"])
    def test_parts(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        network = nvidia_generator()
        network.attributes = {name: value()}
        refused(write(tmp_path / "n.pkl", {"G_ema": network}), "of a layer is|not a network module|holds no")

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("name", ["conv_clamp", "group_size", "activation"])
    def test_discriminator_is_left_out(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        judge = with_values(nvidia_discriminator(), name, value)
        path = write(tmp_path / "n.pkl", {"G_ema": nvidia_generator(), "D": judge})
        with cheap():
            assert checkpoints.load(path).discriminator is None

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize(
        "name", ["architecture", "use_noise", "resample_kernel", "mapping_lrmul", "conv_clamp", "min_h"]
    )
    def test_tensorflow(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        refused(write(tmp_path / "t.pkl", tf_generator(**{name: value()})), "^.*Gs? has|is a|expected")

    @pytest.mark.parametrize("value", VALUES[:3])
    @pytest.mark.parametrize("name", ["wings", "init_res", "latent_size", "resolution"])
    def test_tensorflow_unused(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        network = tf_generator()
        network.static_kwargs[name] = value()
        path = write(tmp_path / "t.pkl", network)
        with cheap():
            try:
                checkpoints.load(path)
            except CheckpointError as error:
                assert name == "init_res", error

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("name", ["version", "name", "components", "variables", "static_kwargs"])
    def test_tensorflow_records(self, tmp_path: Path, name: str, value: Callable[[], Any]) -> None:
        network = tf_generator()
        setattr(network, name, value())
        path = write(tmp_path / "t.pkl", network)
        with cheap():
            try:
                checkpoints.load(path)
            except CheckpointError:
                return
        assert name in ("name", "static_kwargs")

    @pytest.mark.parametrize("value", VALUES)
    def test_roots(self, tmp_path: Path, value: Callable[[], Any]) -> None:
        for root in (value(), {"G_ema": value()}, {"g_ema": value()}, {"g_ema": {"a": value()}}, [value()]):
            refused(write(tmp_path / "n.pkl", root), ".")
            if value is not nested:  # which torch cannot write
                torch.save(root, tmp_path / "n.pt")
                refused(tmp_path / "n.pt", ".")

    @pytest.mark.parametrize("key", [(1, 2), ("a", ("b",)), 1.5, frozenset([1])])
    def test_keys(self, tmp_path: Path, key: Any) -> None:
        refused(write(tmp_path / "n.pkl", {"G_ema": nvidia_generator(), "more": {key: 1}}, 4), ".")

    @pytest.mark.parametrize("add", [b"}%sK\x01s.", b"}(%sK\x01u.", b"\x8f(%s\x90."])
    def test_keys_that_take_for_ever_to_hash(self, tmp_path: Path, add: bytes) -> None:
        (tmp_path / "n.pkl").write_bytes(b"\x80\x04" + add % (b")" + b"q\x01h\x01\x86" * 60))
        refused(tmp_path / "n.pkl", "as a key")


class TestCounts:
    def test_one_layer_under_many_names(self, tmp_path: Path) -> None:
        """Two thousand names for a layer of thousands of parameters: millions of tensors in a small file."""
        layer = Module("Layer")
        one = torch.ones(1)
        layer.attributes = {"_parameters": {f"p{index}": one for index in range(5_000)}}
        network = nvidia_generator()
        network.children |= {f"layer{index}": layer for index in range(1_900)}
        refused(write(tmp_path / "n.pkl", {"G_ema": network}), "more than 10000 tensors")
        layer.attributes = {"_parameters": {f"p{index}": None for index in range(5_000)}}
        refused(write(tmp_path / "n.pkl", {"G_ema": network}), "more than 10000 tensors")

    def test_layers_within_layers(self, tmp_path: Path) -> None:
        network = nvidia_generator()
        for _ in range(12):
            above = Module("Layer")
            above.children = {f"part{index}": network for index in range(40)}
            network = above
        for root in ({"G_ema": network}, network, {"G_ema": nvidia_generator(), "D": network}):
            path = write(tmp_path / "n.pkl", root)
            if isinstance(root, dict) and "D" in root:
                with cheap():
                    assert checkpoints.load(path).discriminator is None
            else:
                refused(path, "more than 2000 layers")

    def test_foreign_layers_within_layers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = foreign_class(monkeypatch, "my.layers.Block")
        network: Any = foreign_module(kind)
        for _ in range(30):
            network = foreign_module(kind, {f"part{index}": network for index in range(40)})
        refused(write(tmp_path / "n.pkl", {"G_ema": network}), "more than 2000 layers")
        path = write(tmp_path / "d.pkl", {"G_ema": nvidia_generator(), "D": network})
        with cheap():
            assert checkpoints.load(path).discriminator is None

    def test_variables(self, tmp_path: Path) -> None:
        network = tf_generator()
        network.variables = [("lod", np.float32(0))] * 30_000
        refused(write(tmp_path / "t.pkl", network), "variables of the network are a list of 30000")

    def test_settings(self, tmp_path: Path) -> None:
        network = tf_generator(**{f"setting{index}": index for index in range(500)})
        refused(write(tmp_path / "t.pkl", network), "settings .* are a dict of 50")

    def test_memo(self, tmp_path: Path) -> None:
        """The longest stream that is read at all."""
        (tmp_path / "n.pkl").write_bytes(b"\x80\x04(" + b"N\x94" * 199_000 + b"t.")
        refused(tmp_path / "n.pkl", "no networks")
        (tmp_path / "n.pkl").write_bytes(b"\x80\x04(" + b"N\x94" * 300_000 + b"t.")
        refused(tmp_path / "n.pkl", "more than 400000 instructions")


def declared(*shape: int) -> torch.Tensor:
    """A tensor of that shape which is one stored number."""
    return torch.zeros((1,) * len(shape)).expand(shape)


HUGE = 1_500_000


class TestDeclaredShapes:
    """Shapes with stride 0: a few bytes that stand for as many numbers as the file likes."""

    NVIDIA = {
        "mapping.fc0.weight": (14, HUGE), "mapping.fc1.weight": (HUGE, 14),
        "synthesis.b4.const": (HUGE, 4, 4), "synthesis.b8.conv1.weight": (HUGE, 6, 3, 3),
        "synthesis.b4.torgb.weight": (HUGE, 8, 1, 1), "synthesis.b4.resample_filter": (20_000, 20_000),
        "synthesis.b16.conv1.noise_const": (20_000, 20_000), "mapping.w_avg": (10**8,),
        "mapping.embed.weight": (W, HUGE),
    }  # fmt: skip

    @pytest.mark.parametrize("name", NVIDIA)
    @pytest.mark.parametrize("zipped", [True, False])
    def test_nvidia(self, tmp_path: Path, name: str, zipped: bool) -> None:
        path, _, leaf = name.rpartition(".")
        network = nvidia_generator(conditional="embed" in name)
        layer = network.at(path)
        (layer.buffers if leaf in layer.buffers else layer.tensors)[leaf] = declared(*self.NVIDIA[name])
        torch.save({"G_ema": network}, tmp_path / "n.pt", _use_new_zipfile_serialization=zipped)
        refused(tmp_path / "n.pt", ".")

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("style.1.weight", (12, HUGE)),
            ("style.2.weight", (HUGE, 12)),
            ("input.input", (1, HUGE, 4, 4)),
            ("convs.0.conv.weight", (1, HUGE, 8, 3, 3)),
            ("to_rgb1.bias", (1, HUGE, 1, 1)),
            ("convs.0.conv.blur.kernel", (20_000, 20_000)),
            ("noises.noise_4", (1, 1, 20_000, 20_000)),
        ],
    )
    def test_rosinality(self, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
        state = rosinality.generator_state(tiny_bundle().generator)
        torch.save({"g_ema": {**state, name: declared(*shape)}}, tmp_path / "n.pt")
        refused(tmp_path / "n.pt", ".")

    def test_mean_latent(self, tmp_path: Path) -> None:
        state = rosinality.generator_state(tiny_bundle().generator)
        torch.save({"g_ema": state, "latent_avg": declared(10**7, 12)}, tmp_path / "n.pt")
        refused(tmp_path / "n.pt", "latent_avg has shape|mean latent")

    def test_strides_and_sizes_beyond_torch(self, tmp_path: Path) -> None:
        """Steps that are never taken may be any number; sizes beside a 0 may not."""
        storage = Storage(torch.float32, 1, ByteRange.of_bytes(bytes(4)))
        assert StoredTensor(storage, 0, (1, 1), (2**100, 2**62)).read().shape == (1, 1)
        assert StoredTensor(storage, 0, (0, 3), (2**100, 2**62)).read().shape == (0, 3)
        for shape in ((0, 2**100), (2**40, 0), (0, 2**31)):
            with pytest.raises(CheckpointError, match="at most 2 GiB"):
                StoredTensor(storage, 0, shape, (1, 1))


class TestSettingsOfTheNetworks:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mapping_layers": 3_000_000}, "mapping_layers must be from 1 to 64"),
            ({"mapping_layers": 2.0}, "mapping_layers must be a whole number"),
            ({"mapping_layers": True}, "mapping_layers must be a whole number"),
            ({"z_dim": 10**9}, "z_dim must be from 1 to 4096"),
            ({"w_dim": 0}, "w_dim must be from 1 to 4096"),
            ({"c_dim": 10**9}, "c_dim must be from 0 to 32768"),
            ({"mapping_width": -1}, "mapping_width must be from 1"),
            ({"mapping_lr_multiplier": "a"}, "mapping_lr_multiplier must be a number"),
            ({"mapping_lr_multiplier": None}, "mapping_lr_multiplier must be a number"),
            ({"mapping_lr_multiplier": 0}, "mapping_lr_multiplier must be from"),
            ({"conv_clamp": [1]}, "conv_clamp must be a number"),
            ({"conv_clamp": "a"}, "conv_clamp must be a number"),
            ({"conv_clamp": -1}, "conv_clamp must be from"),
            ({"channels": [8] * 50_000}, "channels must be a list of at most 9 entries"),
            ({"channels": [8, 8, "8"]}, "channels must hold one width from 1 to 4096"),
            ({"channels": [8, 8, 10**9]}, "channels must hold one width from 1 to 4096"),
            ({"channels": "888"}, "channels must be a list"),
            ({"size": 2**200}, "size must be a power of two from 16 to 1024"),
            ({"size": "16"}, "size must be a whole number"),
            ({"image_channels": 12}, "these would have 12"),
            ({"label_width": 10**9}, "label_width must be from 1 to 4096"),
            ({"\x1b[31m": 1}, "unknown entry"),
        ],
    )
    def test_generator(self, change: Tree, message: str) -> None:
        values = {**GeneratorConfig(16, (8, 8, 8)).to_dict(), **change}
        with cheap(), pytest.raises(ValueError, match=message) as caught:
            GeneratorConfig.from_dict(values)
        assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 400

    @pytest.mark.parametrize("value", [3_000_000, -1, "a", [1], 1e308])
    @pytest.mark.parametrize("name", ["c_dim", "cmap_dim", "mapping_layers", "mbstd_group", "mbstd_features"])
    def test_discriminator(self, name: str, value: Any) -> None:
        values = {**DiscriminatorConfig(16, (8, 8, 8)).to_dict(), name: value}
        with cheap(), pytest.raises(ValueError, match=name):
            DiscriminatorConfig.from_dict(values)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"notes": ["\x1b[31mred\x1b]0;title\x07"]}, "without control characters"),
            ({"notes": ["\u202egnp.exe"]}, "without control characters"),
            ({"notes": ["x" * 20_000]}, "at most 10000 characters"),
            ({"notes": ["x"] * 2_000}, "notes must be a list of at most 1000"),
            ({"notes": "text"}, "notes must be a list"),
            ({"notes": [1]}, "notes must be a list of texts"),
            ({"history": {"parent": "x"}}, "parent must be an object"),
            ({"history": {"parent": None}}, "parent must be an object"),
            ({"history": {"parent": {"file_name": 3}}}, "file_name must be a text"),
            ({"history": []}, "history must be an object"),
            ({"inferred": None}, "inferred must be an object"),
            ({"sha256": 1}, "sha256 must be a text"),
            ({"format": "a\nb"}, "format must be at most"),
            ({"file_name": None}, "file_name must be a text"),
            ({"more": 1}, "unknown entry 'more'"),
        ],
    )
    def test_provenance(self, change: Tree, message: str) -> None:
        values = {**Provenance("a", "b.pt").to_dict(), **change}
        with pytest.raises(ValueError, match=message):
            Provenance.from_dict(values)

    def test_control_characters_of_a_parent_are_not_shown(self) -> None:
        parent = {"file_name": "\x1b[31m.pt"}
        bundle = replace(tiny_bundle(), provenance=Provenance("a", "b.pt", history={"parent": parent}))
        assert "\x1b" not in bundle.summary()

    def test_headers(self, tmp_path: Path) -> None:
        path = checkpoints.save(tiny_bundle(), tmp_path / "a.safetensors")
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        inner = json.loads(header["__metadata__"]["oneshot"])
        del header["__metadata__"]["oneshot_crc32"]  # or it would be called damaged before it is read
        for part, change in (
            ("generator", {"mapping_layers": 3_000_000}),
            ("discriminator", {"c_dim": 3, "mapping_layers": 3_000_000}),
            ("generator", {"conv_clamp": "a"}),
            ("provenance", {"notes": ["\x1b[31m"]}),
        ):
            header["__metadata__"]["oneshot"] = json.dumps({**inner, part: {**inner[part], **change}})
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
            refused(path, "damaged header")
