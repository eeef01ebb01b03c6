"""The verb adapt: its files, resuming, interrupting, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from command_words import adapt_words, run
from PIL import Image
from tiny_networks import TinyChoice, tiny_bundle

from oneshot_core import inputs as opening
from oneshot_core import pipeline
from oneshot_core.checkpoints import load, save
from oneshot_core.commands import resources
from oneshot_core.commands.console import ProgressBar
from oneshot_core.pictures import load_picture


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Encoders of a few numbers, and one thread."""
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)


@pytest.mark.slow
def test_notes_on_how_search_and_training_went_are_told_at_the_end(capsys, files, tmp_path, busy_machine):
    words = adapt_words(files, tmp_path / "run", "--steps", 8, "--search-steps", 5)
    code, told, err = run(capsys, *words)
    assert code == 0
    for work in ("from step 2 of the search on", "from step 2 of the training on"):
        assert f"other programs kept the CPU busy: {work}" in err and work not in told
    assert err.index("adapt: 8/8") < err.index("other programs")
    assert "busy" not in run(capsys, *words)[2]  # done already: nothing was slow now


def test_adapt_writes_everything_and_knows_when_it_is_done(capsys, files, tmp_path):
    out = tmp_path / "run"
    code, told, err = run(capsys, *adapt_words(files, out, "--json", "--snapshot-every", 2))
    assert code == 0
    assert "adapt: 4/4" in err
    result = json.loads(told)
    assert result["step"] == 4
    assert all(Path(path).exists() for path in result["files"].values())
    record = json.loads((out / "run.json").read_text())
    assert record["step"] == record["steps"] == 4
    assert record["settings"]["preset"]["name"] == "oneshot_clip"
    assert len(record["losses"]["adaptation"]["lpips"]) == 4
    assert len(record["losses"]["search"]["clip"]) == 3
    assert load(out / "adapted.safetensors").discriminator is not None
    assert sorted(path.name for path in (out / "run" / "snapshots").iterdir()) == [
        "step_000002.safetensors",
        "step_000004.safetensors",
    ]
    before = (out / "adapted.safetensors").stat().st_mtime_ns
    code, _, err = run(capsys, *adapt_words(files, out, "--snapshot-every", 2))
    assert code == 0
    assert "is done already" in err
    assert (out / "adapted.safetensors").stat().st_mtime_ns == before
    code, _, err = run(capsys, *adapt_words(files, out, "--seed", 1))
    assert code == 2
    assert "other settings (search.seed, seed differ)" in err
    code, _, err = run(capsys, *adapt_words(files, out, "--steps", 2))
    assert code == 2
    assert "holds a run of 4 steps" in err
    assert run(capsys, *adapt_words(files, out, "--seed", 1, "--fresh"))[0] == 0
    assert json.loads((out / "run.json").read_text())["settings"]["seed"] == 1


@pytest.mark.slow
def test_adapt_learns_nothing_where_the_mask_is_black(capsys, files, tmp_path):
    mask = Image.new("L", (256, 256), 255)  # the target's size
    mask.paste(0, (128, 0, 256, 256))
    mask.save(tmp_path / "mask.png")
    words = adapt_words(files, tmp_path / "run", "--mask", tmp_path / "mask.png")
    assert run(capsys, *words)[0] == 0
    shown = {
        name: load_picture(tmp_path / "run" / f"{name}.png", 64)
        for name in ("target", "masked_target", "reference")
    }
    assert torch.equal(shown["masked_target"][..., :31], shown["target"][..., :31])
    assert torch.equal(shown["masked_target"][..., 33:], shown["reference"][..., 33:])
    assert not torch.equal(shown["target"], shown["reference"])
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "run"))
    assert (code, "inputs.mask" in err) == (2, True)
    assert run(capsys, *words, "--steps", 6)[0] == 0  # goes on with the same masked target
    assert run(capsys, *adapt_words(files, tmp_path / "run", "--fresh"))[0] == 0
    assert not (tmp_path / "run" / "masked_target.png").exists()
    words = ["search", "--generator", files["generator"], "--target", files["target"], "--steps", 2]
    found = [*words, "--device", "cpu", "--out", tmp_path / "found", "--mask"]
    assert run(capsys, *found, tmp_path / "mask.png")[0] == 0
    code, _, err = run(capsys, *found, files["generator"])
    assert (code, "is a safetensors file, not a picture" in err) == (2, True)


@pytest.mark.slow
def test_more_steps_go_on_from_an_earlier_run(capsys, files, tmp_path):
    run(capsys, *adapt_words(files, tmp_path / "parts"))
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "parts", "--steps", 7))
    assert code == 0
    assert "search: " not in err
    run(capsys, *adapt_words(files, tmp_path / "whole", "--steps", 7))
    parts, whole = (load(tmp_path / name / "adapted.safetensors").generator for name in ("parts", "whole"))
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters(), strict=True))
    curves = [json.loads((tmp_path / name / "run.json").read_text())["losses"] for name in ("parts", "whole")]
    assert curves[0] == curves[1]


