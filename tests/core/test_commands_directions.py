"""The verb directions: every action, what it writes and says, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_words import run
from tiny_clip import reading_clip
from tiny_networks import changed, tiny_bundle

from oneshot_core.checkpoints import load, save
from oneshot_core.commands import directions as verb
from oneshot_core.commands import resources
from oneshot_core.commands.direction_options import TEXT_WAYS
from oneshot_core.commands.option_values import factor, layers
from oneshot_core.editing.dictionary_files import load_dictionary, load_statistics
from oneshot_core.editing.direction_files import load_direction
from oneshot_core.editing.text_methods import METHODS
from oneshot_core.latent_files import save_latent
from oneshot_core.sampling import random_latents


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """A CLIP of a few words, and one thread."""
    monkeypatch.setattr(verb, "_clip", lambda *_: reading_clip())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, source = tmp_path_factory.mktemp("directions"), tiny_bundle(16)
    save(source, place / "source.safetensors")
    source = load(place / "source.safetensors")
    save(changed(source, "convs.2.affine.bias", scale=3.0), place / "adapted.safetensors")
    for seed in (1, 2):
        save_latent(random_latents(source, [seed]), place / f"{seed}.safetensors")
    return place


def done(capsys, folder, action, *words, generator=True):
    """Run an action that succeeds; returns what it says."""
    own = ("--generator", folder / "source.safetensors") if generator else ()
    code, out, err = run(capsys, "directions", action, *own, *words, "--quiet")
    assert code == 0, err
    return out


FEW = ("--samples", 300)
TEXTS = ("--to", "a sketch", "--from", "a photo")


def measured(capsys, folder, out, *words):
    few = ("--images", 2, "--layers", "0,3", "--device", "cpu", *FEW)
    return done(capsys, folder, "dictionary", "--out", out, *few, *words)


def test_a_dictionary_is_measured_shown_and_asked(folder, capsys, tmp_path):
    path, out = tmp_path / "d.safetensors", tmp_path / "sketch.safetensors"
    told = measured(capsys, folder, path)
    assert told.startswith(
        f"{path}: 16 channels of 2 layers by finite differences, measured on source.safetensors"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["d.safetensors"]
    shown = json.loads(done(capsys, folder, "show", path, "--json", generator=False))
    assert shown["channels"] == 16 and shown["layers"] == [0, 3] and 0 < shown["rho"] <= 1
    assert load_statistics(path).count == 300
    words = ("--dictionary", path, "--out", out, "--channels", 5, "--device", "cpu")
    told = json.loads(done(capsys, folder, "text", *TEXTS, *words, "--json"))
    assert told["channels"] == 5 and told["beta"] > 0 and len(told["strongest"]) == 5
    direction = load_direction(out)
    assert (direction.text, direction.neutral_text, direction.channels) == ("a sketch", "a photo", 5)
    assert direction.dictionary == load_dictionary(path).digest
    assert done(capsys, folder, "show", out, generator=False).startswith(
        "a sketch: 5 channels of style space by global"
    )
    code, _, err = run(
        capsys, "directions", "text", "--generator", folder / "source.safetensors", *TEXTS,
        "--dictionary", path, "--out", tmp_path / "x.safetensors", "--beta", 0.999, "--device", "cpu",
    )  # fmt: skip
    assert (
        code == 2
        and "lower beta" in err
        and err.count("\n") == 1
        and not (tmp_path / "x.safetensors").exists()
    )


DICTIONARY = ("--images", 2, "--layers", "0,3", "--device", "cpu", *FEW)


@pytest.mark.parametrize(
    ("words", "stop", "unfinished"),
    [
        (("dictionary", *DICTIONARY), ("channels", 3), "made.state.safetensors"),
        (("dictionary", "--by", "gradients", "--batch", 1, *DICTIONARY), ("gradients", 1),
         "made.state.safetensors"),
        (("text", *TEXTS, "--device", "cpu", *FEW), ("gradient", 72), "made.unfinished"),
    ],
    ids=["differences", "gradients", "text"],
)  # fmt: skip
def test_stopped_work_goes_on(folder, capsys, tmp_path, monkeypatch, words, stop, unfinished):
    whole, made = tmp_path / "whole.safetensors", tmp_path / "made.safetensors"
    done(capsys, folder, *words, "--out", whole)
    original, told = verb.ProgressBar.update, []

    def update(bar, count, *more):
        told.append((bar.label, count))
        original(bar, count, *more)
        if told[-1] == stop:
            raise KeyboardInterrupt

    source = ("--generator", folder / "source.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(verb.ProgressBar, "update", update)
        code, _, _ = run(capsys, "directions", words[0], *source, *words[1:], "--out", made)
        assert code == 130 and (tmp_path / unfinished).exists() and not made.exists()
        stop = None
        told.clear()
        done(capsys, folder, *words, "--out", made)
    assert min(count for label, count in told if label != "codes") > 1  # not from its beginning
    assert made.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.safetensors", "whole.safetensors"]


@pytest.mark.slow
def test_dictionaries_and_texts_by_gradients(folder, capsys, tmp_path):
    told = measured(capsys, folder, tmp_path / "g.safetensors", "--by", "gradients", "--half")
    assert "16 channels of 2 layers by gradients" in told
    out = tmp_path / "sketch.safetensors"
    told = json.loads(
        done(capsys, folder, "text", *TEXTS, "--out", out, "--channels", 4, "--device", "cpu", *FEW, "--json")
    )
    assert told["channels"] == 4 == load_direction(out).channels and told["samples"] >= 2
    words = ("--by", "hybrid", "--force", "--channels", 3, "--layers", 3, "--device", "cpu", *FEW)
    assert "by hybrid" in done(capsys, folder, "text", *TEXTS, "--out", out, *words)
    assert set(load_direction(out).vectors) == {3}


def test_the_ways_are_the_engines():
    assert set(TEXT_WAYS) == {name for name, one in METHODS.items() if not one.needs_dictionary}


def test_directions_without_text(folder, capsys, tmp_path):
    told = done(capsys, folder, "sefa", "--out", tmp_path / "sefa", "--layers", "0-1,3", "--count", 2)
    assert told.count("\n") == 2 and "SeFa 0 of layers 0, 1, 3" in told
    assert set(load_direction(tmp_path / "sefa" / "sefa_001.safetensors").vectors) == {0, 1, 3}
    words = ("--out", tmp_path / "pca", "--count", 3, *FEW, "--device", "cpu", "--json")
    told = json.loads(done(capsys, folder, "ganspace", *words))
    assert len(told["files"]) == 3 and load_direction(told["files"][2]).name == "GANSpace 2"
    out = tmp_path / "two.safetensors"
    both = ("--with", folder / "2.safetensors", "--without", folder / "1.safetensors")
    done(capsys, folder, "difference", *both, "--out", out, "--device", "cpu")
    found = load_direction(out)
    assert found.name == "2 - 1" and found.kind == "w"


def test_directions_are_combined(folder, capsys, tmp_path):
    done(capsys, folder, "sefa", "--out", tmp_path, "--count", 2)
    one, two = (tmp_path / f"sefa_00{number}.safetensors" for number in range(2))
    out = tmp_path / "sum.safetensors"
    done(capsys, folder, "combine", one, f"{two}:-0.5", "--out", out, "--name", "both", generator=False)
    found = load_direction(out)
    wanted = load_direction(one).vectors[0] - 0.5 * load_direction(two).vectors[0]
    torch.testing.assert_close(found.vectors[0], wanted)
    assert found.name == "both"
    code, _, err = run(capsys, "directions", "combine", one, "--out", out)
    assert code == 2 and "exists" in err
    done(capsys, folder, "combine", one, "--slots", "1-2", "--out", out, "--force", generator=False)
    assert set(load_direction(out).vectors) == {1, 2}


def test_other_programs_files_are_converted(folder, capsys, tmp_path):
    source = load(folder / "source.safetensors")
    np.save(tmp_path / "age.npy", np.ones((1, 12), np.float32))
    done(capsys, folder, "convert", tmp_path / "age.npy", "--out", tmp_path / "age.safetensors")
    assert load_direction(tmp_path / "age.safetensors").family == source.family
    torch.save(
        {"mean": torch.zeros(1, 12), "comp": torch.eye(12), "std": torch.ones(12)}, tmp_path / "pca.pt"
    )
    done(capsys, folder, "convert", tmp_path / "pca.pt", "--out", tmp_path / "pca", "--count", 2)
    assert len(list((tmp_path / "pca").iterdir())) == 2
    path = tmp_path / "d.safetensors"
    measured(capsys, folder, path)
    statistics = load_statistics(path)
    parts = [[one.numpy() for one in part] for part in (statistics.mean, statistics.sigma)]
    import pickle

    (tmp_path / "S_mean_std").write_bytes(pickle.dumps(parts))
    np.save(tmp_path / "fs3.npy", F.normalize(torch.randn(24, 16), dim=1).numpy())
    words = (
        tmp_path / "fs3.npy",
        "--statistics",
        tmp_path / "S_mean_std",
        "--out",
        tmp_path / "own.safetensors",
    )
    assert "24 channels of 3 layers by StyleCLIP's file" in done(capsys, folder, "convert", *words)
    assert load_dictionary(tmp_path / "own.safetensors").statistics.digest == statistics.digest


def test_drift_is_shown(folder, capsys):
    words = ("--adapted", folder / "adapted.safetensors")
    code, out, err = run(capsys, "directions", "show", "--generator", folder / "source.safetensors", *words)
    assert code == 0 and out.count("\n") == 10 and "style 3 (8 px, second convolution)" in out
    assert "means moved by more than 1 sigma" in err
    told = json.loads(done(capsys, folder, "show", *words, "--json"))
    assert len(told["layers"]) == 8 and len(told["notes"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), "give a FILE to show"),
        (("show", "x", "--adapted", "y"), "--adapted compares a generator with its source"),
        (("show", "absent.safetensors"), "absent.safetensors"),
        (("sefa", "--generator", "SOURCE", "--out", "OUT", "--layers", "9"), "convolutions from 0 to 4"),
        (("sefa", "--generator", "SOURCE", "--out", "OUT", "--layers", "5-2"), "write the lower slot first"),
        (("text", "--generator", "SOURCE", *TEXTS, "--out", "x.pt"), "--out must end in .safetensors"),
        (("text", "--generator", "SOURCE", "--to", "a", "--out", "x.safetensors"), "--from"),
        (("text", "--generator", "SOURCE", *TEXTS, "--out", "x.safetensors", "--beta", "-1"), "--beta"),
        (("combine", "SOURCE", "--out", "x.safetensors"), "is no direction but a generator"),
        (("fly",), "invalid choice"),
        ((), "ACTION"),
    ],
)
def test_bad_input_is_refused(folder, capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    names = {"SOURCE": folder / "source.safetensors", "OUT": tmp_path / "out"}
    code, out, err = run(capsys, "directions", *(names.get(word, word) for word in words))
    assert code == 2 and said in err and not out
    assert not list(tmp_path.glob("*.safetensors"))


def test_lists_of_layers_and_factors_are_read():
    assert layers("0-2,5") == (0, 1, 2, 5)
    assert factor("C:\\a.st:-2.5") == ("C:\\a.st", -2.5) and factor("a.st") == ("a.st", 1.0)
    for text in ("0-100", "x", ""):
        with pytest.raises(Exception, match=r"layers|slots"):
            layers(text)
    with pytest.raises(Exception, match="FACTOR"):
        factor("a.st:1e9")
