"""Random views: determinism, ranges, the order of steps, gradients."""

from __future__ import annotations

import pytest
import torch
from stand_ins import NotedDraws, picture

from oneshot_core.augmentation import ViewAugmentation
from oneshot_core.draws import RecordedDraws, SeededDraws

STILL = {
    "affine": [0.5] * 4,
    "perspective": [0.0] * 8,
    "jitter": [0.5] * 4 + [0.1, 0.2, 0.3, 0.4],
    "erase": [1.0] * 5,
}


def still(**changes) -> RecordedDraws:
    """Draws under which every step does nothing, but for the changes."""
    values = STILL | changes
    return RecordedDraws({(0, f"view.0.{name}"): torch.tensor(numbers) for name, numbers in values.items()})


def test_views_have_their_number_and_shape():
    views = ViewAugmentation(views=5)(picture(32), SeededDraws(0), 0)
    assert views.shape == (5, 3, 32, 32) and views.isfinite().all()


def test_views_depend_on_seed_and_step_only():
    augment, image = ViewAugmentation(views=2), picture(32)
    first = augment(image, SeededDraws(0), 4)
    assert torch.equal(first, augment(image, SeededDraws(0), 4))
    assert not torch.equal(first, augment(image, SeededDraws(0), 5))
    assert not torch.equal(first, augment(image, SeededDraws(1), 4))


def test_neutral_draws_give_the_image_back():
    image = picture(32)
    assert (ViewAugmentation(views=1)(image, still(), 0) - image).abs().max() < 1e-5


def test_one_draw_per_step_of_each_view():
    draws = NotedDraws()
    ViewAugmentation(views=2)(picture(16), draws, 7)
    wanted = {(7, f"view.{view}.{name}") for view in range(2) for name in STILL}
    assert set(draws.table) == wanted


def test_affine_moves_by_whole_pixels():
    image = picture(40)
    moved = ViewAugmentation(views=1)(image, still(affine=[0.5, 1.0, 0.0, 0.5]), 0)  # 10% right, 10% up
    assert (moved[..., :36, 4:] - image[..., 4:, :36]).abs().max() < 1e-5
    assert moved[..., :4].abs().max() < 1e-5  # mid-grey fills


@pytest.mark.parametrize(("turn", "sign"), [(1.0, 1), (0.0, -1)])
def test_affine_turns_by_at_most_15_degrees(turn, sign):
    image = torch.zeros(1, 3, 65, 65)
    image[..., 8:11, 31:34] = 1.0  # a dot above the centre
    turned = ViewAugmentation(views=1)(image, still(affine=[turn, 0.5, 0.5, 0.5]), 0)[0, 0]
    places = turned.clamp(0, 1)
    x = float((places.sum(0) * torch.arange(65)).sum() / places.sum()) - 32
    y = float((places.sum(1) * torch.arange(65)).sum() / places.sum()) - 32
    angle = torch.rad2deg(torch.atan2(torch.tensor(x), torch.tensor(-y)))
    assert abs(float(angle) - sign * 15) < 1.0


def test_perspective_pulls_a_corner_inwards():
    image = torch.ones(1, 3, 40, 40)
    corner = [0.999, 0, 0, 0, 0.999, 0, 0, 0]  # top left by 35% of the side
    view = ViewAugmentation(views=1)(image, still(perspective=corner), 0)[0, 0]
    assert float(view[0, 0]) == 0.0 and float(view[39, 39]) == 1.0
    assert float(view[10, 10]) == 0.0 and float(view[16, 16]) == 1.0


def test_jitter_works_on_zero_to_one():
    image = torch.full((1, 3, 16, 16), -0.5)  # 0.25 in [0, 1]
    brighter = ViewAugmentation(views=1)(image, still(jitter=[1.0, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3, 0.4]), 0)
    assert torch.allclose(brighter, torch.tensor(0.25 * 1.1 * 2 - 1), atol=1e-5)


def test_jitter_order_is_drawn():
    image = picture(16)
    factors = [1.0, 0.0, 1.0, 1.0]
    one, other = (
        ViewAugmentation(views=1)(image, still(jitter=factors + order), 0)
        for order in ([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1])
    )
    assert not torch.allclose(one, other, atol=1e-4)


def test_erasing_has_the_drawn_area_and_chance():
    image = torch.ones(1, 3, 100, 100)
    ratio = (1 - 0.3) / (3.33 - 0.3)  # a square
    erased = ViewAugmentation(views=1)(image, still(erase=[0.699, 0.2, ratio, 0.0, 0.999]), 0)[0, 0]
    share = 0.1 + 0.2 * 0.3
    assert abs(float((erased == 0).float().mean()) - share) < 0.01
    assert float(erased[0, 99]) == 0.0 and float(erased[99, 0]) > 0.99  # top right
    kept = ViewAugmentation(views=1)(image, still(erase=[0.701, 0.2, ratio, 0.0, 0.0]), 0)
    assert torch.allclose(kept, image, atol=1e-5)


def test_erasing_draws_again_until_a_rectangle_fits():
    image = torch.ones(1, 3, 100, 100)
    wide = [0.5, 1.0, 0.0, 0.0, 0.0]  # 40% of the area, 0.3 as high as wide: wider than the picture
    fitting = {(0, "view.0.erase.1"): torch.tensor([0.0, 0.23])}
    draws = RecordedDraws({**still(erase=wide).table, **fitting})
    erased = ViewAugmentation(views=1)(image, draws, 0)[0, 0]
    assert abs(float((erased == 0).float().mean()) - 0.1) < 0.01
    never = {(0, f"view.0.erase.{again}"): torch.tensor(wide[1:3]) for again in range(1, 11)}
    kept = ViewAugmentation(views=1)(image, RecordedDraws({**still(erase=wide).table, **never}), 0)
    assert torch.allclose(kept, image, atol=1e-5)


def test_views_come_in_the_size_that_clip_reads():
    views = ViewAugmentation(views=2, view_px=20)(picture(32), SeededDraws(0), 0)
    assert views.shape == (2, 3, 20, 20)
    plain = ViewAugmentation(views=1, view_px=16)(picture(32), still(), 0)
    halved = torch.nn.functional.avg_pool2d(picture(32), 2)  # bilinear without antialias at a half
    assert torch.allclose(plain, halved, atol=1e-4)


def test_views_are_differentiable():
    image = picture(24).double().requires_grad_(True)
    views = ViewAugmentation(views=3)(image, SeededDraws(2), 0)
    assert views.dtype == torch.float64
    (gradient,) = torch.autograd.grad(views.square().sum(), image)
    assert gradient.isfinite().all() and float((gradient != 0).double().mean()) > 0.5