def test_ctrl_c_keeps_the_step_and_the_same_command_goes_on(capsys, files, tmp_path, monkeypatch):
    update = ProgressBar.update

    def interrupting(bar, done, *more):
        update(bar, done, *more)
        if bar.label == "adapt" and done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "update", interrupting)
    words = adapt_words(files, tmp_path / "parts")
    code, _, err = run(capsys, *words)
    assert code == 130
    assert "the same command goes on" in err
    assert not (tmp_path / "parts" / "adapted.safetensors").exists()
    snapshot = next((tmp_path / "parts" / "run" / "snapshots").iterdir())
    assert str(snapshot) in err
    monkeypatch.setattr(ProgressBar, "update", update)
    assert run(capsys, *words)[0] == 0
    run(capsys, *adapt_words(files, tmp_path / "whole"))
    parts, whole = (load(tmp_path / name / "adapted.safetensors").generator for name in ("parts", "whole"))
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters(), strict=True))


def test_ctrl_c_during_the_search(capsys, files, tmp_path, monkeypatch):
    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "update", interrupting)
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "run"))
    assert code == 130
    assert "goes on from there" in err


def test_a_folder_of_something_else_is_left_alone(capsys, files, tmp_path):
    (tmp_path / "grid.png").write_bytes(b"precious")
    for more in ([], ["--fresh"]):
        code, _, err = run(capsys, *adapt_words(files, tmp_path, *more))
        assert code == 2
        assert "move that file away" in err and not (tmp_path / "run").exists()
    assert (tmp_path / "grid.png").read_bytes() == b"precious"


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_the_official_profile_runs_on_small_generators_and_says_what_differs(capsys, files, tmp_path, size):
    save(tiny_bundle(size), tmp_path / "source.safetensors")
    words = adapt_words({**files, "generator": tmp_path / "source.safetensors"}, tmp_path / "out")
    code, _, err = run(capsys, *words, "--profile", "official")
    assert code == 0, err
    assert f"using {size // 8} px" in err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["preset"]["profile"] == "official"


@pytest.mark.slow
def test_what_is_made_up_for_is_said_and_what_cannot_be_adapted_is_refused(capsys, files, tmp_path):
    save(tiny_bundle(64), tmp_path / "bare.safetensors", with_discriminator=False)
    words = adapt_words({**files, "generator": tmp_path / "bare.safetensors"}, tmp_path / "out")
    code, _, err = run(capsys, *words)
    assert code == 0 and "training with a freshly initialised one" in err
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "one", "--batch", 1))
    assert code == 2 and "at least 2" in err
    assert not (tmp_path / "one").exists() or not list((tmp_path / "one").iterdir())


@pytest.mark.slow
def test_a_longer_run_that_was_stopped_is_not_taken_for_done(capsys, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(capsys, *adapt_words(files, out))[0] == 0

    def broken(*_, **__):
        raise FloatingPointError("made up")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_to", broken)
        assert run(capsys, *adapt_words(files, out, "--steps", 7))[0] == 1
    code, told, _ = run(capsys, *adapt_words(files, out), "--json")
    assert code == 0 and json.loads(told)["step"] == 4
    assert run(capsys, *adapt_words(files, out, "--steps", 7))[0] == 0
    assert load(out / "adapted.safetensors").provenance.history["step"] == 7


@pytest.mark.slow
def test_crops_rate_and_average_are_options(capsys, files, tmp_path):
    more = ["--crop-px", 12, "--learning-rate", 0.001, "--ema-half-life", 20]
    assert run(capsys, *adapt_words(files, tmp_path / "out", *more))[0] == 0
    preset = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["preset"]
    assert preset["kinds"]["random"]["terms"]["patch"]["crop_px"] == 12
    assert preset["optimiser"]["learning_rate"] == 0.001
    assert preset["optimiser"]["average_half_life"] == 20


@pytest.mark.slow
def test_the_precision_is_an_option_and_a_setting_where_it_is_not_the_default(capsys, files, tmp_path):
    words = adapt_words(files, tmp_path / "out", "--precision", "bfloat16")
    assert run(capsys, *words)[0] == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["precision"] == "bfloat16"
    history = load(tmp_path / "out" / "adapted.safetensors").provenance.history
    assert history["settings"]["precision"] == "bfloat16"
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "out", "--precision", "float32"))
    assert code == 2 and "other settings (precision, search.precision differ)" in err
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "none", "--precision", "half"))
    assert code == 2 and "bfloat16" in err
