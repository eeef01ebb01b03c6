"""The command line: every verb, its exit codes, its files, resuming and interrupting."""

from __future__ import annotations

import argparse
import errno
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_words import adapt_words, run
from PIL import Image
from tiny_networks import TinyChoice, tiny_bundle

from oneshot_core import choices, cli, memory
from oneshot_core import inputs as opening
from oneshot_core.batches import sampling_bytes
from oneshot_core.checkpoints import load
from oneshot_core.commands import console, resources
from oneshot_core.commands.console import ProgressBar, duration
from oneshot_core.commands.resources import usable_cores
from oneshot_core.latent_files import load_latent
from oneshot_core.objective import PROFILES
from oneshot_core.runners import results

ROOT = Path(cli.__file__).parent.parent


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Encoders of a few numbers, and one thread whatever the verbs choose."""
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert f"oneshot {verb}" in out.split("examples:")[1]


def test_help_is_quick_and_imports_no_torch():
    code = "import sys; from oneshot_core.cli import main; main(['adapt', '-h']); "
    code += "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=30)


def test_the_choices_are_the_engines():
    assert cli.PROFILES == tuple(PROFILES)
    from oneshot_core.sampling import NOISE_MODES
    from oneshot_core.training import PRECISIONS

    assert choices.PRECISIONS == ("auto", *PRECISIONS)
    assert cli.NOISE_MODES == NOISE_MODES


def test_info_as_text_and_json(capsys, files):
    code, out, _ = run(capsys, "info", files["generator"])
    assert code == 0
    assert "64 x 64 px" in out
    code, out, _ = run(capsys, "info", files["generator"], "--json")
    assert json.loads(out)["size"] == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "missing.pt"], "missing.pt"),
        (["info", __file__], "test_cli.py"),
        (["convert", "GENERATOR", "x.ckpt"], "must end in"),
        (["convert", "GENERATOR", "GENERATOR"], "add --force"),
        (["sample", "--generator", "GENERATOR", "--seeds", "5-2", "--out", "x"], "runs backwards"),
        (["sample", "--generator", "GENERATOR", "--seeds", "1", "--out", "x", "--loop"], "--interpolate"),
        (["sample", "--generator", "GENERATOR", "--seeds", "1", "--out", "x", "--psi", "99"], "psi"),
        (["search", "--generator", "GENERATOR", "--target", "no.png", "--out", "x"], "no.png is not a file"),
        (
            ["adapt", "--generator", "GENERATOR", "--target", "TARGET", "--out", "x", "--preset", "y"],
            "oneshot_clip",
        ),
        (
            ["adapt", "--generator", "GENERATOR", "--target", "TARGET", "--out", "x", "--weight", "z=1"],
            "no term",
        ),
        (["adapt", "--generator", "GENERATOR", "--target", "TARGET", "--out", "x", "--schedule", "1"], "1:3"),
        (
            [
                "adapt",
                "--generator",
                "GENERATOR",
                "--target",
                "TARGET",
                "--out",
                "x",
                "--weight",
                "patch=inf",
            ],
            "finite",
        ),
        (
            ["adapt", "--generator", "GENERATOR", "--target", "TARGET", "--out", "x", "--seeds", "0-64"],
            "--seeds of the grid are at most 64, got 65",
        ),
        (["adapt", "--generator", "GENERATOR", "--target", "TARGET", "--out", "TARGET"], "cannot be made"),
        (["fly"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, files, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    names = {"GENERATOR": files["generator"], "TARGET": files["target"]}
    code, out, err = run(capsys, *(names.get(word, word) for word in words))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    if not err.startswith("usage"):
        assert err.count("\n") == 1


def test_debug_shows_the_traceback(capsys):
    assert "Traceback" in run(capsys, "info", "missing.pt", "--debug")[2]


def test_convert_to_both_formats(capsys, files, tmp_path):
    small = tmp_path / "small.safetensors"
    words = ["convert", files["generator"], small, "--dtype", "float16", "--without-discriminator"]
    assert run(capsys, *words)[0] == 0
    assert load(small).discriminator is None
    other = tmp_path / "other.pt"
    code, out, _ = run(capsys, "convert", files["generator"], other, "--json")
    assert code == 0
    assert json.loads(out)["format"] == "rosinality"
    state, original = (load(path).generator.state_dict() for path in (other, files["generator"]))
    assert all(torch.equal(state[name], original[name]) for name in original)


def test_search_writes_a_latent_that_adapt_takes(capsys, files, tmp_path):
    out = tmp_path / "found"
    words = ["search", "--generator", files["generator"], "--target", files["target"], "--out", out]
    code, told, err = run(capsys, *words, "--steps", 3, "--weight", "clip=0", "--json")
    assert code == 0
    assert "search: 3/3" in err
    result = json.loads(told)
    assert "clip" not in result["losses"]
    assert all(Path(path).is_file() for path in result["files"].values())
    latent = out / "reference.safetensors"
    assert load_latent(latent).values.shape == (1, 12)
    code, _, err = run(capsys, *words, "--steps", 3, "--weight", "clip=0")
    assert (code, "search:" in err) == (0, False)  # it was kept
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "run", "--latent", latent))
    assert code == 0
    assert "search:" not in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FloatingPointError("'lpips' became nan at step 3"), "failed: 'lpips' became nan at step 3"),
        (
            RuntimeError("CUDA out of memory. Tried to\nallocate"),
            "failed: out of memory (CUDA out of memory. Tried to allocate); lower --batch",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "failed: out of memory (Default",
        ),
        (MemoryError(), "failed: out of memory (MemoryError); lower --batch"),
        (OSError(28, "No space left on device"), "No space left"),
        (KeyError("x"), "failed: KeyError: 'x' (--debug shows where)"),
    ],
)
def test_a_failed_run_is_one_line_and_exit_code_1(capsys, files, tmp_path, monkeypatch, error, message):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(results, "run_recipe", failing)
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "run", "--quiet"))
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_sample_writes_pictures_that_say_how_they_were_made(capsys, files, tmp_path):
    words = ["sample", "--generator", files["generator"], "--out", tmp_path, "--device", "cpu", "--json"]
    code, out, _ = run(capsys, *words, "--seeds", "3,8-9", "--psi", "0.7", "--batch", "2")
    assert code == 0
    assert json.loads(out)["count"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grid.png",
        "seed_000003.png",
        "seed_000008.png",
        "seed_000009.png",
    ]
    with Image.open(tmp_path / "seed_000008.png") as picture:
        assert picture.size == (64, 64)
        told = json.loads(picture.text["oneshot"])
    assert (told["seed"], told["psi"]) == (8, 0.7)
    assert told["generator_sha256"] == load(files["generator"]).provenance.sha256


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (["--seeds", "0-1", "--interpolate", "2", "--loop"], ["frame_000003.png"]),
        (["--seeds", "0-1", "--sweep", "0,0.5"], ["grid.png"]),
        (
            ["--seeds", "0-1", "--mix-seeds", "5", "--mix-slots", "2-3", "--replace-from", "6"],
            ["seed_000001.png"],
        ),
        (["--seeds", "0-1", "--source", "GENERATOR"], ["seed_000001.png", "source_seed_000001.png"]),
        (["--seeds", "0-11", "--noise", "random"], ["seed_000011.png", "grid.png"]),
    ],
)
def test_sample_does_more(capsys, files, tmp_path, more, wanted):
    words = ["sample", "--generator", files["generator"], "--out", tmp_path, "--device", "cpu"]
    code, _, err = run(
        capsys, *words, *(files["generator"] if word == "GENERATOR" else word for word in more)
    )
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} >= set(wanted)


def test_sample_from_a_latent_file_repeats_the_seeds(capsys, files, tmp_path):
    words = ["sample", "--generator", files["generator"], "--device", "cpu", "--quiet"]
    kept = tmp_path / "kept.safetensors"
    first = [*words, "--seeds", "4", "--out", tmp_path / "a", "--save-latent", kept]
    assert run(capsys, *first)[0] == 0
    code, _, err = run(capsys, *words, "--latent", kept, "--out", tmp_path / "b")
    assert code == 0
    assert err == ""
    pixels = [Image.open(tmp_path / name).tobytes() for name in ("a/seed_000004.png", "b/sample_000000.png")]
    assert pixels[0] == pixels[1]


class Stream:
    """A stand-in for a terminal or a log file."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.text = terminal, ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("terminal", [False, True])
