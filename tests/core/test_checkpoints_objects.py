"""Objects of foreign classes stay data: below what is not read they are passed over, elsewhere refused."""

from __future__ import annotations

import collections
import functools
import io
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from network_pickles import (
    EasyDict,
    Module,
    foreign_class,
    foreign_module,
    names_of_the_repositories,
    nvidia_discriminator,
    nvidia_generator,
    tf_discriminator,
    tf_generator,
    write,
)
from torch import nn

from oneshot_core import checkpoints
from oneshot_core.checkpoints import CheckpointError, GeneratorBundle, UnsafePickleError, read_state_dict

__all__ = ["names_of_the_repositories"]  # a fixture that every test here uses
DISCRIMINATOR = "pg_modules.discriminator.ProjectedDiscriminator"


def same_generator(found: GeneratorBundle, other: GeneratorBundle) -> bool:
    """Whether two files give the same generator, its settings and its mean."""
    one, two = found.generator.state_dict(), other.generator.state_dict()
    return (
        found.generator.config == other.generator.config
        and all(torch.equal(one[name], two[name]) for name in two)
        and torch.equal(found.mean_latent, other.mean_latent)
    )


@pytest.fixture()
def plain(tmp_path: Path) -> GeneratorBundle:
    return checkpoints.load(write(tmp_path / "plain.pkl", {"G_ema": nvidia_generator()}))


