"""Global directions: texts, relevance, which channels are taken, and the direction that comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_clip import reading_clip
from tiny_networks import tiny_bundle

from oneshot_core.editing.dictionary import Dictionary, all_rows
from oneshot_core.editing.direction import apply_direction, check_direction
from oneshot_core.editing.global_directions import (
    Selection,
    auto_beta,
    channel_vectors,
    find_direction,
    global_direction,
    relevance,
    select,
    text_change,
    text_feature,
)
from oneshot_core.editing.statistics import style_statistics
from oneshot_core.fingerprints import encoder_fingerprint
from oneshot_core.sampling import random_latents, sample

BUNDLE, CLIP = tiny_bundle(16), reading_clip()
STATISTICS = style_statistics(BUNDLE, 200)
STYLES, CHANNELS = all_rows(STATISTICS.widths)


def dictionary_of(rows: torch.Tensor) -> Dictionary:
    return Dictionary(rows, STYLES, CHANNELS, STATISTICS, clip="custom")


ROWS = F.normalize(torch.randn(len(STYLES), 16, generator=torch.Generator().manual_seed(1)), dim=1)
DICTIONARY = dictionary_of(ROWS)
CHANGE = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(2)), dim=0)
VALUES = relevance(DICTIONARY, CHANGE)


def test_a_text_is_the_mean_of_its_sentences():
    found = text_feature(CLIP, "sketch", ("a {}", "the {} photo"))
    both = CLIP.encode_text(["a sketch", "the sketch photo"])
    torch.testing.assert_close(found, F.normalize(both.mean(dim=0), dim=0))
    torch.testing.assert_close(
        text_change(CLIP, "sketch", "photo", ("{}",)),
        F.normalize(CLIP.encode_text(["sketch"])[0] - CLIP.encode_text(["photo"])[0], dim=0),
    )
    with pytest.raises(ValueError, match="reads the same in text 'sketch' and neutral_text 'sketch'"):
        text_change(CLIP, "sketch", "sketch")
    with pytest.raises(ValueError, match="does not know 'hat'"):
        text_change(CLIP, "hat", "sketch")
    with pytest.raises(ValueError, match="the text is empty"):
        text_change(CLIP, "sketch", " ")


def test_relevance_is_a_cosine():
    torch.testing.assert_close(VALUES, ROWS.double() @ CHANGE.double())
    with pytest.raises(ValueError, match="the change of the text's feature"):
        relevance(DICTIONARY, CHANGE[:5])


def test_the_strongest_channels_are_taken():
    order = VALUES.abs().argsort(descending=True)
    taken = select(DICTIONARY, VALUES, Selection(channels=7))
    assert set(taken.amplitudes.nonzero().flatten().tolist()) == set(order[:7].tolist())
    assert taken.channels == 7 and taken.beta == pytest.approx(float(VALUES.abs()[order[6]]))
    torch.testing.assert_close(taken.amplitudes[order[:7]], VALUES[order[:7]] / VALUES.abs().max())
    by_beta = select(DICTIONARY, VALUES, Selection(beta=taken.beta))  # what it implies gives the same
    assert torch.equal(by_beta.amplitudes, taken.amplitudes) and by_beta.channels == 7
    everything = select(DICTIONARY, VALUES, Selection(channels=10_000))
    assert everything.channels == len(VALUES)
    assert Selection().channels == 50 and Selection(beta=0.1).channels is None


def test_layers_and_a_number_of_each():
    taken = select(DICTIONARY, VALUES, Selection(channels=6, layers=(3, 5)))
    assert set(STYLES[taken.amplitudes != 0].tolist()) <= {3, 5} and taken.channels == 6
    assert float(taken.amplitudes.abs().max()) == 1  # of those layers
    taken = select(DICTIONARY, VALUES, Selection(beta=0.0, per_layer=2))
    for style in STYLES.unique():
        own = STYLES == style
        strongest = VALUES[own].abs().topk(2).indices
        assert set(taken.amplitudes[own].nonzero().flatten().tolist()) == set(strongest.tolist())
    with pytest.raises(ValueError, match="layers must be numbers of styles from 0 to 7"):
        select(DICTIONARY, VALUES, Selection(layers=(8,)))
    with pytest.raises(
        ValueError, match="nothing was measured of the layers 1, 4"
    ):  # colours are not measured
        select(DICTIONARY, VALUES, Selection(layers=(1, 4)))


def test_an_empty_selection_says_what_to_lower():
    highest = float(VALUES.abs().max())
    with pytest.raises(ValueError, match=f"beta 0.99: the highest relevance is {highest:.3f}; lower beta"):
        select(DICTIONARY, VALUES, Selection(beta=0.99))
    with pytest.raises(ValueError, match="no channel follows this change at all"):
        select(DICTIONARY, VALUES * 0, Selection(beta=0.0))
    with pytest.raises(ValueError, match="not made of finite numbers"):
        select(DICTIONARY, VALUES * float("nan"))


def test_automatic_thresholds():
    values = torch.tensor([0.3] * 21 + [0.155] * 80)
    assert auto_beta(values) == pytest.approx(0.29) and auto_beta(values, 21) == pytest.approx(0.15)
    assert auto_beta(values, 100) == pytest.approx(0.15) and auto_beta(values, 101) == 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"channels": 3, "beta": 0.1}, "only one of"),
        ({"channels": 0}, "channels"),
        ({"per_layer": 0}, "per_layer"),
        ({"beta": -0.1}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"auto_channels": -1}, "auto_channels"),
    ],
)
def test_selections_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        Selection(**settings)


def test_strength_one_is_one_sigma_of_the_strongest_channel():
    found = global_direction(DICTIONARY, CHANGE, Selection(channels=5), {"name": "hat"})
    direction = found.direction
    style, channel, value = found.strongest[0]
    sigma = STATISTICS.sigma[style][channel]
    assert abs(float(direction.vectors[style][channel])) == pytest.approx(float(sigma), rel=1e-6)
    assert (
        value == pytest.approx(float(VALUES[VALUES.abs().argmax()]))
        and direction.channels == found.channels == 5
    )
    assert direction.dictionary == DICTIONARY.digest and direction.fingerprint == STATISTICS.fingerprint
    for index, vector in direction.vectors.items():
        assert vector.dtype == torch.float32
        torch.testing.assert_close(direction.sigma[index], STATISTICS.sigma[index].float())
        torch.testing.assert_close(direction.mean[index], STATISTICS.mean[index].float())
    check_direction(direction, BUNDLE)
    assert "5 channels, threshold" in found.summary() and "hat" in direction.summary()


def test_channels_get_their_own_sigma():
    amplitudes = torch.zeros(len(VALUES), dtype=torch.float64)
    row = int(((STYLES == 3) & (CHANNELS == 6)).nonzero())
    amplitudes[row] = -0.5
    (vector,) = channel_vectors(DICTIONARY, amplitudes).values()
    assert vector.nonzero().tolist() == [[6]]
    torch.testing.assert_close(vector[6], -0.5 * STATISTICS.sigma[3][6])


def test_pictures_follow_the_text():
    """A channel alone in the dictionary's direction: CLIP's feature moves along the change, and back."""
    found = find_direction(DICTIONARY, CLIP, "a sketch", "a photo", Selection(channels=10))
    assert found.direction.text == "a sketch" and found.direction.name == "a sketch"
    latent = random_latents(BUNDLE, [0, 1])
    there = sample(BUNDLE, apply_direction(latent, found.direction, 3.0))
    assert not torch.allclose(there, sample(BUNDLE, latent), atol=1e-3)


def test_another_clip_is_refused():
    other = replace(DICTIONARY, clip_fingerprint="0" * 64)
    with pytest.raises(ValueError, match="was measured with custom"):
        find_direction(other, CLIP, "a sketch", "a photo")
    find_direction(
        replace(DICTIONARY, clip_fingerprint=encoder_fingerprint(CLIP)), CLIP, "a sketch", "a photo"
    )
