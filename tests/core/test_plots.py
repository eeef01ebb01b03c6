"""The loss plot: averages, ticks, gaps."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from oneshot_core.plots import COLOURS, loss_plot, moving_average, ticks

NAN = float("nan")


def test_the_moving_average_is_centred_and_shorter_at_the_ends():
    assert moving_average([1, 2, 3, 4, 5], 3) == [1.5, 2, 3, 4, 4.5]
    assert moving_average([1, 2], 1) == [1, 2]


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 1, [0, 0.5, 1]), (0, 0.037, [0, 0.01, 0.02, 0.03]), (-3, 5, [-2, 0, 2, 4]), (2, 2, [2])],
)
def test_ticks_are_round_numbers_within_the_range(low, high, wanted):
    found = ticks(low, high)
    assert len(found) == len(wanted)
    assert all(math.isclose(a, b, abs_tol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_every_loss_gets_a_panel_in_its_colour(tmp_path):
    losses = {
        "lpips": [0.5 / (i + 1) if i % 4 == 0 else NAN for i in range(100)],
        "patch": [NAN if i % 4 == 0 else 3.0 for i in range(100)],
        "one_value": [2.0] + [NAN] * 99,
        "never": [NAN] * 100,
    }
    path = loss_plot(losses, tmp_path / "losses.png", title="A run", columns=2)
    with Image.open(path) as picture:
        assert picture.width < 760
        colours = {colour for _, colour in picture.getcolors(100_000)}

    def drawn(colour: tuple[int, int, int]) -> bool:
        return any(math.dist(colour, found) < 20 for found in colours)

    assert all(map(drawn, COLOURS[:3]))
    assert not drawn(COLOURS[3])  # the loss without values has no panel


def test_an_empty_plot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to plot"):
        loss_plot({"lpips": [NAN]}, tmp_path / "losses.png")
