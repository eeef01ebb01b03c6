"""Dictionaries: measured by finite differences, resumed, kept, read from files; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_clip import reading_clip
from tiny_networks import changed, tiny_bundle

from oneshot_core import saved_states
from oneshot_core.checkpoints import CheckpointError
from oneshot_core.editing import finite_differences as measuring
from oneshot_core.editing.clip_features import picture_features, to_eight_bit
from oneshot_core.editing.dictionary import Dictionary, all_rows
from oneshot_core.editing.dictionary_cache import cached_dictionary
from oneshot_core.editing.dictionary_files import (
    load_dictionary,
    load_statistics,
    load_styleclip_dictionary,
    save_dictionary,
    save_statistics,
)
from oneshot_core.editing.finite_differences import (
    DictionaryConfig,
    channel_row,
    measure_dictionary,
    moved_styles,
    sample_codes,
    state_file,
)
from oneshot_core.editing.statistics import style_statistics
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.latents import Latent
from oneshot_core.saved_states import StateError

BUNDLE, CLIP = tiny_bundle(32), reading_clip()
STATISTICS = style_statistics(BUNDLE, 200)
PLACES = ((0, 1), (0, 5), (2, 3), (5, 0), (8, 2), (9, 7))  # one channel or two of levels from 4 to 32 px
CONFIG = DictionaryConfig(images=3, channels=PLACES, batch_size=4)


class Stop(Exception):
    pass


def stopping(after: int):
    def progress(done: int, total: int) -> None:
        if done == after:
            raise Stop

    return progress


def measured(config: DictionaryConfig = CONFIG, **more) -> Dictionary:
    return measure_dictionary(BUNDLE, CLIP, config, STATISTICS, **more)


def same(one: Dictionary, two: Dictionary) -> bool:
    parts = ("rows", "styles", "channels", "rho", "effect")
    return all(torch.equal(getattr(one, part), getattr(two, part)) for part in parts)


# What is measured --------------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(style: int, channel: int, restore: bool = True) -> torch.Tensor:
    """A row from pictures that are drawn one by one, without any of the module's ways to save work."""
    generator, units = BUNDLE.generator, []
    for code in sample_codes(BUNDLE, CONFIG, STATISTICS):
        styles = [one.clone() for one in generator.affine(code[None])]
        for earlier in PLACES[: PLACES.index((style, channel))] if not restore else ():
            styles[earlier[0]][:, earlier[1]] = STATISTICS.mean[earlier[0]][earlier[1]]
        features = []
        for sign in (-1, 1):
            styles[style][:, channel] = (
                STATISTICS.mean[style][channel] + sign * 5 * STATISTICS.sigma[style][channel]
            )
            features.append(picture_features(CLIP, generator.render(styles, generator.constant_noise()))[0])
        units.append(F.normalize((features[1] - features[0]).double(), dim=0))
    return F.normalize(torch.stack(units).mean(dim=0), dim=0).float()


@pytest.mark.parametrize("restore", [True, False])
def test_rows_are_those_of_pictures_drawn_one_by_one(restore):
    told = []
    found = measured(replace(CONFIG, restore=restore), progress=lambda *now: told.append(now))
    assert told == [(number, len(PLACES)) for number in range(1, len(PLACES) + 1)]
    assert list(zip(found.styles.tolist(), found.channels.tolist(), strict=True)) == list(PLACES)
    for row, place in zip(found.rows, PLACES, strict=True):
        torch.testing.assert_close(row, by_hand(*place, restore), rtol=0, atol=2e-3)
    other = measured(replace(CONFIG, restore=not restore))
    assert torch.equal(found.rows[0], other.rows[0]) and not torch.allclose(found.rows[1:], other.rows[1:])
    assert ((found.rho > 0) & (found.rho <= 1 + 1e-6)).all() and (found.effect > 0).all()


def test_what_lies_before_a_layer_may_be_drawn_once_or_every_time(monkeypatch):
    once = measured()
    monkeypatch.setattr(measuring, "PREFIX_BYTES", 0)
    assert same(once, measured())


def test_a_row_of_features_made_by_hand():
    plus, minus = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    row, rho, effect = channel_row(minus, plus)
    torch.testing.assert_close(row, torch.full((2,), 0.5**0.5, dtype=torch.float64))
    assert rho == pytest.approx(0.5**0.5) and effect == 1
    row, rho, effect = channel_row(plus, plus)  # nothing changes: no direction, and no 0/0
    assert not row.any() and rho == effect == 0


