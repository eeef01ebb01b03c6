"""Recipes on the command line: what options say, and results made again from what they left."""

from __future__ import annotations

import json

import pytest
from command_words import adapt_words, run
from PIL import Image
from tiny_networks import TinyChoice

from oneshot_core import cli
from oneshot_core import inputs as opening
from oneshot_core.commands import resources
from oneshot_core.commands.recipes import ENTRIES, recipe_of
from oneshot_core.fingerprints import fingerprint
from oneshot_core.frames import Frame
from oneshot_core.pictures import frame
from oneshot_core.quad_files import save_quad
from oneshot_core.quads import Quad
from oneshot_core.saved_states import differences


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Encoders of a few numbers, and one thread."""
    monkeypatch.setattr(opening, "_choice", lambda *_: TinyChoice())
    monkeypatch.setattr(resources, "usable_cores", lambda: 1)


def test_every_option_reaches_the_recipe(tmp_path):
    """As typed on the command line, each changes the entry that it is for, and nothing else."""
    quad = save_quad(Quad.square(0, 0, 8, 9, 8), tmp_path / "quad.json")
    words = {
        "fit": "stretch", "mask": "m.png", "latent": "l.npz", "clip": "RN50", "lpips": "vgg", "steps": "9",
        "search_steps": "9", "search_weight": "clip=0.5", "profile": "official", "weight": "patch=0.5",
        "batch": "4", "mixing": "0.25", "schedule": "3:1", "crop_px": "12", "learning_rate": "0.5",
        "discriminator_rate": "0.5", "ema_half_life": "9", "seed": "9", "precision": "bfloat16",
        "snapshot_every": "9", "trained_parts": "rgb,affine", "zoom": "2",
        "offset_x": "-1", "offset_y": "0.5", "more_targets": "u.png", "target_weights": "1,0.5",
        "source_text": "photo", "target_text": "sketch", "more_texts": "ink", "text_weights": "1,2",
        "layers": "3", "quad": str(quad), "search_method": "ii2s",
    }  # fmt: skip
    needed = ["adapt", "--generator", "g.pt", "--target", "t.png", "--out", "x"]
    plain = recipe_of(cli.build_parser().parse_args(needed)).values()
    for option, value in words.items():
        options = cli.build_parser().parse_args([*needed, f"--{option.replace('_', '-')}={value}"])
        changed = differences(plain, recipe_of(options).values())
        assert changed and all(entry.startswith(ENTRIES[option]) for entry in changed), option
    found = cli.build_parser().parse_args(["search", *needed[1:], "--no-views", "--learning-rate=0.5"])
    assert differences(plain, recipe_of(found).values()) == ["search.learning_rate", "search.views"]
    left = set(ENTRIES) - set(words) - {"generator", "target", "views", "search_learning_rate", "preset"}
    assert not left


@pytest.mark.slow
def test_a_seed_given_with_a_recipe_is_of_everything_random(capsys, files, tmp_path):
    assert run(capsys, *adapt_words(files, tmp_path / "one"))[0] == 0
    sources = (tmp_path / "one" / "adapted.safetensors", tmp_path / "one")
    for number, source in enumerate(sources):
        words = adapt_words(files, tmp_path / f"again{number}", "--recipe", source, "--seed", 7)
        assert run(capsys, *words)[0] == 0
    assert run(capsys, *adapt_words(files, tmp_path / "seven", "--seed", 7))[0] == 0
    made = [(tmp_path / name / "adapted.safetensors").read_bytes() for name in ("again0", "again1", "seven")]
    assert made[0] == made[1] == made[2]


@pytest.mark.slow
def test_a_result_of_a_given_latent_is_made_again_by_searching_it(capsys, files, tmp_path, monkeypatch):
    search = ["search", "--generator", files["generator"], "--target", files["target"], "--steps", 3]
    assert run(capsys, *search, "--device", "cpu", "--out", tmp_path / "found")[0] == 0
    latent = tmp_path / "found" / "reference.safetensors"
    assert run(capsys, *adapt_words(files, tmp_path / "one", "--latent", latent))[0] == 0
    monkeypatch.chdir(tmp_path)
    for number, source in enumerate(("one", "one/adapted.safetensors")):
        words = adapt_words(files, tmp_path / f"again{number}", "--recipe", source)
        assert run(capsys, *words)[0] == 0
        made = [tmp_path / name / "adapted.safetensors" for name in ("one", f"again{number}")]
        assert made[0].read_bytes() == made[1].read_bytes()


def test_a_mask_that_a_recipe_was_made_with_is_asked_for(capsys, files, tmp_path):
    Image.linear_gradient("L").save(tmp_path / "mask.png")
    words = adapt_words(files, tmp_path / "one", "--mask", tmp_path / "mask.png")
    assert run(capsys, *words)[0] == 0
    record = json.loads((tmp_path / "one" / "run.json").read_text())["recipe"]
    record["aim"]["mask"] = None  # as of a canvas, where it came over a wire
    (tmp_path / "r.json").write_text(json.dumps(record))
    code, _, err = run(capsys, *adapt_words(files, tmp_path / "two", "--recipe", tmp_path / "r.json"))
    assert (code, "give it (--mask)" in err) == (2, True)


def test_results_are_never_written_over_what_they_are_made_from(capsys, files, tmp_path):
    own = tmp_path / "adapted.safetensors"
    own.write_bytes(files["generator"].read_bytes())
    for more in ([], ["--fresh"]):
        words = adapt_words({**files, "generator": own}, tmp_path, *more)
        code, _, err = run(capsys, *words)
        assert (code, "choose another --out" in err) == (2, True)
    assert own.read_bytes() == files["generator"].read_bytes()


@pytest.mark.slow
def test_other_seeds_of_a_finished_run_are_drawn(capsys, files, tmp_path):
    assert run(capsys, *adapt_words(files, tmp_path))[0] == 0
    before = (tmp_path / "grid.png").read_bytes()
    code, _, err = run(capsys, *adapt_words(files, tmp_path, "--seeds", "5", "--without-discriminator"))
    assert code == 0 and "adapt:" not in err and "was written with its discriminator" in err
    assert (tmp_path / "grid.png").read_bytes() != before


@pytest.mark.parametrize("words", [[], ["demo", "--target", "stained glass"], ["no.json"], ["."], ["a", "b"]])
def test_the_recipe_of_a_command_or_of_nothing(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "recipe", *words)
    if words[:1] == ["demo"]:
        assert json.loads(out)["aim"]["target"] == "demo:stained glass"
    else:
        assert code == 2 and err.count("\n") == 1


def test_what_is_doubtful_about_a_target_is_said_and_zoom_and_offsets_are_followed(capsys, files, tmp_path):
    first, second = Image.linear_gradient("L"), Image.radial_gradient("L")
    first.resize((90, 60)).save(tmp_path / "two.gif", save_all=True, append_images=[second.resize((90, 60))])
    words = ["search", "--generator", files["generator"], "--target", tmp_path / "two.gif", "--steps", 2]
    place = ["--zoom", 6, "--offset-x", -1, "--offset-y", 0.5, "--device", "cpu", "--out", tmp_path / "found"]
    code, _, err = run(capsys, *words, *place)
    assert code == 0 and "two.gif holds several pictures; the first is used" in err
    assert "10 x 10 px are used and enlarged 6.4 times for the generator's 64 px" in err
    with Image.open(tmp_path / "two.gif") as picture:
        wanted = frame(picture.convert("RGB"), 64, Frame("crop", 6, -1, 0.5))
    made = json.loads((tmp_path / "found" / "run.json").read_text())["recipe"]
    assert made["inputs"]["target"] == fingerprint({"target": wanted})
    assert (made["aim"]["zoom"], made["aim"]["offset_x"], made["aim"]["offset_y"]) == (6, -1, 0.5)
    code, _, err = run(capsys, *words, "--fit", "stretch", *place)
    assert code == 2 and "zoom, offset_x and offset_y belong to fit crop" in err


def test_a_target_that_is_cut_off_is_refused(capsys, files, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(files["target"].read_bytes()[:-200])
    words = adapt_words(files | {"target": cut}, tmp_path / "run")
    code, _, err = run(capsys, *words)
    assert code == 2 and "cut.png is damaged, truncated or not supported" in err
    assert not (tmp_path / "run").exists()
