from inspect import unwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notes_lib.core import slerp

unchecked = unwrap(slerp)  # without the shape check that runs under pytest only


@pytest.mark.equation("eq-ddim-slerp")
@given(weight=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_slerp_of_unit_rows_walks_the_arc_at_constant_speed(weight, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.nn.functional.normalize(torch.randn(2, 5, 3, generator=generator), dim=-1)
    z = slerp(x, y, weight)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    angle = torch.acos((x * y).sum(1).clamp(-1, 1))
    walked = torch.acos((x * z).sum(1).clamp(-1, 1))
    torch.testing.assert_close(walked, weight * angle, atol=1e-6, rtol=1e-6)


@pytest.mark.equation("eq-ddim-slerp")
def test_slerp_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    half = torch.tensor([[0.5, 0.5], [1.0, 1.0]]) * 2**0.5
    torch.testing.assert_close(slerp(x, y, 0.5), half)
    torch.testing.assert_close(slerp(x, y, torch.tensor([0.0, 1.0])), torch.stack([x[0], y[1]]))


@pytest.mark.equation("eq-ddim-slerp")
def test_slerp_keeps_the_shape_and_the_ends():
    x, y = torch.randn(2, 4, 1, 3, 3)
    assert slerp(x, y, 0.3).shape == x.shape
    torch.testing.assert_close(slerp(x, y, 0.0), x)
    torch.testing.assert_close(slerp(x, y, 1.0), y)


@pytest.mark.equation("eq-ddim-slerp")
@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-7])
def test_slerp_of_parallel_rows_is_linear(tilt):
    x = torch.tensor([[1.0, 2.0, 2.0]])
    y = 3 * x + tilt * torch.tensor([[2.0, -1.0, 0.0]])
    torch.testing.assert_close(slerp(x, y, 0.25), 0.75 * x + 0.25 * y)


@pytest.mark.parametrize("row", [[-1.0, 0.0], [-2.0, 1e-9], [0.0, 0.0]])
def test_slerp_refuses_opposite_and_empty_rows(row):
    with pytest.raises(ValueError, match="opposite"):
        slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([row]), 0.5)


def test_slerp_refuses_unequal_shapes():
    with pytest.raises(ValueError, match="one shape"):
        unchecked(torch.randn(2, 3), torch.randn(3, 3), 0.5)


@pytest.mark.equation("eq-ddim-slerp")
def test_one_angle_for_the_whole_batch_is_another_function():
    """The source article sums the dot product over the batch: rows then depend on their mates."""

    def of_the_article(x, y, w):
        theta = torch.acos((x * y).sum() / (x.norm() * y.norm()))
        return (torch.sin((1 - w) * theta) * x + torch.sin(w * theta) * y) / torch.sin(theta)

    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    alone = of_the_article(x[:1], y[:1], 0.5)
    torch.testing.assert_close(alone, slerp(x[:1], y[:1], 0.5))
    together = of_the_article(x, y, 0.5)
    assert (together[0] - alone[0]).abs().max() > 0.05
    assert (together.norm(dim=1) - 1).abs().min() > 0.05
    torch.testing.assert_close(slerp(x, y, 0.5).norm(dim=1), torch.ones(2))


def test_slerp_follows_the_dtype():
    x, y = torch.randn(2, 3, 4)
    single = slerp(x.float(), y.float(), 0.4)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), slerp(x, y, 0.4), atol=1e-6, rtol=1e-5)
