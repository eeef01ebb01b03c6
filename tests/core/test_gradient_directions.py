"""Gradients of style space: against differences in float64, halves, batches, stopping, notes, refusals."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from stand_ins import StandInClip, tiny_bundle

from oneshot_core.checkpoints import GeneratorBundle
from oneshot_core.copies import private_copy
from oneshot_core.editing import gradient_dictionary
from oneshot_core.editing.global_directions import Selection, text_change
from oneshot_core.editing.gradient_dictionary import (
    GradientDictionaryConfig,
    measure_gradient_dictionary,
    orthonormal_basis,
)
from oneshot_core.editing.gradient_directions import (
    SCORES,
    GradientConfig,
    chosen_channels,
    find_gradients,
    shortlist,
    text_direction,
)
from oneshot_core.editing.statistics import StyleStatistics, style_statistics
from oneshot_core.editing.style_gradients import (
    StyleGradients,
    StyleView,
    drawn_px,
    rank_correlation,
    take_gradients,
)
from oneshot_core.edits import edited_styles
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.latents import truncate, z_from_seeds
from oneshot_core.saved_states import StateError
from oneshot_core.tensors import seeded

SIZE = 32
TEXT, NEUTRAL = "a face with a hat", "a face"
FEW = GradientConfig(samples=8, most_samples=8, agreement=-1.0, reach=0.0, batch_size=3)


class ReadingClip(StandInClip):
    """A stand-in that reads text: each one is a random direction."""

    name = "reading"

    def check_text(self, text: str) -> None:
        if "unknown" in text:
            raise ValueError("unknown is no word")

    def text_notes(self, text: str) -> list[str]:
        return [f"read {text}"] if "note" in text else []

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        drawn = [torch.randn(12, generator=seeded(0, 0, text)) for text in texts]
        return F.normalize(torch.stack(drawn), dim=1)


@pytest.fixture(scope="module")
def bundle() -> GeneratorBundle:
    return tiny_bundle(SIZE)


@pytest.fixture(scope="module")
def statistics(bundle) -> StyleStatistics:
    return style_statistics(bundle, count=500)


def in_double(bundle: GeneratorBundle) -> GeneratorBundle:
    return dataclasses.replace(bundle, generator=private_copy(bundle.generator).double())


def measured_gradients(view, directions, seeds, batch_size, shift=None) -> torch.Tensor:
    """Gradients [M, N, K] of all samples."""
    found = []
    take_gradients(view, directions, seeds, batch_size, found.append, shift)
    return torch.cat(found, dim=1)


def change_of_texts() -> torch.Tensor:
    return text_change(ReadingClip(), TEXT, NEUTRAL)


def find(bundle, statistics, config=FEW, text=TEXT, neutral=NEUTRAL, **settings):
    return text_direction(bundle, ReadingClip(), text, neutral, config, statistics, **settings)


def test_gradients_are_central_differences(bundle, statistics):
    """In float64, on random channels; steps so small that hardly one crosses a kink of a leaky ReLU."""
    view = StyleView(in_double(bundle), ReadingClip(), statistics)
    assert view.max_px == 16 and view.count == 8 < len(statistics.widths)
    styles, change = view.sampled(range(3)), change_of_texts().double()
    (found,) = view.gradients(styles, change[None])
    assert found.dtype == torch.float64 and found.shape == (3, sum(statistics.widths[:8]))
    for place in torch.randperm(found.shape[1], generator=seeded(0, 0, "places"))[:20].tolist():
        style, channel = (int(part[place]) for part in view.places)
        step = 1e-5 * float(statistics.sigma[style][channel])
        agreed = []
        for sign in (-1, 1):
            moved = [one.clone() for one in styles]
            moved[style][:, channel] += sign * step
            agreed.append(view.features(tuple(moved)) @ change)
        secant = (agreed[1] - agreed[0]) / 2e-5
        assert float((secant - found[:, place]).norm()) < 1e-3 * float(found[:, place].norm())


def test_the_length_of_a_feature_does_not_count(bundle, statistics):
    """Normalised in the graph: a direction along the feature itself has no gradient."""
    view = StyleView(in_double(bundle), ReadingClip(), statistics)
    styles = view.sampled([0])
    own = view.features(styles).detach()
    other = F.normalize(torch.randn(1, 12, generator=seeded(0, 0, "other")).double(), dim=1)
    found = view.gradients(styles, torch.cat([own, other]))
    assert float(found[0].abs().max()) < 1e-10 * float(found[1].abs().max())


@pytest.mark.slow
def test_probes_measure_how_far_the_feature_moves(bundle, statistics):
    view = StyleView(bundle, ReadingClip(), statistics)
    config = dataclasses.replace(FEW, probes=400)
    lengths = find_gradients(view, change_of_texts(), config).gradients.lengths
    whole = measured_gradients(view, torch.eye(12), range(8), 8).norm(dim=0)
    # The relative error of a length from k probes is sqrt(1 / 2k), 3.5 % here.
    assert float(((lengths / whole).log().square().mean()).sqrt()) < 0.1


def test_results_repeat_bit_for_bit_and_hardly_depend_on_the_batch(bundle, statistics):
    one, two = (find(bundle, statistics).direction for _ in range(2))
    assert all(torch.equal(one.vectors[style], two.vectors[style]) for style in one.vectors)
    view, change = StyleView(bundle, ReadingClip(), statistics), change_of_texts()[None]
    alone, together = (measured_gradients(view, change, range(8), size) for size in (1, 8))
    assert float((alone - together).abs().max()) < 1e-4 * float(alone.abs().max())


def test_a_direction_raises_the_agreement_with_the_texts(bundle, statistics):
    found = find(bundle, statistics)
    view, change = StyleView(bundle, ReadingClip(), statistics), change_of_texts()
    codes = bundle.generator.map(z_from_seeds(range(8), 5))
    styles = bundle.generator.affine(truncate(codes, bundle.mean_latent, statistics.psi))
    before, after = (
        view.features(one) @ change for one in (styles, edited_styles(styles, [found.direction.at(0.1)]))
    )
    assert float((after - before).mean()) > 0
    assert found.direction.family == bundle.family and found.direction.method == found.method == "gradient"
    assert (found.direction.text, found.direction.neutral_text) == (TEXT, NEUTRAL)
    assert (found.samples, found.forwards, found.backwards) == (8, 8, 8)


def test_strength_counts_sigmas_of_the_strongest_channel(bundle, statistics):
    config = dataclasses.replace(FEW, selection=Selection(channels=5))
    direction = find(bundle, statistics, config).direction
    moved = [vector / statistics.sigma[style] for style, vector in direction.vectors.items()]
    assert direction.channels == 5
    assert float(torch.cat(moved).abs().max()) == pytest.approx(1.0, rel=1e-5)


def gradients_of(values: list[list[float]], lengths: list[list[float]] | None = None) -> StyleGradients:
    count = len(values[0])
    statistics = StyleStatistics((torch.zeros(count),), (torch.ones(count),))
    places = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    return StyleGradients(
        torch.tensor(values), *places, statistics, None if lengths is None else torch.tensor(lengths)
    )


def test_scores():
    found = gradients_of([[1.0, 3.0, 0.0], [1.0, -1.0, 0.0]], [[2.0, 3.0, 1.0], [1.0, 1.0, 1.0]])
    assert found.effect.tolist() == [1.0, 1.0, 0.0]
    assert found.consistency.tolist() == pytest.approx([1.0, 1 / 5**0.5, 0.0])
    assert found.cosine.tolist() == [0.75, 0.0, 0.0]
    ranked = SCORES["consistency x effect"](found)
    assert ranked.tolist() == pytest.approx([1.0, 1 / 5**0.5, 0.0])
    # Ranked by the score, moved by the effect.
    found = gradients_of([[0.5, 3.0], [0.5, -1.0], [0.5, 2.0]])
    assert chosen_channels(found, "consistency", Selection(channels=1)).tolist() == [1.0, 0.0]
    assert chosen_channels(found, "effect", Selection(channels=1)).tolist() == [0.0, 1.0]
    assert chosen_channels(found, "consistency", Selection(channels=2)).tolist() == pytest.approx(
        [0.375, 1.0]
    )
    with pytest.raises(ValueError, match="measure the gradients with probes"):
        chosen_channels(found, "cosine")


def test_rank_correlation():
    one = torch.tensor([3.0, 1.0, 2.0, 2.0])
    assert rank_correlation(one, one.exp()) == pytest.approx(1.0)
    assert rank_correlation(one, -one) == pytest.approx(-1.0)
    assert rank_correlation(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])) == (
        pytest.approx(0.8)
    )
    assert rank_correlation(one, torch.zeros(4)) == 0.0


def test_samples_are_doubled_until_halves_agree(bundle, statistics):
    told = []
    config = GradientConfig(samples=4, most_samples=12, agreement=1.0, reach=0.0, batch_size=4)
    found = find(bundle, statistics, config, progress=lambda *now: told.append(now))
    assert told == [(4, 4), (8, 8), (12, 12)] and found.samples == 12
    assert found.agreement < 1
    assert any(
        "two halves of 12 samples" in note and f"{found.agreement:.2f}" in note for note in found.notes
    )
    easy = find(bundle, statistics, dataclasses.replace(config, agreement=-1.0))
    assert easy.samples == 4 and easy.notes == ()
    assert f"; 4 samples, whose halves agree to {easy.agreement:.2f}; threshold " in easy.summary()
    same = dataclasses.replace(config, agreement=-1.0, selection=Selection(beta=easy.beta))
    assert find(bundle, statistics, same).direction.channels == easy.direction.channels
    # A limit below the first look is kept.
    assert find(bundle, statistics, dataclasses.replace(config, most_samples=3)).samples == 3
    # What was looked at is kept: more samples in two steps are those of one.
    view, change = StyleView(bundle, ReadingClip(), statistics), change_of_texts()
    direct = measured_gradients(view, change[None], range(12), 4)[0]
    assert torch.equal(find_gradients(view, change, config).gradients.values, direct)


def test_what_clip_notes_of_a_text_is_told(bundle, statistics):
    assert find(bundle, statistics, text="a note").notes == ("read a note",)


def test_a_callback_stops_it(bundle, statistics):
    class Stop(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done >= 6:
            raise Stop

    with pytest.raises(Stop):
        find(bundle, statistics, progress=stop)


def test_the_gradients_that_count_are_those_half_way(bundle, statistics):
    told = []
    config = GradientConfig(8, 16, agreement=1.0, reach=3.0, batch_size=8, selection=Selection(channels=20))
    view, change = StyleView(bundle, ReadingClip(), statistics), change_of_texts()
    first = find_gradients(view, change, FEW).gradients
    shift = 1.5 * chosen_channels(first, config.score, config.selection)
    (there,) = measured_gradients(view, change[None], range(16), 8, shift=shift)
    wanted = chosen_channels(dataclasses.replace(first, values=there), config.score, config.selection)
    found = find(bundle, statistics, config, progress=lambda *now: told.append(now))
    assert told == [(8, 8), (16, 16), (24, 24)]
    assert (found.samples, found.forwards, found.backwards) == (16, 24, 24)
    for style, vector in found.direction.vectors.items():
        own = wanted[view.places[0] == style] * statistics.sigma[style]
        torch.testing.assert_close(vector, own.float(), atol=1e-4, rtol=1e-3)
    plain = find(bundle, statistics, dataclasses.replace(config, reach=0.0)).direction
    assert plain.vectors.keys() != found.direction.vectors.keys() or any(
        not torch.equal(plain.vectors[style], vector) for style, vector in found.direction.vectors.items()
    )


class Stopped(Exception):
    pass


def stopping(at: int):
    def progress(done: int, _: int) -> None:
        if done >= at:
            raise Stopped

    return progress


# Looks at 4 samples, then at 4, 8 and 10 shifted ones: no two halves agree wholly.
LONG = GradientConfig(
    samples=4, most_samples=10, agreement=1.0, reach=4.0, batch_size=3, selection=Selection(channels=6)
)


@pytest.mark.parametrize("at", [3, 4, 7, 8, 11, 14])
def test_stopped_work_goes_on_with_the_same_bits_and_what_is_done_stays(bundle, statistics, tmp_path, at):
    whole, kept, told = find(bundle, statistics, LONG), KeptFolders(tmp_path), []
    with pytest.raises(Stopped):
        find(bundle, statistics, LONG, progress=stopping(at), kept=kept)
    again = find(bundle, statistics, LONG, progress=lambda done, _: told.append(done), kept=kept)
    assert (not told if at == 14 else told[0] > at) and again.samples == whole.samples == 10
    assert again.agreement == whole.agreement
    assert again.direction.vectors.keys() == whole.direction.vectors.keys()
    assert all(torch.equal(again.direction.vectors[k], v) for k, v in whole.direction.vectors.items())
    find(bundle, statistics, LONG, progress=stopping(0), kept=kept)  # nothing is looked at again
    with pytest.raises(Stopped):  # of other texts it is
        find(bundle, statistics, LONG, text="a face with a beard", progress=stopping(0), kept=kept)


def test_damaged_samples_are_set_aside(bundle, statistics, tmp_path):
    kept = KeptFolders(tmp_path)
    whole = find(bundle, statistics, LONG, kept=kept).direction
    (state,) = tmp_path.glob("*/look.safetensors")
    state.write_bytes(state.read_bytes()[:-64])
    told = []
    again = find(bundle, statistics, LONG, progress=lambda done, _: told.append(done), kept=kept).direction
    assert told[0] == 4 + 3  # the first look was sound
    assert all(torch.equal(again.vectors[k], v) for k, v in whole.vectors.items())
    assert list(tmp_path.glob("*/look.damaged*"))


def test_other_truncation_of_the_samples_is_another_work(bundle, statistics, tmp_path):
    kept = KeptFolders(tmp_path)
    find(bundle, statistics, LONG, kept=kept)
    with pytest.raises(Stopped):
        find(bundle, dataclasses.replace(statistics, psi=0.2), LONG, progress=stopping(0), kept=kept)


def test_a_signal_amid_a_batch_is_counted_wholly_or_not_at_all(bundle, statistics, tmp_path, monkeypatch):
    """Wherever in the sums it comes; what was saved then leads to what an unstopped work gives."""
    config, state = GradientDictionaryConfig(samples=4, batch_size=1), tmp_path / "state.safetensors"
    measure = partial(measure_gradient_dictionary, bundle, ReadingClip(), config, statistics)
    whole, code = measure(), gradient_dictionary._Tangents.run.__code__
    (taken,) = [one for one in code.co_consts if getattr(one, "co_name", "") == "taken"]
    stopped = 0
    for line in sorted({line for _, _, line in taken.co_lines() if line}):
        calls = 0

        def trace(frame, event, _, line=line):
            nonlocal calls
            if frame.f_code is taken and event == "line" and frame.f_lineno == line:
                calls += 1
                if calls == 2:
                    raise KeyboardInterrupt
            return trace if frame.f_code is taken else None

        sys.settrace(trace)
        try:
            measure(state=state)
        except KeyboardInterrupt:
            stopped += 1
        finally:
            sys.settrace(None)
        assert measure(state=state).digest == whole.digest, line
        state.unlink()
    assert stopped > 3


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_stopped_dictionary_by_gradients_goes_on(bundle, statistics, tmp_path, at):
    config, state = GradientDictionaryConfig(samples=6, batch_size=1), tmp_path / "state.safetensors"
    measure = partial(measure_gradient_dictionary, bundle, ReadingClip(), config, statistics)
    whole, told = measure(), []
    with pytest.raises(Stopped):
        measure(state=state, progress=stopping(at))
    again = measure(state=state, progress=lambda done, _: told.append(done))
    assert told == list(range(at + 1, 7)) and again.digest == whole.digest
    with pytest.raises(StateError, match="seed differ"):
        measure_gradient_dictionary(
            bundle, ReadingClip(), dataclasses.replace(config, seed=1), statistics, state=state
        )


def test_layers_limit_a_direction_and_a_shortlist(bundle, statistics):
    config = dataclasses.replace(FEW, selection=Selection(channels=9, layers=(2, 3)))
    assert set(find(bundle, statistics, config).direction.vectors) <= {2, 3}
    view = StyleView(bundle, ReadingClip(), statistics)
    found = find_gradients(view, change_of_texts(), FEW).gradients
    places = shortlist(found, 9, config.selection)
    assert len(places) == 9 and {style for style, _ in places} <= {2, 3}
    assert len(set(places)) == 9


def test_a_dictionary_by_gradients_holds_the_tangents(bundle, statistics):
    config = GradientDictionaryConfig(samples=6, seed=2, batch_size=4)
    found = measure_gradient_dictionary(bundle, ReadingClip(), config, statistics)
    view = StyleView(bundle, ReadingClip(), statistics)
    tangents = measured_gradients(view, torch.eye(12), range(2, 8), 3).double()  # [D, N, K]
    kept = torch.tensor([int(style) % 3 != 1 for style in view.places[0]])
    size = tangents.norm(dim=0)
    mean = (tangents / size).mean(dim=1)[:, kept]
    torch.testing.assert_close(found.rows.T, F.normalize(mean, dim=0).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.rho, mean.norm(dim=0).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.effect, size.mean(dim=0)[kept].float(), atol=1e-6, rtol=1e-3)
    assert torch.equal(found.styles, view.places[0][kept]) and found.method == "gradients"
    # A rotated basis sees the same; part of one sees the part.
    turned = torch.linalg.qr(torch.randn(12, 12, generator=seeded(0, 0, "turn"))).Q
    again = measure_gradient_dictionary(bundle, ReadingClip(), config, statistics, basis=turned)
    torch.testing.assert_close(again.rows, found.rows, atol=1e-4, rtol=0)
    part = measure_gradient_dictionary(bundle, ReadingClip(), config, statistics, basis=torch.eye(12)[:3])
    assert not part.rows[:, 3:].any() and part.settings != found.settings


def test_a_basis_of_changes():
    changes = torch.randn(5, 12, generator=seeded(0, 0, "changes"))
    basis = orthonormal_basis(changes, 3)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
    assert orthonormal_basis(list(changes), 5).shape == (5, 12)
    with pytest.raises(ValueError, match="count must be 1 to 5"):
        orthonormal_basis(changes, 6)
    with pytest.raises(ValueError, match="span fewer than 2"):
        orthonormal_basis(torch.ones(3, 12), 2)


def test_pictures_are_drawn_no_larger_than_clip_reads(bundle):
    clip = ReadingClip()
    for side, drawn in ((3, 4), (16, 16), (17, 32), (224, 32)):
        clip.preprocess.image_size = side
        assert drawn_px(bundle.generator, clip) == drawn


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"samples": 1}, "samples must be at least 2"),
        ({"most_samples": 1}, "most_samples 2 to 4096"),
        ({"most_samples": 5000}, "most_samples 2 to 4096"),
        ({"agreement": 1.5}, "agreement must be a number from -1 to 1"),
        ({"score": "size"}, "score must be one of consistency"),
        ({"score": "cosine"}, "needs probes"),
        ({"probes": -1}, "probes"),
        ({"batch_size": 0}, "batch_size"),
        ({"reach": -1.0}, "reach must be"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(ValueError, match=told):
        GradientConfig(**settings)


def test_refusals(bundle, statistics, monkeypatch):
    with pytest.raises(ValueError, match="let them differ"):
        find(bundle, statistics, neutral=TEXT)
    with pytest.raises(ValueError, match="the text is empty"):
        find(bundle, statistics, text=" ")
    with pytest.raises(ValueError, match="the name of a direction must be at most 2000"):
        find(bundle, statistics, name="a" * 2001, progress=stopping(0))
    with pytest.raises(ValueError, match="unknown is no word"):
        find(bundle, statistics, text="unknown")
    with pytest.raises(ValueError, match="do not fit"):
        find(tiny_bundle(64), statistics)
    spoilt = dataclasses.replace(bundle, generator=private_copy(bundle.generator))
    spoilt.generator.convs[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        find(spoilt, statistics)
    with pytest.raises(ValueError, match="samples must be 1"):
        GradientDictionaryConfig(samples=0)
    for layers, message in (
        ((40,), "styles from 0 to 10, got 40"),
        ((9, 10), "none of these layers is drawn"),
    ):
        selection = Selection(layers=layers)
        with pytest.raises(ValueError, match=message):  # before any picture
            find(bundle, statistics, dataclasses.replace(FEW, selection=selection), progress=stopping(0))
    dictionary = GradientDictionaryConfig(samples=2, styles=(8,))
    with pytest.raises(ValueError, match="is drawn at 16 px"):
        measure_gradient_dictionary(bundle, ReadingClip(), dictionary, statistics)
    with pytest.raises(ValueError, match="orthogonal"):
        measure_gradient_dictionary(bundle, ReadingClip(), None, statistics, basis=torch.ones(2, 12))


def test_too_large_a_step_is_refused_before_any_work(bundle, statistics, monkeypatch):
    from tiny_clip import reading_clip

    monkeypatch.setattr("oneshot_core.memory.available_bytes", lambda: 1000)
    with pytest.raises(ValueError, match="lower batch_size"):
        text_direction(bundle, reading_clip(), "a sketch", "a photo", None, statistics)


def test_inference_mode_makes_no_difference(bundle, statistics):
    plain = find(bundle, statistics).direction
    with torch.inference_mode():
        inside = find(bundle, statistics).direction
    assert all(torch.equal(plain.vectors[style], inside.vectors[style]) for style in plain.vectors)
    assert not any(vector.is_inference() for vector in inside.vectors.values())
