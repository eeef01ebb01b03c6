"""Methods of text directions by name: the hybrid looks at what gradients found, a dictionary is asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from stand_ins import StandInClip, tiny_bundle

from oneshot_core.editing import text_methods
from oneshot_core.editing.finite_differences import DictionaryConfig, measure_dictionary
from oneshot_core.editing.global_directions import Selection, find_direction, relevance, text_change
from oneshot_core.editing.gradient_dictionary import GradientDictionaryConfig, measure_gradient_dictionary
from oneshot_core.editing.gradient_directions import GradientConfig, text_direction
from oneshot_core.editing.statistics import style_statistics
from oneshot_core.editing.text_methods import (
    DEFAULT_METHOD,
    METHODS,
    TextRequest,
    find_text_direction,
    select_secants,
)
from oneshot_core.kept_folders import KeptFolders
from oneshot_core.tensors import seeded

TEXT, NEUTRAL = "a face with a hat", "a face"
CONFIG = GradientConfig(
    samples=4, most_samples=4, agreement=-1.0, reach=0.0, batch_size=4, selection=Selection(channels=6)
)


class ReadingClip(StandInClip):
    """A stand-in that reads text: each one is a random direction."""

    name = "reading"

    def check_text(self, text: str) -> None:
        """It knows all words, but only bare texts."""
        if "photo" in text or len(text) > 40:
            raise ValueError("too long")

    def text_notes(self, text: str) -> list[str]:
        """It reads all of them."""
        return []

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        drawn = [torch.randn(12, generator=seeded(0, 0, text)) for text in texts]
        return F.normalize(torch.stack(drawn), dim=1)


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle(16)


@pytest.fixture(scope="module")
def request_(bundle):
    return TextRequest(TEXT, NEUTRAL, CONFIG, style_statistics(bundle, count=500), name="hat")


def test_the_default_is_one_of_them_and_needs_nothing_else(bundle, request_):
    assert not METHODS[DEFAULT_METHOD].needs_dictionary
    found = find_text_direction("gradient", bundle, ReadingClip(), request_)
    direct = text_direction(bundle, ReadingClip(), TEXT, NEUTRAL, CONFIG, request_.statistics, name="hat")
    assert found.direction.name == "hat" and found.method == "gradient"
    assert all(torch.equal(direct.direction.vectors[k], v) for k, v in found.direction.vectors.items())


def test_the_hybrid_measures_differences_of_the_shortlist(bundle, request_, monkeypatch):
    monkeypatch.setattr(text_methods, "SHORTLIST", 10)
    monkeypatch.setattr(text_methods, "DIFFERENCE_IMAGES", 3)
    told = []
    found = find_text_direction(
        "hybrid", bundle, ReadingClip(), request_, progress=lambda *now: told.append(now)
    )
    assert (found.samples, found.forwards, found.backwards) == (4, 4 + 2 * 3 * 10, 4)
    assert [done for done, _ in told] == [4, *range(5, 15)] and {total for _, total in told} == {14}
    assert found.direction.method == "hybrid" and 1 <= found.direction.channels <= 6
    # Each channel moves as the whole dictionary by differences says.
    statistics = request_.statistics
    whole = measure_dictionary(
        bundle, ReadingClip(), DictionaryConfig(3, styles=tuple(range(len(statistics.widths))), batch_size=4),
        statistics,
    )  # fmt: skip
    values = relevance(whole, text_change(ReadingClip(), TEXT, NEUTRAL)) * whole.effect.double()
    moved = {
        (style, channel): float(vector[channel] / statistics.sigma[style][channel])
        for style, vector in found.direction.vectors.items()
        for channel in vector.nonzero().flatten().tolist()
    }
    rows = {
        place: row
        for row, place in enumerate(zip(whole.styles.tolist(), whole.channels.tolist(), strict=True))
    }
    wanted = {place: float(values[rows[place]]) for place in moved}
    largest = max(abs(value) for value in wanted.values())
    for place, amplitude in moved.items():
        assert amplitude == pytest.approx(wanted[place] / largest, abs=1e-3)


def test_a_hybrid_takes_as_many_channels_as_are_asked_for(bundle, request_, monkeypatch):
    monkeypatch.setattr(text_methods, "SHORTLIST", 2)
    monkeypatch.setattr(text_methods, "DIFFERENCE_IMAGES", 1)
    found = find_text_direction("hybrid", bundle, ReadingClip(), request_)
    assert found.direction.channels == CONFIG.selection.channels == 6


def test_a_hybrid_stops_when_it_is_told_to(bundle, request_):
    class Stop(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done > 5:
            raise Stop

    with pytest.raises(Stop):
        find_text_direction("hybrid", bundle, ReadingClip(), request_, progress=stop)


@pytest.mark.parametrize("at", [4, 9])
def test_a_stopped_hybrid_goes_on_with_the_same_bits(bundle, request_, tmp_path, monkeypatch, at):
    monkeypatch.setattr(text_methods, "SHORTLIST", 10)

    def find(told=None, **kept):
        asked = dataclasses.replace(request_, **kept)
        return find_text_direction("hybrid", bundle, ReadingClip(), asked, told).direction.vectors

    def stop(done: int, _: int) -> None:
        if done == at:
            raise InterruptedError

    kept, told = KeptFolders(tmp_path), []
    with pytest.raises(InterruptedError):
        find(stop, kept=kept)
    again = find(lambda done, _: told.append(done), kept=kept)
    assert told[0] == at + 1 and told[-1] == 14
    whole = find()
    assert again.keys() == whole.keys() and all(torch.equal(again[k], v) for k, v in whole.items())


def test_a_dictionary_of_either_kind_is_read(bundle, request_):
    tangents = measure_gradient_dictionary(
        bundle, ReadingClip(), GradientDictionaryConfig(samples=2), request_.statistics
    )
    asked = dataclasses.replace(request_, dictionary=tangents)
    found = find_text_direction("finite differences", bundle, ReadingClip(), asked)
    direct = find_direction(tangents, ReadingClip(), TEXT, NEUTRAL, CONFIG.selection).direction
    assert all(torch.equal(direct.vectors[k], v) for k, v in found.direction.vectors.items())
    assert found.forwards == 0 and found.direction.dictionary == tangents.digest
    with pytest.raises(ValueError, match="measure one first"):
        find_text_direction("finite differences", bundle, ReadingClip(), request_)
    with pytest.raises(ValueError, match="not of the family|do not fit"):
        find_text_direction("finite differences", tiny_bundle(16, seed=5), ReadingClip(), asked)
    with pytest.raises(ValueError, match="says nothing of effects"):
        select_secants(dataclasses.replace(tangents, effect=None), torch.ones(12))


def test_an_unknown_method_is_refused(bundle, request_):
    with pytest.raises(ValueError, match="one of gradient, hybrid, finite differences, got 'magic'"):
        find_text_direction("magic", bundle, ReadingClip(), request_)
