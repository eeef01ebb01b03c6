"""The verb invert, and encoders kept by the verb convert."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from command_words import run
from tiny_networks import tiny_bundle

from oneshot_core.checkpoints import load, save
from oneshot_core.commands import following
from oneshot_core.features import identity
from oneshot_core.features.identity import ArcFace
from oneshot_core.inversion import E4eEncoder, encode_pictures, load_e4e, save_e4e
from oneshot_core.latent_files import load_latent
from oneshot_core.pictures import load_picture, save_png
from oneshot_core.quad_files import save_quad
from oneshot_core.quads import Quad
from oneshot_core.sampling import random_latents, sample

WIDTHS = (4, 5, 6, 12)  # the last is the tiny generator's


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator, two pictures of it, one with its quad beside it, and an encoder."""
    place, source = tmp_path_factory.mktemp("invert"), tiny_bundle(16)
    save(source, place / "source.safetensors")
    for name, image in zip(
        ("me", "you"), sample(source, random_latents(source, [3, 8])).split(1), strict=True
    ):
        save_png(image, place / f"{name}.png")
    save_quad(Quad.square(4, 5, 30, 64, 48), place / "me.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = E4eEncoder(source.num_layers, WIDTHS).eval()
    encoder.mean_latent = source.mean_latent.expand(source.num_layers, -1).clone()
    save_e4e(encoder, place / "e4e.safetensors", "float32")
    return place


def invert(folder, capsys, out, *words, pictures=("me",)):
    files = [folder / f"{name}.png" for name in pictures]
    common = ("--generator", folder / "source.safetensors", "--out", out, "--lpips", "demo", "--offline")
    return run(capsys, "invert", *files, *common, "--device", "cpu", "--threads", 1, "--quiet", *words)


@pytest.mark.parametrize(
    ("words", "space", "terms"),
    [
        ((), "w+", {"perceptual", "pixel", "prior"}),
        (("--method", "nvidia"), "w", {"perceptual", "noise"}),
        (("--method", "rosinality", "--space", "w+"), "w+", {"perceptual", "noise"}),
    ],
    ids=["ii2s", "nvidia", "rosinality"],
)
def test_pictures_are_inverted(folder, capsys, tmp_path, words, space, terms):
    code, out, err = invert(folder, capsys, tmp_path, *words, "--steps", 2, "--json", pictures=("me", "you"))
    assert code == 0, err
    told, latent = json.loads(out), load_latent(tmp_path / "latents.safetensors")
    assert (told["space"], latent.space, len(latent.values)) == (space, space, 2)
    assert set(told["losses"]) == terms and told["settings"]["steps"] == 2
    assert set(told["mean_square_error"]) == {"me.png", "you.png"}
    source = load(folder / "source.safetensors")
    assert latent.family == source.family
    drawn = sample(source, latent).clamp(-1, 1)
    for index, name in enumerate(("me", "you")):
        written = load_picture(tmp_path / f"{name}.png", 16)
        assert float((written - drawn[index]).abs().max()) < 0.01
    for name in ("comparison.png", "losses.png"):
        assert (tmp_path / name).is_file()
    quads = latent.origin["quads"]
    assert Quad.of(quads[0]) == Quad.square(4, 5, 30, 64, 48) and quads[1] is None


def test_a_photo_is_cut_by_its_quad(folder, capsys, tmp_path):
    photo = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    save_png(photo, tmp_path / "photo.png")
    words = ("--quad", folder / "me.json", "--steps", 1)
    assert invert(tmp_path, capsys, tmp_path / "x", *words)[0] == 2  # there is no me.png in that folder
    files = ("--generator", folder / "source.safetensors", "--lpips", "demo", "--offline", "--device", "cpu")
    for name, more in (("cut", words), ("whole", words[2:])):
        out = tmp_path / name
        assert run(capsys, "invert", tmp_path / "photo.png", "--out", out, *files, *more)[0] == 0
    cut, whole = (load_latent(tmp_path / name / "latents.safetensors") for name in ("cut", "whole"))
    assert Quad.of(cut.origin["quads"][0]).side == 30 and "quads" not in whole.origin
    assert not torch.equal(cut.values, whole.values)
    code, _, err = invert(folder, capsys, tmp_path / "x", *words, pictures=("me", "you"))
    assert code == 2 and "--quad belongs to one photo" in err


@pytest.mark.slow
def test_an_encoder_alone_and_refined(folder, capsys, tmp_path):
    encoder = ("--e4e", folder / "e4e.safetensors")
    code, out, err = invert(folder, capsys, tmp_path / "alone", *encoder, "--json")
    assert code == 0, err
    assert json.loads(out)["settings"] is None and not (tmp_path / "alone" / "losses.png").exists()
    source = load(folder / "source.safetensors")
    picture = load_picture(folder / "me.png", 16)
    expected = encode_pictures(source, load_e4e(folder / "e4e.safetensors"), picture)
    found = load_latent(tmp_path / "alone" / "latents.safetensors")
    assert torch.equal(found.values, expected.values) and "quads" in found.origin
    code, out, _ = invert(folder, capsys, tmp_path / "refined", *encoder, "--steps", 2, "--json")
    told = json.loads(out)
    assert code == 0 and (told["settings"]["steps"], told["settings"]["noise"]) == (2, "stored")
    refined = load_latent(tmp_path / "refined" / "latents.safetensors")
    assert 0 < float((refined.values - found.values).abs().max()) < 0.021
    words = (*encoder, "--method", "nvidia", "--steps", 1)  # whose first step has rate 0
    assert invert(folder, capsys, tmp_path / "projected", *words)[0] == 0
    projected = load_latent(tmp_path / "projected" / "latents.safetensors")
    assert torch.equal(projected.values, found.values)


def test_what_lies_out_of_range_is_told(folder, capsys, tmp_path):
    words = ("--learning-rate", 50, "--prior", 0, "--steps", 3)
    code, _, err = invert(folder, capsys, tmp_path, *words)
    assert code == 0 and "the code lies out of range" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "e4e"), "--method e4e needs the encoder's file"),
        (("--e4e", "e4e.safetensors", "--prior", "1"), "are for an optimisation; give --steps too"),
        (
            ("--e4e", "e4e.safetensors", "--method", "nvidia", "--space", "w"),
            "--space w cannot start from",
        ),
        (("--e4e", "me.png"), "give e4e's file"),
        (("--steps", "0"), "--steps must be at least 1"),
        (("--steps", "-1"), "must be at least 1"),
        (("--learning-rate", "nan"), "argument --learning-rate"),
        (("--method", "magic"), "invalid choice"),
    ],
    ids=range(8),
)
def test_what_cannot_be_done_is_refused(folder, capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(folder)
    code, _, err = invert(folder, capsys, tmp_path / "out", *words)
    assert code == 2 and said in err
    assert not list(tmp_path.iterdir())


def test_results_never_replace_a_picture(folder, capsys, tmp_path):
    code, _, err = invert(folder, capsys, folder, "--steps", 1)
    assert code == 2 and "choose another --out" in err
    code, _, err = invert(folder, capsys, tmp_path, pictures=("me", "me"))
    assert code == 2 and "several pictures are called me" in err


def test_encoders_are_kept_by_convert(folder, capsys, tmp_path, monkeypatch):
    code, out, _ = run(
        capsys,
        "convert",
        folder / "e4e.safetensors",
        tmp_path / "e4e.safetensors",
        "--encoder",
        "--dtype",
        "float16",
    )
    assert code == 0 and "e4e encoder, float16" in out
    assert load_e4e(tmp_path / "e4e.safetensors").rows == 6
    monkeypatch.setattr(identity, "ArcFace", lambda: ArcFace(WIDTHS))
    torch.save(ArcFace(WIDTHS).state_dict(), tmp_path / "model_ir_se50.pth")
    words = ("convert", tmp_path / "model_ir_se50.pth", tmp_path / "face.safetensors", "--encoder", "--json")
    code, out, _ = run(capsys, *words)
    assert code == 0 and json.loads(out)["kind"] == "ArcFace (IR-SE50)"
    assert identity.load_arcface(tmp_path / "face.safetensors")(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    for name, what in (("e4e", "an e4e encoder"), ("face", "a face recogniser")):
        code, out, _ = run(capsys, "info", tmp_path / f"{name}.safetensors")
        assert code == 0 and what in out
    for words, said in (
        ((folder / "source.safetensors", tmp_path / "a.safetensors"), "no e4e encoder"),
        ((folder / "e4e.safetensors", tmp_path / "a.pt"), "must end in .safetensors"),
        (
            (folder / "e4e.safetensors", tmp_path / "a.safetensors", "--without-discriminator"),
            "belong to generators",
        ),
    ):
        code, _, err = run(capsys, "convert", *words, "--encoder")
        assert code == 2 and said in err and not (tmp_path / "a.safetensors").exists()


def test_a_stopped_inversion_goes_on_and_leaves_nothing_behind(folder, capsys, tmp_path, monkeypatch):
    words = ("--steps", 6, "--json")
    pictures = ("me", "you")
    assert invert(folder, capsys, tmp_path / "whole", *words, pictures=pictures)[0] == 0
    steps = list[int]()
    update = following.ProgressBar.update

    def stopping(bar, done, *rest):
        steps.append(done)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        update(bar, done, *rest)

    monkeypatch.setattr(following.ProgressBar, "update", stopping)
    code, _, err = invert(folder, capsys, tmp_path / "two", *words, pictures=pictures)
    assert code == 143 and "the inversion was stopped; the same command goes on from there" in err
    assert [path.name for path in (tmp_path / "two").iterdir()] == [following.UNFINISHED]
    assert invert(folder, capsys, tmp_path / "two", *words, pictures=pictures)[0] == 0
    assert steps == list(range(1, 13))
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "two")]
    assert names[0] == names[1] and following.UNFINISHED not in names[0]
    whole, two = (load_latent(tmp_path / name / "latents.safetensors") for name in ("whole", "two"))
    assert torch.equal(whole.values, two.values)
