"""The inert pickle machine and the torch containers, against files of Python's pickle and torch.save."""

from __future__ import annotations

import argparse
import ast
import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneshot_core.checkpoints import CheckpointError, UnsafePickleError, opcodes, pickles, read_state_dict
from oneshot_core.checkpoints.rebuild import NumpyArray, Record
from oneshot_core.checkpoints.restricted import read_contents
from oneshot_core.checkpoints.stored import ByteRange, StoredTensor

PACKAGE = Path(__file__).parents[2] / "oneshot_core"


def contents(raw: bytes) -> Any:
    return read_contents(ByteRange.of_bytes(raw)).root


def saved(value: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


PLAIN = {
    "text": "a\u00e9\U0001f600", "long": "x" * 300,
    "numbers": [0, -1, 255, 70_000, 2**31, -(2**40), 2**70, 1.5],
    "flags": (True, False, None), "nested": {"a": ({"b": [()]},), 3: [[]]}, "same": ["x", "x"],
}  # fmt: skip


class TestPickles:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_plain_data_equals_pickle(self, protocol: int) -> None:
        assert contents(pickle.dumps(PLAIN, protocol)) == PLAIN

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_sets_and_shared_values(self, protocol: int) -> None:
        shared = ["once"]
        value = contents(pickle.dumps({"a": shared, "b": shared, "set": {"x", 1}}, protocol))
        assert value["set"] == {"x", 1}
        assert value["a"] is value["b"]

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_numpy_arrays(self, protocol: int, order: str) -> None:
        array = np.asarray(np.random.default_rng(0).normal(size=(3, 40, 20)).astype(np.float32), order=order)
        value = contents(pickle.dumps({"a": array, "n": np.float64(2.5), "i": np.int64(7)}, protocol))
        assert isinstance(value["a"], NumpyArray)
        np.testing.assert_array_equal(value["a"].tensor.read().numpy(), array)
        assert (value["n"], value["i"]) == (2.5, 7)

    def test_long_text_stays_in_the_file(self) -> None:
        value = contents(pickle.dumps({"source": "#" * 100_000}, 4))
        assert isinstance(value["source"], opcodes.LongText)

    @pytest.mark.parametrize("end", [1, 30, 200])
    def test_truncated(self, end: int) -> None:
        with pytest.raises(CheckpointError, match="truncated"):
            contents(pickle.dumps(PLAIN, 4)[:-end])

    @pytest.mark.parametrize(
        "function", [print, eval, __import__, getattr, pickle.loads, torch.load, io.open]
    )
    def test_functions_are_refused_by_name(self, function: Callable[..., Any]) -> None:
        class Call:
            def __reduce__(self) -> tuple[Any, ...]:
                return function, ("x",)

        with pytest.raises(UnsafePickleError, match=function.__name__):
            contents(pickle.dumps({"a": Call()}, 4))
        with pytest.raises(UnsafePickleError, match=function.__name__):
            contents(saved({"a": Call(), "b": torch.zeros(2)}))

    def test_a_refused_name_at_the_end_is_found_before_anything_is_built(self) -> None:
        stream = pickle.dumps([PLAIN] * 3, 2)[:-1] + b"cos\nsystem\n."
        with pytest.raises(UnsafePickleError, match="'os' 'system'"):
            pickles.scan(ByteRange.of_bytes(stream), pickles.Rules())

    def test_computed_name(self) -> None:
        stream = b"\x80\x04\x8c\x05torch]\x93."
        with pytest.raises(UnsafePickleError, match="computes the name"):
            contents(stream)

    def test_name_from_the_memo_is_checked(self) -> None:
        stream = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94" + b"]h\x00h\x01\x93."
        with pytest.raises(UnsafePickleError, match="'os' 'system'"):
            contents(stream)

    @pytest.mark.parametrize(
        ("stream", "message"),
        [
            (b"\x80\x02}((K\x01K\x02tK\x03u.", "as a key"),  # a tuple as key: endless to hash when nested
            (b"\x80\x02}(G?\xf0\x00\x00\x00\x00\x00\x00K\x03u.", "as a key"),
            (b"\x80\x02}(\x8a\x09" + b"\xff" * 8 + b"\x7fK\x03u.", "as a key"),
            (b"\x80\x02}(K\x01u.", "key without a value"),
            (b"\x80\x02](K\x01.", "leaves values behind"),
            (b"\x80\x02K\x01K\x02a.", "adds items"),
            (b"\x80\x02e.", "never opened"),
            (b"\x80\x02(q\x00.", "empty stack"),
            (b"\x80\x02}}b.", None),
            (b"\x80\x02]}b.", "sets attributes of a list"),
            (b"\x80\x02K\x01)R.", "calls 1"),
            (b"\x80\x02K\x01Q.", "outside of it"),
            (b"\x80\x09.", "no known checkpoint"),
            (b"\x80\x02\x80\x09N.", "protocol 9"),
            (b"\x80\x02N.N.", "follow the end"),
            (b"\x80\x02\x8bd\x00\x00\x00.", "integer of 100 bytes"),
            (b"\x80\x02\x8b\xff\xff\xff\xff.", "integer of -1 bytes"),
            (b"\x80\x02c" + b"x" * 300 + b"\n\n.", "longer than"),
            (b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8"),
            (b"\x80\x04\x8c\x01a\x94r\xff\xff\x00\x00.", "memo slot"),
        ],
    )
    def test_odd_streams(self, stream: bytes, message: str | None) -> None:
        if message is None:
            assert contents(stream) == {}
        else:
            with pytest.raises(CheckpointError, match=message):
                contents(stream)

    def test_too_many_instructions(self) -> None:
        with pytest.raises(CheckpointError, match="more than 1000 instructions"):
            pickles.scan(
                ByteRange.of_bytes(b"\x80\x02" + b"N" * 2000 + b"."), pickles.Rules(max_opcodes=1000)
            )

    @pytest.mark.parametrize("opcode", [b"i", b"o", b"\x82", b"\x83", b"\x84", b"P", b"\x92", b"\x97"])
    def test_calling_opcodes(self, opcode: bytes) -> None:
        with pytest.raises(UnsafePickleError, match="nothing in it was run"):
            contents(b"\x80\x02" + opcode + b"xxxx.")

    def test_repeated_embedded_data_is_bounded(self) -> None:
        """A small file that has the same 20 KB read 10,000 times."""
        nested = saved(torch.zeros(5000).untyped_storage(), zipped=False)
        stream = b"\x80\x03ctorch.storage\n_load_from_bytes\nq\x00B" + struct.pack("<I", len(nested)) + nested
        stream += b"\x85q\x01(" + b"h\x00h\x01R" * 10_000 + b"t."
        with pytest.raises(CheckpointError):
            contents(stream)

    def test_repeated_calls_are_bounded(self) -> None:
        stream = b"\x80\x02ccollections\nOrderedDict\nq\x00(" + b"h\x00)R" * 60_000 + b"t."
        with pytest.raises(CheckpointError, match="more than 50000 objects"):
            contents(stream)

    def test_large_sets_are_refused(self) -> None:
        with pytest.raises(CheckpointError, match="set of 100"):
            contents(pickle.dumps(set(range(100)), 3))

    @pytest.mark.parametrize("dtype", [">f4", "S4", "c8"])
    def test_numpy_types_that_are_no_little_endian_numbers(self, dtype: str) -> None:
        with pytest.raises(CheckpointError, match="numpy"):
            contents(pickle.dumps(np.zeros(3, dtype), 2))

    def test_numpy_objects(self) -> None:
        with pytest.raises(CheckpointError, match="numpy data of type 'O8'"):
            contents(pickle.dumps(np.asarray([{}], dtype=object), 2))

    def test_numpy_array_with_too_little_data(self) -> None:
        raw = pickle.dumps(np.zeros(300, np.float32), 4)
        assert raw.count(struct.pack("<H", 300)) == 1
        with pytest.raises(CheckpointError, match="needs 1204 bytes"):
            contents(raw.replace(struct.pack("<H", 300), struct.pack("<H", 301)))


class TestTorchFiles:
    VALUES = {
        "f32": torch.randn(3, 5), "f16": torch.randn(4).half(), "bf16": torch.randn(4).bfloat16(),
        "f64": torch.randn(2, 2).double(), "i64": torch.arange(4), "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "expanded": torch.ones(1).expand(3, 4),
        "transposed": torch.randn(4, 6).T, "part": torch.randn(10, 10)[2:5, ::3],
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "complex": torch.randn(3, dtype=torch.complex64),
    }  # fmt: skip

    @pytest.mark.parametrize("zipped", [True, False])
    def test_state_dict(self, zipped: bool, tmp_path: Path) -> None:
        path = tmp_path / "state.pt"
        path.write_bytes(saved(self.VALUES, zipped))
        found = read_state_dict(path)
        assert list(found) == list(self.VALUES)
        for name, value in self.VALUES.items():
            assert found[name].is_contiguous() and found[name].dtype == value.dtype
            assert torch.equal(found[name], value), name

    @pytest.mark.parametrize("zipped", [True, False])
    def test_module_state_and_training_objects(self, zipped: bool) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        averages = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 2)}
        optimiser = {"state": {0: averages, 2**40: averages}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        settings = argparse.Namespace(size=8, device=torch.device("cpu"), shape=torch.Size([2, 3]))
        values = {
            "g": module.state_dict(),
            "o": optimiser,
            "args": settings,
            "p": module[0].weight,
        }
        root = contents(saved(values, zipped))
        assert isinstance(root["args"], Record) and root["args"].state["size"] == 8
        assert root["args"].state["shape"] == (2, 3)
        assert torch.equal(root["g"]["0.weight"].read(), module[0].weight)
        assert torch.equal(root["p"].read(), module[0].weight)
        assert math.isclose(root["o"]["param_groups"][0]["lr"], 1e-3)

    def test_state_dict_inside_a_training_file(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3, "state_dict": {"a": torch.ones(2)}}, tmp_path / "x.pt")
        assert torch.equal(read_state_dict(tmp_path / "x.pt")["a"], torch.ones(2))

    def test_tensors_that_share_memory_are_read_separately(self, tmp_path: Path) -> None:
        base = torch.arange(6.0)
        torch.save({"a": base[:3], "b": base[2:]}, tmp_path / "x.pt")
        found = read_state_dict(tmp_path / "x.pt")
        found["a"][2] = 9
        assert found["b"][0] == 2

    def test_other_contents(self, tmp_path: Path) -> None:
        for value, message in (
            ([1, 2], "must be a dict"),
            ({"a": 3}, "named tensors"),
            ({1: torch.ones(1)}, "under 1"),
        ):
            torch.save(value, tmp_path / "x.pt")
            with pytest.raises(CheckpointError, match=message):
                read_state_dict(tmp_path / "x.pt")

    def test_state_dict_of_endless_repetition(self, tmp_path: Path) -> None:
        torch.save({str(n): torch.zeros(1).expand(1 << 28) for n in range(9)}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="declares 9663676416 bytes"):
            read_state_dict(tmp_path / "x.pt")

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.pt", tmp_path):
            with pytest.raises(CheckpointError, match="cannot be read"):
                read_state_dict(path)

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_script_archive(self) -> None:
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
        with pytest.raises(CheckpointError, match="TorchScript"):
            contents(buffer.getvalue())

    @pytest.mark.parametrize(
        ("offset", "size", "stride"),
        [
            (-1, (2,), (1,)),
            (0, (-2,), (1,)),
            (0, (2,), (-1,)),
            (3, (2,), (1,)),
            (0, (2,), (4,)),
            (0, (2, 2), (1,)),
        ],
    )
    def test_views_outside_of_their_storage(
        self, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        stored = contents(saved({"a": torch.zeros(4)}))["a"]
        with pytest.raises(CheckpointError):
            StoredTensor(stored.storage, offset, size, stride)

    def test_flipped_bits_never_do_more_than_raise(self) -> None:
        """Every damaged file is refused with our error, or read; nothing else can come out."""
        for zipped in (True, False):
            raw = saved(collections.OrderedDict(a=torch.ones(3), b=[1, "x"]), zipped)
            random = np.random.default_rng(1)
            for _ in range(300):
                damaged = bytearray(raw)
                damaged[random.integers(len(raw))] ^= 1 << random.integers(8)
                try:
                    contents(bytes(damaged))
                except CheckpointError:
                    pass

    def test_archive_members(self) -> None:
        def repacked(change: Callable[[str, bytes, zipfile.ZipFile], None]) -> bytes:
            source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(3)})))
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as target:
                for name in source.namelist():
                    change(name, source.read(name), target)
            return buffer.getvalue()

        plain = repacked(lambda name, data, target: target.writestr(name, data))
        assert torch.equal(contents(plain)["a"].read(), torch.ones(3))
        big_endian = repacked(
            lambda name, data, target: target.writestr(name, b"big" if name.endswith("byteorder") else data)
        )
        with pytest.raises(CheckpointError, match="little-endian"):
            contents(big_endian)
        without = repacked(lambda name, data, target: "/data/" in name or target.writestr(name, data))
        with pytest.raises(CheckpointError, match="holds none"):
            contents(without)


def test_only_checkpoints_reads_pickles() -> None:
    """No module of the engine imports a pickle module or calls torch.load, not even checkpoints."""
    banned = {"pickle", "_pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, where
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in banned, where
                loads = node.module == "torch" and any(alias.name == "load" for alias in node.names)
                assert not loads, where
            if isinstance(node, ast.Attribute) and node.attr == "load" and isinstance(node.value, ast.Name):
                assert node.value.id not in ("torch", "pickle"), where
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, where