def test_only_the_channel_moves():
    styles = BUNDLE.generator.affine(sample_codes(BUNDLE, CONFIG, STATISTICS))
    moved = moved_styles(styles, 3, 2, STATISTICS, 4.0)
    for index, (old, new) in enumerate(zip(styles, moved, strict=True)):
        differ = new != torch.cat([old, old])
        assert bool(differ.any()) == (index == 3) and not differ[:, [0, 1, 3]].any()
    low, high = moved[3][:, 2].chunk(2)
    mean, sigma = STATISTICS.mean[3][2], STATISTICS.sigma[3][2]
    torch.testing.assert_close(low.double(), (mean - 4 * sigma).expand(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(high.double(), (mean + 4 * sigma).expand(3), rtol=0, atol=1e-6)


def test_pictures_can_be_drawn_smaller():
    small = measured(DictionaryConfig(images=2, max_px=8))
    assert set(small.styles.tolist()) == {0, 2, 3}
    levels = []
    stage = measuring.PartialDrawing(1, 1, keeps=False)
    drawn = BUNDLE.generator.render(
        BUNDLE.generator.affine(BUNDLE.mean_latent[None]), None,
        lambda part, x, image, *rest: levels.append(1) or stage(part, x, image, *rest),
    )  # fmt: skip
    assert drawn.shape[-1] == 8 and len(levels) == 3
    with pytest.raises(ValueError, match="none of the layers is drawn at max_px 8"):
        measured(DictionaryConfig(styles=(5,), max_px=8))


def test_eight_bits_cut_off_as_the_published_program():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_eight_bit(values)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]
    assert not same(measured(), measured(replace(CONFIG, eight_bit=True)))


def test_classes_and_given_samples():
    bundle = tiny_bundle(16, c_dim=3)
    codes = sample_codes(bundle, DictionaryConfig(images=4), style_statistics(bundle, 20))
    assert codes.shape == (4, bundle.num_layers, 12)
    latent = Latent("w", BUNDLE.mean_latent[None])
    assert not same(measured(), measured(latent=latent))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"images": 0}, "images must be 1"), ({"sigmas": 0}, "sigmas"), ({"batch_size": 1}, "batch_size"),
     ({"styles": (0,), "channels": ((0, 0),)}, "not both"), ({"max_px": 2}, "max_px")],
)  # fmt: skip
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        DictionaryConfig(**settings)


@pytest.mark.parametrize(
    ("config", "said"),
    [(DictionaryConfig(styles=(11,)), "styles must be numbers of styles from 0 to 10"),
     (DictionaryConfig(channels=((0, 8),)), r"channel 8 of style 0 .* does not exist; it has 8"),
     (DictionaryConfig(channels=()), "channels is empty"),
     (DictionaryConfig(channels=((9, 0),), max_px=16), "finer than max_px 16")],
)  # fmt: skip
def test_channels_that_do_not_exist_are_refused_before_any_work(config, said):
    with pytest.raises(ValueError, match=said):
        measured(config, progress=stopping(1))


def test_statistics_of_another_generator_are_refused():
    with pytest.raises(ValueError, match="these statistics of"):
        measure_dictionary(tiny_bundle(16), CLIP, CONFIG, STATISTICS)


# Going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("after", [1, 4])
def test_a_stopped_measurement_goes_on_bit_for_bit(tmp_path, after, restore):
    config = replace(CONFIG, restore=restore)
    whole, path, told = measured(config), tmp_path / "state.safetensors", []
    with pytest.raises(Stop):
        measured(config, state=path, progress=stopping(after))
    again = measured(config, state=path, progress=lambda *now: told.append(now))
    assert same(again, whole) and told[0] == (after + 1, len(PLACES))
    assert same(measured(config, state=path, progress=stopping(1)), whole)  # all is there: nothing is drawn


def test_states_are_saved_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_states, "SAVE_SECONDS", -1.0)
    path, kept = tmp_path / "state.safetensors", []
    measured(state=path, progress=lambda *_: kept.append(path.is_file()))
    assert kept == [False, *[True] * (len(PLACES) - 1)] and state_file(path).previous.is_file()
    path.write_bytes(path.read_bytes()[:-9])  # damaged: the state before it serves
    told = []
    assert same(measured(state=path, progress=lambda *now: told.append(now)), measured())
    assert told == [(len(PLACES), len(PLACES))]


def test_a_state_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    measured(state=path)
    with pytest.raises(StateError, match=r"config\.images"):
        measured(replace(CONFIG, images=2), state=path)
    child = changed(BUNDLE, "const")
    with pytest.raises(StateError, match="generator"):
        measure_dictionary(child, CLIP, CONFIG, STATISTICS, state=path)


