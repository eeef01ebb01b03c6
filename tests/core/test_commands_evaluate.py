"""The verb evaluate: what it writes and refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_words import adapt_words, run
from PIL import Image
from tiny_networks import TinyChoice, tiny_bundle, tiny_encoders

from oneshot_core import inputs as opening
from oneshot_core.checkpoints import save
from oneshot_core.commands import evaluate as verb
from oneshot_core.commands import resources
from oneshot_core.encoder_choice import CLIP_MODEL, JUDGING_CLIP, EncoderChoice
from oneshot_core.features import EncodersOnDemand


class Judge(TinyChoice):
    """A tiny CLIP; "other" is another one than the one that adapts."""

    def __init__(self, clip: str | None = None) -> None:
        self.clip = clip

    def named(self, clip: str | None, perceptual: str | None) -> Judge:
        return Judge(clip)

    def notes(self) -> list[str]:
        return []

    def open(self, **_: Any) -> EncodersOnDemand:
        def made() -> Any:
            clip = tiny_encoders().clip
            if self.clip == "other":
                clip.weight.mul_(2)
                clip.name = "other"
            return clip

        return EncodersOnDemand(made, lambda: tiny_encoders().perceptual, self.clip or "tiny", "tiny")


@pytest.fixture(autouse=True)
def light(monkeypatch) -> None:
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(verb.EncoderChoice, "judging", lambda _: Judge())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)


@pytest.fixture(scope="module")
def kept(files, tmp_path_factory) -> Path:
    """The folder of a run with snapshots."""
    from oneshot_core import cli

    out = tmp_path_factory.mktemp("kept") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_choice", lambda *_: TinyChoice())
        words = adapt_words(files, out, "--snapshot-every", 2, "--quiet")
        assert cli.main([str(word) for word in words]) == 0
    return out


def words(files, out: Path, *adapted: object) -> list[object]:
    given = ["--generator", files["generator"], "--target", files["target"], "--seeds", "0-5"]
    return ["evaluate", *adapted, *given, "--out", out, "--device", "cpu", "--quiet"]


def test_a_report_figures_and_a_sheet_are_written(capsys, files, kept: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, *words(files, tmp_path / "out", kept))
    assert code == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"evaluation.png", "evaluation.txt", "evaluation.json"}
    text = (tmp_path / "out" / "evaluation.txt").read_text(encoding="utf-8")
    assert text.strip() in out and "CLIP tiny-clip (took part in the adaptation)" in text
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert values["format"] == "oneshot-evaluation" and values["pictures"] == 6
    with Image.open(tmp_path / "out" / "evaluation.png") as picture:
        assert picture.width > 500


def test_the_file_and_the_folder_of_a_run_are_the_same(capsys, files, kept: Path, tmp_path: Path) -> None:
    found = []
    for name in (kept, kept / "adapted.safetensors"):
        code, out, _ = run(capsys, *words(files, tmp_path / "out", name), "--json")
        assert code == 0
        found.append(json.loads(out)["evaluation"])
    assert found[0] == found[1]


def test_several_are_compared_and_so_are_snapshots(capsys, files, kept: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, *words(files, tmp_path / "two", kept, files["generator"]))
    assert code == 0 and f"{kept}: CLIP-I" in out and "highest score: " in out
    code, out, _ = run(capsys, *words(files, tmp_path / "steps", kept), "--snapshots", "--json")
    values = json.loads(out)["evaluation"]
    assert code == 0 and [row["name"] for row in values["rows"]] == ["step 2", "step 4"]


def test_another_clip_is_a_judge_that_took_no_part(capsys, files, kept: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, *words(files, tmp_path / "out", kept), "--clip", "other", "--strict")
    assert code == 0 and "CLIP other (took no part in the adaptation)" in out
    both = ["--clip", "other", "--clip", "tiny", "--json"]
    _, out, _ = run(capsys, *words(files, tmp_path / "out", kept), *both)
    parts = [one["part"] for one in json.loads(out)["evaluation"]["clip"]]
    assert parts == ["took no part", "took part"]


def test_strict_refuses_a_judge_that_took_part_or_may_have(capsys, files, kept: Path, tmp_path: Path) -> None:
    code, _, errors = run(capsys, *words(files, tmp_path / "out", kept), "--strict")
    assert code == 2 and "CLIP tiny-clip took part in the adaptation of" in errors
    code, _, errors = run(capsys, *words(files, tmp_path / "out", files["generator"]), "--strict")
    assert code == 2 and "may have taken part" in errors
    assert not (tmp_path / "out").exists()


def test_several_targets_count(capsys, files, kept: Path, tmp_path: Path) -> None:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "second.png")
    more = ["--target", tmp_path / "second.png", "--json"]
    _, out, _ = run(capsys, *words(files, tmp_path / "out", kept), *more)
    found = json.loads(out)["evaluation"]
    assert found["targets"] == 2 and sum(found["perceptual"]["members"]) == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "4"], "seeds must be 2 to"),
        (["--psi", "0"], "psi must not be 0"),
        (["--target", "missing.png"], "missing.png"),
        (["--faces", "missing.pt"], "facenet-pytorch"),
        (["--reference", "EMPTY"], "holds no picture files"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    capsys, files, kept, tmp_path: Path, monkeypatch, more, said
) -> None:
    from oneshot_core.evaluation import faces

    monkeypatch.setattr(faces, "find_spec", lambda _: None)
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "empty" if word == "EMPTY" else word for word in more]
    code, _, errors = run(capsys, *words(files, tmp_path / "out", kept), *given)
    assert code == 2 and said in errors and not (tmp_path / "out").exists()


def test_a_stranger_and_a_folder_without_a_run_are_refused(capsys, files, kept, tmp_path: Path) -> None:
    save(replace(tiny_bundle(64, seed=7), discriminator=None), tmp_path / "stranger.safetensors")
    code, _, errors = run(capsys, *words(files, tmp_path / "out", tmp_path / "stranger.safetensors"))
    assert code == 2 and "was not adapted from" in errors
    code, _, errors = run(capsys, *words(files, tmp_path / "out", tmp_path), "--snapshots")
    assert code == 2 and "not the folder of a run that keeps snapshots" in errors
    code, _, errors = run(capsys, *words(files, tmp_path / "out", kept, kept), "--snapshots")
    assert code == 2 and "give one folder" in errors


def test_reference_pictures_of_a_folder_are_read(capsys, files, kept, tmp_path: Path, monkeypatch) -> None:
    def pooled(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

    pooled.name = "pooled"
    monkeypatch.setattr(verb, "load_inception", lambda *_, **__: pooled)
    (tmp_path / "others").mkdir()
    for number in range(3):
        shutil.copy(files["target"], tmp_path / "others" / f"{number}.png")
    (tmp_path / "others" / "notes.txt").write_text("no picture")
    more = ["--reference", tmp_path / "others", "--json"]
    _, out, _ = run(capsys, *words(files, tmp_path / "out", kept), *more)
    assert json.loads(out)["evaluation"]["references"]["pictures"] == 3


def test_by_default_another_clip_judges_than_the_methods(monkeypatch) -> None:
    monkeypatch.undo()
    assert EncoderChoice.judging(tiny_bundle(64)).clip == JUDGING_CLIP != CLIP_MODEL