def test_the_progress_bar(monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console, "REDRAW_SECONDS", 0.0)
    stream = Stream(terminal)
    with ProgressBar("adapt", 100, stream) as bar:
        for step in range(1, 101):
            bar.update(step, {"lpips": 0.25, "patch": 1.5}, eta=100.0 - step)
    if terminal:
        assert "50/100" in stream.text and "left, lpips 0.25" in stream.text
        assert re.search(r"adapt \S+ +100/100  00:00, lpips 0.25  patch 1.5", stream.text)
        assert stream.text.endswith("\n")
    else:
        lines = stream.text.splitlines()
        assert len(lines) == 11
        assert lines[5] == "adapt: 50/100  0:50 left  lpips 0.25  patch 1.5"
    assert duration(3723) == "1:02:03"


def test_a_closed_terminal_does_not_end_what_runs():
    class Closed(Stream):
        def write(self, text):
            raise OSError(errno.EIO, "closed")

    for terminal in (False, True):
        with ProgressBar("adapt", 3, Closed(terminal)) as bar:
            bar.update(1)
            bar.update(2, {"x": 1.0})


def test_the_quota_of_a_container_counts(tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_cores(quota) == 1
    quota.write_text("max 100000\n")
    assert usable_cores(quota) == usable_cores(tmp_path / "missing") >= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mix-seeds", 5, "--mix-slots", "7-4"], "write the lower slot first, as in 4-7; got '7-4'"),
        (["--mix-seeds", 5, "--mix-slots", "4-40"], "--mix-slots must lie within 0-9, the slots of this"),
        (["--cutoff", -3], "error: --cutoff is a slot number"),
        (["--replace-from", 99], "error: --replace-from must be at most"),
        (["--psi", 40], "argument --psi: "),
    ],
)
def test_errors_name_the_option_that_was_given(capsys, files, tmp_path, words, said):
    """Not the setting behind it, whose name the user never typed."""
    common = ["--generator", files["generator"], "--seeds", 0, "--device", "cpu", "--out", tmp_path]
    code, _, err = run(capsys, "sample", *common, *words)
    assert code == 2 and said in err
    assert not {"mix_to", "mix_from", "replace_from", "batch_size"} & set(err.replace(",", " ").split())