def test_a_dictionary_is_measured_once(tmp_path, monkeypatch):
    folders = KeptFolders(tmp_path / "kept")

    def get(config=CONFIG, **more):
        return cached_dictionary(folders, BUNDLE, CLIP, config, STATISTICS, **more)

    with pytest.raises(Stop):
        get(progress=stopping(2))
    told = []
    first = get(progress=lambda *now: told.append(now))
    assert told[0][0] == 3 and same(first, measured())
    assert same(get(progress=stopping(1)), first)
    (place,) = folders.root.iterdir()
    path = place / "dictionary.safetensors"
    assert sorted(one.name for one in place.iterdir()) == ["dictionary.safetensors", "used"]
    assert get(replace(CONFIG, batch_size=2), progress=stopping(1)).digest == first.digest
    get(replace(CONFIG, seed=1))
    assert len(list(folders.root.iterdir())) == 2
    path.write_bytes(b"damaged")
    assert same(get(), first) and path.with_name(f"{path.stem}.damaged.safetensors").is_file()
    with folders.claim(place.name), pytest.raises(Stop):  # another process is at it
        get(poll=lambda: stopping(0)(0, 0))


# Values and files --------------------------------------------------------------------------------------


def test_a_file_gives_the_same_dictionary(tmp_path):
    found = measured()
    path = save_dictionary(found, tmp_path / "d.safetensors")
    read = load_dictionary(path)
    assert same(read, found) and read.digest == found.digest and read.settings == found.settings
    assert (read.clip, read.clip_fingerprint, read.method) == ("custom", found.clip_fingerprint, found.method)
    assert load_statistics(path).digest == STATISTICS.digest
    half = load_dictionary(save_dictionary(found, tmp_path / "h.safetensors", half=True))
    torch.testing.assert_close(half.rows, found.rows, rtol=0, atol=1e-3)
    assert (tmp_path / "h.safetensors").stat().st_size < path.stat().st_size
    bare = replace(found, rho=None, effect=None)
    assert load_dictionary(save_dictionary(bare, path)).rho is None


def test_other_and_damaged_files_are_refused(tmp_path):
    path = save_statistics(STATISTICS, tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match="is no dictionary but statistics of style space"):
        load_dictionary(path)
    found = measured()
    object.__setattr__(found, "rows", found.rows * 2)
    with pytest.raises(CheckpointError, match="damaged dictionary .* length 1"):
        load_dictionary(save_dictionary(found, path))
    object.__setattr__(found, "channels", found.channels + 100)
    with pytest.raises(CheckpointError, match="a channel that its style does not have"):
        load_dictionary(save_dictionary(found, path))


def test_broken_dictionaries_are_refused():
    found = measured()
    for change, said in (
        ({"rows": found.rows[:0], "styles": found.styles[:0]}, "at least one row"),
        ({"styles": found.styles[:-1]}, "styles of a dictionary"),
        ({"styles": found.styles + 20}, "is of style 20"),
        ({"styles": found.styles * 0, "channels": found.channels * 0}, "two rows of one channel"),
        ({"rows": found.rows * float("nan")}, "not made of finite numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(found, **change)


def test_a_dictionary_knows_whom_it_fits():
    found = measured()
    found.check_fits(BUNDLE)
    found.check_fits(changed(BUNDLE, "affine.bias"))
    with pytest.raises(ValueError, match="not of the family of"):
        found.check_fits(tiny_bundle(32, seed=5))
    found.check_clip(CLIP)
    with pytest.raises(ValueError, match="was measured with custom, and custom is another"):
        replace(found, clip_fingerprint="0" * 64).check_clip(CLIP)
    assert found.summary().startswith("6 channels of 5 layers by finite differences, measured on ")


# StyleCLIP's files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [40, 56])  # some of the finest channels are left out, or none
def test_styleclips_rows_are_read(tmp_path, rows):
    values = torch.randn(rows, 16, generator=torch.Generator().manual_seed(2))
    values = F.normalize(values, dim=1)
    values[3] = float("nan")  # a channel that changes no picture
    np.save(tmp_path / "fs3.npy", values.numpy())
    found = load_styleclip_dictionary(tmp_path / "fs3.npy", STATISTICS, BUNDLE)
    styles, channels = all_rows(STATISTICS.widths)
    assert torch.equal(found.styles, styles[:rows]) and torch.equal(found.channels, channels[:rows])
    torch.testing.assert_close(found.rows, values.nan_to_num(0))
    assert found.rho is None and not found.rows[3].any()
    found.check_clip(CLIP)  # which one it was, the file does not say


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.zeros((57, 16), np.float32), "has 57 rows"), (np.zeros(5, np.float32), r"shape \[5\]"),
     (np.zeros((3, 4), np.int64), "shape"), (np.array([{}]), "Python objects")],
)  # fmt: skip
def test_other_arrays_are_refused(tmp_path, values, said):
    np.save(tmp_path / "fs3.npy", values)
    with pytest.raises(CheckpointError, match=said):
        load_styleclip_dictionary(tmp_path / "fs3.npy", STATISTICS, BUNDLE)
