"""Shape checks, gradient scope, seeded draws."""

from __future__ import annotations

import pytest
import torch

from oneshot_core.tensors import check_shape, gradients, owned, seeded


def test_check_shape_accepts_what_fits():
    check_shape(torch.zeros(2, 3, 8, 9), "images", (None, 3, None, None))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8), (1, 2, 3, 8, 8)])
def test_check_shape_says_what_was_given_and_what_is_allowed(shape):
    with pytest.raises(ValueError, match=r"images must have shape \[any, 3, any, any\], got") as caught:
        check_shape(torch.zeros(shape), "images", (None, 3, None, None))
    assert str(list(shape)) in str(caught.value)


def test_gradients_leaves_inference_mode_and_enables_grad():
    with torch.inference_mode(), torch.no_grad():
        with gradients():
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            x = torch.ones(2, requires_grad=True)
            (x * 3).sum().backward()
            assert x.grad.tolist() == [3.0, 3.0]
        assert torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_owned_copies_an_inference_tensor_into_an_ordinary_one():
    with torch.inference_mode():
        given = torch.ones(3)
        copy = owned(given)
    assert given.is_inference() and not copy.is_inference()
    copy.requires_grad_(True).sum().backward()
    assert copy.data_ptr() != given.data_ptr()


def test_owned_cuts_the_graph():
    x = torch.ones(3, requires_grad=True)
    copy = owned(x * 2)
    assert not copy.requires_grad and copy.grad_fn is None


def test_seeded_depends_on_all_three_and_on_nothing_else():
    first = torch.rand(4, generator=seeded(1, 2, "z"))
    torch.rand(10)
    assert torch.equal(first, torch.rand(4, generator=seeded(1, 2, "z")))
    for other in ((2, 2, "z"), (1, 3, "z"), (1, 2, "noise"), (-1, 2, "z"), (2**80, 2, "z")):
        assert not torch.equal(first, torch.rand(4, generator=seeded(*other)))


def test_seeded_is_fixed_for_all_time():
    """A changed value would make saved runs resume differently."""
    assert seeded(7, 3, "adapted.z").initial_seed() == 1897137930763424050