FLOATS = {
    "search": ["--learning-rate"],
    "adapt": ["--learning-rate", "--ema-half-life", "--mixing"],
    "sample": ["--psi", "--sweep"],
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-20", "x"])
@pytest.mark.parametrize(
    ("verb", "option"), [(verb, one) for verb, options in FLOATS.items() for one in options]
)
def test_numbers_of_the_command_line_are_finite_and_in_range(capsys, verb, option, value):
    needed = ["--generator", "demo", "--out", "x"]
    needed += ["--seeds", "1"] if verb == "sample" else ["--target", "x.png"]
    code, _, err = run(capsys, verb, *needed, f"{option}={value}")
    assert code == 2 and f"argument {option}: " in err and f"got '{value}'" in err


def test_every_option_that_is_a_number_is_checked():
    """No reader of plain floats is left, which would take NaN."""
    parsers = cli.build_parser()._subparsers._group_actions[0].choices
    for verb, parser in parsers.items():
        for action in parser._actions:
            assert action.type is not float, f"{verb} {action.option_strings}"
            if action.type in (cli.weight, cli.numbers) or "number" in getattr(
                action.type, "__qualname__", ""
            ):
                with pytest.raises(argparse.ArgumentTypeError):
                    action.type("pixel=nan" if action.type is cli.weight else "nan")


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_weights_are_finite_and_not_negative(value):
    with pytest.raises(argparse.ArgumentTypeError, match="finite number of at least 0"):
        cli.weight(f"patch={value}")


def test_many_pictures_are_written_in_chunks_of_which_memory_holds_one(capsys, files, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: sampling_bytes(tiny_bundle(64), 2))
    words = [
        "sample",
        "--generator",
        files["generator"],
        "--seeds",
        "0-69",
        "--out",
        tmp_path,
        "--device",
        "cpu",
    ]
    code, _, err = run(capsys, *words, "--batch", "2", "--quiet")
    assert code == 0, err
    assert len(list(tmp_path.glob("seed_*.png"))) == 70
    code, _, err = run(capsys, *words, "--batch", "8", "--quiet")
    assert code == 2 and "lower the batch size" in err