def projected(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A discriminator of undecorated classes, with torch's own below it and the hooks of a spectral norm."""
    normed = torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
    features = nn.Sequential(normed, nn.LeakyReLU(0.2), nn.ModuleDict({"0": nn.BatchNorm2d(4)}))
    inner = foreign_module(foreign_class(monkeypatch, "pg_modules.projector.F_RandomProj"), {"net": features})
    return foreign_module(foreign_class(monkeypatch, DISCRIMINATOR), {"feature_network": inner})


class TestBelowWhatIsNotRead:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_discriminator(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: GeneratorBundle, protocol: int
    ) -> None:
        root = {"G_ema": nvidia_generator(), "D": projected(monkeypatch), "training_set_kwargs": EasyDict()}
        path = write(tmp_path / "n.pkl", root, protocol)
        found = checkpoints.load(path)
        assert same_generator(found, plain) and found.discriminator is None
        (note,) = [note for note in found.provenance.notes if "discriminator" in note]
        assert (
            note.startswith("the discriminator was left out: D is an object of the class")
            and DISCRIMINATOR in note
        )
        assert checkpoints.inspect(path)["notes"] == list(found.provenance.notes)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_discriminator_in_a_torch_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: GeneratorBundle, zipped: bool
    ) -> None:
        """The older container writes the class of a torch module as a reference with its source text."""
        normed = torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
        root = {"G_ema": nvidia_generator(), "D": nn.Sequential(normed, nn.Sequential(normed))}
        torch.save(root, tmp_path / "n.pt", _use_new_zipfile_serialization=zipped)
        found = checkpoints.load(tmp_path / "n.pt")
        assert same_generator(found, plain) and found.discriminator is None

    def test_generator_without_averaging(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        other = foreign_module(foreign_class(monkeypatch, "my.networks.Generator"))
        found = checkpoints.load(write(tmp_path / "n.pkl", {"G_ema": nvidia_generator(), "G": other}))
        assert found.raw_generator is None
        assert "my.networks.Generator" in " ".join(found.provenance.notes)

    def test_entries_that_nobody_reads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: GeneratorBundle
    ) -> None:
        """Also objects that behave like dicts and lists, values that are types, and odd states."""
        settings = foreign_class(monkeypatch, "settings.Config")
        monkeypatch.setattr(
            "settings.Table", type("Table", (dict,), {"__module__": "settings"}), raising=False
        )
        monkeypatch.setattr("settings.Row", type("Row", (list,), {"__module__": "settings"}), raising=False)
        slots = type("Slots", (), {"__module__": "settings", "__slots__": ("a",)})
        monkeypatch.setattr("settings.Slots", slots, raising=False)
        import settings as made  # type: ignore[import-not-found]

        holder, slotted = settings(), slots()
        holder.table, holder.row, slotted.a = made.Table({"a": 1, "b": 2}), made.Row([1, 2]), 3
        more = {
            "config": holder,
            "slots": slotted,
            "dtype": torch.float32,
            "device": torch.device("cpu"),
            "act": nn.functional.relu,
        }
        found = checkpoints.load(write(tmp_path / "n.pkl", {"G_ema": nvidia_generator(), **more}))
        assert same_generator(found, plain)

    def test_tensorflow_discriminator(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        network = tf_discriminator()
        network.components = {"inner": foreign_class(monkeypatch, "my.layers.Attention")()}
        found = checkpoints.load(write(tmp_path / "t.pkl", (tf_generator(), network, tf_generator())))
        assert found.discriminator is None and any("left out" in note for note in found.provenance.notes)


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def stream(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


MAKE, KEEP = b")\x81", b"q\x01"


class TestRefused:
    @pytest.mark.parametrize("place", ["D", "unused"])
    @pytest.mark.parametrize(
        "call",
        [
            Call(subprocess.Popen, ["true"]),
            Call(eval, "1"),
            Call(getattr, "text", "upper"),
            Call(functools.partial, nn.Conv2d, 3),
            Call(nn.Identity),
            Call(torch.nn.utils.spectral_norm, 3),
            Call(collections.deque, [1]),
        ],
    )
    def test_calls(self, tmp_path: Path, place: str, call: Call) -> None:
        path = write(tmp_path / "n.pkl", {"G_ema": nvidia_generator(), place: call})
        for read in (checkpoints.load, checkpoints.inspect):
            with pytest.raises(UnsafePickleError, match="was run"):
                read(path)

    @pytest.mark.parametrize(
        "raw",
        [
            stream(b"cpg_modules.x\nD\n", b"K\x01\x85\x81"),  # with an argument
            stream(b"cpg_modules.x\nD\n", KEEP, b"0"),
            stream(b"cpg_modules.x\nD\n"),  # the class itself as a value
            stream(b"]", b"cpg_modules.x\nD\n", b"a"),
            stream(b"]", b"cpg_modules.x\nD\n", KEEP, MAKE, b"ah\x01a"),
            stream(b"]", b"cpg_modules.x\nD\n", KEEP, MAKE, b"ah\x01)Ra"),  # made once, then called
            stream(b"cpg_modules.x\nD\n", b")R"),
            stream(b"cpg_modules.x\nD\n", b"}b"),  # the attributes of the class
            stream(b"cpg_modules.x\nD\n", b"N}\x86b"),
            stream(b"csubprocess\nPopen\n", MAKE),  # Python's own modules: never
            stream(b"c__builtin__\nobject\n", MAKE),
            stream(b"cbuiltins\nobject\n", MAKE),
            stream(b"ccollections\nUserDict\n", MAKE),
            stream(b"cos.path\nD\n", MAKE),
            stream(b"cpg_modules.x\nD.inner\n", MAKE),
            stream(b"cpg modules\nD\n", MAKE),
            stream(b"c\nD\n", MAKE),
            stream(b"(X\x06\x00\x00\x00module", b"cpg_modules.x\nD\n", b"NNtQ"),  # no object made of it
            stream(b"(X\x06\x00\x00\x00module", b"cpg_modules.x\nD\n", b"NNt"),
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94)\x81.",
        ],
    )
    def test_everything_but_empty_objects(self, raw: bytes, tmp_path: Path) -> None:
        (tmp_path / "n.pkl").write_bytes(raw)
        for read in (checkpoints.load, read_state_dict):
            with pytest.raises(CheckpointError) as caught:
                read(tmp_path / "n.pkl")
            assert isinstance(caught.value, UnsafePickleError) or b"0." in raw

    def test_where_a_tensor_is_expected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = foreign_class(monkeypatch, "torchlike.Tensor")()
        with pytest.raises(CheckpointError, match=r"holds an object of the class torchlike\.Tensor under"):
            read_state_dict(write(tmp_path / "n.pkl", {"a": made}))
        network = nvidia_generator()
        network.at("synthesis.b8.conv0").buffers["noise_const"] = made
        with pytest.raises(CheckpointError, match=r"missing: synthesis\.b8\.conv0\.noise_const"):
            checkpoints.load(write(tmp_path / "n.pkl", {"G_ema": network}))

    def test_where_a_layer_of_the_generator_is_expected(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = nvidia_generator()
        network.at("synthesis.b8").children["act"] = foreign_module(
            foreign_class(monkeypatch, "my.layers.Act")
        )
        with pytest.raises(CheckpointError, match="G_ema"):
            checkpoints.load(write(tmp_path / "n.pkl", {"G_ema": network}))

    def test_too_many_objects(self, tmp_path: Path) -> None:
        (tmp_path / "n.pkl").write_bytes(stream(b"(cmy.x\nD\nq\x01)\x81", b"h\x01)\x81" * 60_000, b"t"))
        with pytest.raises(CheckpointError, match="more than 50000 objects"):
            checkpoints.load(tmp_path / "n.pkl")


class TestNamed:
    def test_fastgan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synthesis = foreign_module(
            foreign_class(monkeypatch, "pg_modules.networks_fastgan.FastganSynthesis"),
            {"init": nn.Conv2d(1, 2, 3)},
        )
        kind = foreign_class(monkeypatch, "pg_modules.networks_fastgan.Generator")
        path = write(tmp_path / "n.pkl", {"G_ema": foreign_module(kind, {"synthesis": synthesis})})
        with pytest.raises(CheckpointError, match="a network of FastGAN, no StyleGAN2 network") as caught:
            checkpoints.load(path)
        assert "safetensors" not in str(caught.value) and "damaged" not in str(caught.value)

    def test_eg3d(self, tmp_path: Path) -> None:
        network = Module("TriPlaneGenerator")
        network.children["backbone"] = nvidia_generator()
        network.at("superresolution.block0.conv0").tensors["weight"] = torch.ones(2, 2, 3, 3)
        with pytest.raises(CheckpointError, match="EG3D"):
            checkpoints.load(write(tmp_path / "n.pkl", {"G_ema": network}))

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("key", [None, "g_ema", "generator", "model"])
    def test_whole_module(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, key: str | None
    ) -> None:
        made = foreign_module(foreign_class(monkeypatch, "model.Generator"), weight=torch.ones(2, 2))
        torch.save(
            made if key is None else {key: made}, tmp_path / "g.pt", _use_new_zipfile_serialization=zipped
        )
        for read in (checkpoints.load, checkpoints.inspect):
            with pytest.raises(CheckpointError, match=r"whole module .*model\.Generator.*state_dict"):
                read(tmp_path / "g.pt")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_whole_module_in_place_of_encoder_weights(self, tmp_path: Path, zipped: bool) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "g.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="whole module .*state_dict"):
            read_state_dict(tmp_path / "g.pt")

    @pytest.mark.parametrize("read", [checkpoints.load, checkpoints.inspect, read_state_dict])
    def test_data_pkl_of_an_unpacked_archive(self, tmp_path: Path, read: Any) -> None:
        buffer = io.BytesIO()
        torch.save({"g_ema": {"a": torch.ones(2)}}, buffer)
        with zipfile.ZipFile(buffer) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
            (tmp_path / "data.pkl").write_bytes(archive.read(name))
        with pytest.raises(CheckpointError, match=r"of an unpacked torch \w+.* [Gg]ive the \.pt"):
            read(tmp_path / "data.pkl")

    def test_other_references_stay_unsafe(self, tmp_path: Path) -> None:
        (tmp_path / "n.pkl").write_bytes(stream(b"X\x01\x00\x00\x00aQ"))
        with pytest.raises(UnsafePickleError, match="data outside of it"):
            checkpoints.load(tmp_path / "n.pkl")


class TestRoots:
    @pytest.mark.parametrize("protocol", [2, 4])
    def test_a_module_alone(self, tmp_path: Path, plain: GeneratorBundle, protocol: int) -> None:
        path = write(tmp_path / "n.pkl", nvidia_generator(), protocol)
        assert same_generator(checkpoints.load(path), plain)
        assert checkpoints.detect(path) == "nvidia"

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("key", [None, "G_ema", "G", "g_ema", "generator"])
    def test_modules_in_torch_files(
        self, tmp_path: Path, plain: GeneratorBundle, zipped: bool, key: str | None
    ) -> None:
        network = nvidia_generator()
        root = network if key is None else {key: network, "w_pivot": torch.ones(1, 2)}
        torch.save(root, tmp_path / "tuned.pt", _use_new_zipfile_serialization=zipped)
        assert same_generator(checkpoints.load(tmp_path / "tuned.pt"), plain)

    @pytest.mark.parametrize("root", [nvidia_discriminator, tf_discriminator])
    def test_a_discriminator_alone(self, tmp_path: Path, root: Any) -> None:
        with pytest.raises(CheckpointError, match="discriminator only"):
            checkpoints.load(write(tmp_path / "n.pkl", root()))

    def test_tensorflow_rows(self, tmp_path: Path) -> None:
        g, d, gs = tf_generator(), tf_discriminator(mbstd_group_size=2), tf_generator()
        g.components["synthesis"].variables[0] = ("4x4/Const/const", torch.zeros(1, 8, 4, 4).numpy())
        whole = checkpoints.load(write(tmp_path / "t.pkl", (g, d, gs)))
        for name, root, raw, judge in (
            ("gs", gs, False, False),
            ("tuple", (gs,), False, False),
            ("list", [g, d, gs], True, True),
            ("pair", (d, gs), False, True),
            ("generators", (g, gs), True, False),
            ("dict", {"G": g, "D": d, "Gs": gs, "epoch": 3}, True, True),
        ):
            found = checkpoints.load(write(tmp_path / "t.pkl", root))
            assert same_generator(found, whole), name
            assert (found.raw_generator is not None, found.discriminator is not None) == (raw, judge), name
            if raw:
                assert found.raw_generator is not None and not found.raw_generator.const.any(), name


def test_nothing_of_a_foreign_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes exist nowhere when the file is read."""
    with monkeypatch.context() as names:
        raw = pickle.dumps({"G_ema": nvidia_generator(), "D": projected(names)}, 4)
    (tmp_path / "n.pkl").write_bytes(raw)
    assert checkpoints.load(tmp_path / "n.pkl").discriminator is None
