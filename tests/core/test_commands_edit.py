"""The verb edit: every method, its files, what it refuses, and a training that is stopped."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from command_words import run
from PIL import Image
from reading_clip import SIZE, TEXT, ReadingClip
from stand_ins import tiny_bundle

from oneshot_core.checkpoints import load, save
from oneshot_core.commands import edit as verb
from oneshot_core.commands import following
from oneshot_core.commands.edit_options import strengthened
from oneshot_core.editing import Direction, load_direction, load_mapper, save_direction
from oneshot_core.latent_files import load_latent
from oneshot_core.sampling import SampleConfig, sample

SHORT = ("--steps", 3, "--device", "cpu", "--quiet")
TRAIN = ("--method", "mapper", "--text", TEXT, "--validate-every", 2, "--optimiser", "adam")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("edit") / "source.safetensors"
    save(tiny_bundle(SIZE), path)
    return path


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """A CLIP of a few numbers."""
    monkeypatch.setattr(verb, "_clip", lambda job: ReadingClip())


def edit(capsys, source, out, *words):
    return run(capsys, "edit", "--generator", source, "--out", out, *words)


def edited(capsys, source, out, *words):
    """What a command says, and the latent that it writes."""
    code, told, err = edit(capsys, source, out, *words, "--json")
    assert code == 0, err
    files = json.loads(told)["files"]
    assert Image.open(files["sheet"]).width > 50
    return json.loads(told), load_latent(files["latent"])


@pytest.mark.parametrize("space", ["w+", "style"])
def test_optimisation(space, source, capsys, tmp_path):
    words = ("--seeds", "4,7", "--psi", 0.5, "--text", TEXT, "--space", space, *SHORT)
    told, latent = edited(capsys, source, tmp_path, *words)
    assert set(told["files"]) == {"latent", "sheet", "direction", "losses"} and "clip" in told["losses"]
    assert latent.origin["seeds"] == [4, 7] and latent.origin["settings"]["steps"] == 3
    assert len(latent.edits) == (0 if space == "w+" else 1)
    bundle = load(source)
    plain = sample(bundle, [4, 7], SampleConfig(psi=0.5))
    drawn = sample(bundle, latent)
    assert 0 < float((drawn - plain).abs().max()) < 2
    direction = load_direction(told["files"]["direction"])
    assert (direction.kind, direction.text) == (space, TEXT)


@pytest.mark.parametrize("start", ["mean", "random"])
@pytest.mark.parametrize("space", ["w+", "style"])
def test_other_starts(start, space, source, capsys, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(verb, "_sheet", lambda job, made: seen.append(made) or Image.new("RGB", (99, 99)))
    words = ("--start", start, "--psi", 0.6, "--seed", 2, "--text", TEXT, "--space", space, *SHORT)
    _, latent = edited(capsys, source, tmp_path, *words)
    before = sample(load(source), seen[0].before)
    wanted = SampleConfig(psi=0.6 if start == "random" else 0.0)
    torch.testing.assert_close(before, sample(load(source), [2], wanted), atol=1e-5, rtol=0)
    assert not torch.allclose(sample(load(source), latent), before, atol=1e-3)


def test_an_edited_latent_is_edited_again_and_drawn_by_an_adapted_generator(source, capsys, tmp_path):
    words = ("--seeds", 1, "--text", TEXT, "--space", "style", *SHORT)
    edited(capsys, source, tmp_path / "one", *words)
    latent = tmp_path / "one" / "edited.safetensors"
    more = ("--latent", latent, "--adapted", source, "--text", "a face", "--space", "style", *SHORT)
    _, twice = edited(capsys, source, tmp_path / "two", *more)
    assert [one.name for one in twice.edits] == [TEXT, "a face"]


def test_a_mapper_is_trained_and_applied(source, capsys, tmp_path):
    words = ("--seeds", "0-1", *TRAIN, *SHORT, "--without", "fine")
    told, latent = edited(capsys, source, tmp_path, *words)
    assert set(told["files"]) == {"latent", "sheet", "mapper", "losses"} and 1 <= told["best_step"] <= 3
    file = told["files"]["mapper"]
    assert load_mapper(file).text == TEXT
    apply = ("--method", "mapper", "--mapper", file, "--device", "cpu")
    _, again = edited(capsys, source, tmp_path / "again", "--seeds", "0-1", *apply)
    for key, vector in latent.edits[0].vectors.items():
        torch.testing.assert_close(again.edits[0].vectors[key], vector)
    _, half = edited(capsys, source, tmp_path / "half", "--seeds", "5", *apply, "--strength", 0.5)
    assert half.edits[0].strength == 0.5
    _, out, _ = run(capsys, "info", file)
    assert "a latent mapper of this project" in out


def test_a_stopped_edit_goes_on(source, capsys, tmp_path, monkeypatch):
    words = ("--seeds", "0-2", "--text", TEXT, "--method", "optimisation", "--steps", 3, "--device", "cpu")
    _, whole = edited(capsys, source, tmp_path / "whole", *words, "--quiet")
    steps, update = list[int](), following.ProgressBar.update

    def stopping(bar, done, *rest):
        steps.append(done)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        update(bar, done, *rest)

    monkeypatch.setattr(following.ProgressBar, "update", stopping)
    code, _, err = edit(capsys, source, tmp_path / "two", *words, "--quiet")
    assert code == 143 and "the edit was stopped; the same command goes on from there" in err
    _, two = edited(capsys, source, tmp_path / "two", *words, "--quiet")
    assert torch.equal(whole.values, two.values) and steps == [2, 4, 6, 7, 8, 9]
    assert not (tmp_path / "two" / following.UNFINISHED).exists()


def test_a_stopped_training_goes_on(source, capsys, tmp_path, monkeypatch):
    words = ("--seeds", "0", *TRAIN, "--steps", 5, "--device", "cpu", "--quiet")
    _, whole = edited(capsys, source, tmp_path / "whole", *words)
    update = verb.ProgressBar.update

    def stopping(bar, done, *rest):
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        update(bar, done, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(verb.ProgressBar, "update", stopping)
        code, _, err = edit(capsys, source, tmp_path / "two", *words)
    assert code == 143 and "the same command goes on from there" in err
    assert (tmp_path / "two" / verb.STATE).is_file()
    _, resumed = edited(capsys, source, tmp_path / "two", *words)
    assert all(torch.equal(resumed.edits[0].vectors[key], one) for key, one in whole.edits[0].vectors.items())
    code, _, err = edit(capsys, source, tmp_path / "two", *words, "--seed", 1)
    assert code == 2 and "other settings" in err
    edited(capsys, source, tmp_path / "two", *words, "--seed", 1, "--fresh")


def test_directions_from_files(source, capsys, tmp_path):
    bundle, files = load(source), []
    for number in range(2):
        vectors = {number: torch.full((7,), 0.1)}
        direction = Direction("w+", vectors, (7,) * 6, name=f"d{number}", family=bundle.family)
        files.append(save_direction(direction, tmp_path / f"{number}.safetensors"))
    words = ("--seeds", 3, "--method", "direction", "--direction", f"{files[0]}:2", "--direction", files[1])
    _, latent = edited(capsys, source, tmp_path / "out", *words, "--strength", -1.5, "--device", "cpu")
    assert [(one.name, one.strength) for one in latent.edits] == [("d0", -3.0), ("d1", -1.5)]
    stranger = tmp_path / "stranger.safetensors"
    save(tiny_bundle(SIZE, seed=3), stranger)
    code, _, err = edit(capsys, stranger, tmp_path / "out", *words)
    assert code == 2 and "which is not of the family of" in err


def test_a_gradient_direction_is_found_kept_and_applied(capsys, tmp_path, monkeypatch):
    monkeypatch.undo()
    words = ("--seeds", 3, "--method", "gradient", "--text", "a person with a hat", "--neutral-text",
             "a person", "--samples", 2, "--device", "cpu", "--quiet")  # fmt: skip
    monkeypatch.setattr(verb, "GradientConfig", lambda **given: SMALL(**{**given, "most_samples": 2}))
    told, latent = edited(capsys, "demo", tmp_path, *words)
    assert latent.edits[0].strength == verb.GRADIENT_STRENGTH
    assert load_direction(told["files"]["direction"]).neutral_text == "a person"


SMALL = verb.GradientConfig


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", 1), "--text is missing"),
        (("--seeds", 1, "--method", "gradient", "--text", "a"), "--neutral-text is missing"),
        (("--seeds", 1, "--method", "direction"), "--direction is missing"),
        (("--seeds", 1, "--method", "direction", "--direction", "x", "--views", 2), "--views belongs to --m"),
        (("--seeds", 1, "--text", "a", "--strength", 2), "--strength belongs to --method mapper or gradient"),
        (("--start", "mean", "--text", "a", "--method", "mapper"), "--start belongs to --method optim"),
        (("--seeds", 1, "--method", "mapper", "--mapper", "x", "--steps", 3), "--steps is for training"),
        (("--seeds", 1, "--method", "mapper", "--mapper", "x", "--text", "a"), "--text has no use with a"),
        (("--seeds", 1, "--text", "a", "--identity", "none.pth"), "none.pth"),
        (("--latent", "x", "--psi", 0.5, "--text", "a"), "--psi and --class are for --seeds"),
        (("--text", "a"), "one of the arguments --seeds --latent --start is required"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(words, said, source, capsys, tmp_path):
    code, _, err = edit(capsys, source, tmp_path / "out", *words)
    assert code == 2 and said in err
    assert not (tmp_path / "out" / "edited.safetensors").exists()


def test_a_direction_is_read_with_its_strength():
    assert strengthened("a.st:-2.5") == ("a.st", -2.5) and strengthened("C:\\a.st") == ("C:\\a.st", 1.0)
    with pytest.raises(Exception, match="a number from -1000 to 1000"):
        strengthened("a.st:1001")
