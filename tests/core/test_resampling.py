"""Pictures made smaller before they are compared."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.objective.terms import Lpips, PixelMse
from oneshot_core.resampling import as_pictures, bicubic_taps, downsample, reduced_picture


def test_a_flat_picture_stays_flat_and_a_ramp_a_ramp() -> None:
    assert abs(float(bicubic_taps(4).sum()) - 1) < 1e-6
    flat = torch.full((1, 3, 32, 48), 0.25)
    assert torch.allclose(downsample(flat, 4), torch.full((1, 3, 8, 12), 0.25), atol=1e-6)
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    small = downsample(ramp, 4)[0, 0, 0]
    assert torch.allclose(small[3:-3].diff(), torch.full((9,), 4.0), atol=1e-4)
    assert downsample(flat, 1) is flat


def test_a_target_is_reduced_in_eight_bits() -> None:
    target = torch.rand(2, 3, 16, 16) * 2 - 1
    small = reduced_picture(target, 4)
    levels = (small + 1) * 127.5
    assert small.shape == (2, 3, 4, 4) and torch.allclose(levels, levels.round(), atol=1e-3)
    assert [one.size for one in as_pictures(target)] == [(16, 16)] * 2


def test_factors_that_do_not_fit_are_refused() -> None:
    PixelMse(down=4).check(64)
    Lpips(down=0).check(128)
    for term in (PixelMse(down=3), Lpips(down=-1), PixelMse(down=64)):
        with pytest.raises(ValueError, match="cannot be made smaller"):
            term.check(128)
