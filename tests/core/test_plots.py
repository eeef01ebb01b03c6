"""The loss plot: averages, ticks, gaps."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from oneshot_core.pictures.plots import COLOURS, loss_plot, moving_average, plot_points, ticks

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


def test_points_for_a_page_are_few_and_keep_ends_and_spikes():
    values = [math.sin(step / 50) for step in range(20_000)]
    values[7_003], values[7_004], values[12_345] = 9.0, -9.0, NAN
    points = plot_points({"a": values})["a"]
    assert len(points) <= 400
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    assert points[0][0] == 1 and points[-1][0] == 20_000
    assert [7_004, 9.0] in points and [7_005, -9.0] in points
    assert all(math.isclose(value, values[step - 1], rel_tol=1e-4, abs_tol=1e-9) for step, value in points)


def test_short_curves_keep_every_point_that_has_a_value():
    assert plot_points({"a": [1.0, NAN, 3.0], "b": [NAN], "c": [], "d": [math.inf, 2.0]}) == {
        "a": [[1, 1.0], [3, 3.0]], "b": [], "c": [], "d": [[2, 2.0]]
    }  # fmt: skip
    assert plot_points({"a": [2.0] * 1000}, 10)["a"] == [
        [1, 2.0], [2, 2.0], [251, 2.0], [501, 2.0], [750, 2.0], [1000, 2.0]
    ]  # fmt: skip
