"""The counts behind the chapter on kernels: rooflines, exponentials, banks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notes_lib.attention.cuda.costs import (
    attainable,
    exponential_share,
    intensity,
    swizzled,
    wavefronts,
)


@pytest.mark.equation("eq-flash-attention-cuda-intensity")
def test_a_fused_kernel_gains_with_n_and_the_textbook_saturates():
    assert intensity(4096, 128) == pytest.approx(4096 / 2)  # n / s
    far = [intensity(n, 128, passes=4) for n in (10**4, 10**5, 10**7)]
    assert far == sorted(far) and far[-1] == pytest.approx(128 / 2, rel=1e-4)  # d / s


@pytest.mark.equation("eq-flash-attention-cuda-roofline")
def test_the_roofline_bends_where_both_bounds_meet():
    peak, bandwidth = 8e14, 4e12
    assert attainable(peak / bandwidth, peak, bandwidth) == peak
    assert attainable(50.0, peak, bandwidth) == 50 * bandwidth
    assert attainable(1e6, peak, bandwidth) == peak


@pytest.mark.equation("eq-flash-attention-cuda-exponential")
def test_exponentials_cost_as_much_as_products_at_width_64():
    """From the rates of the whole card that the paper gives, not from those a clock."""
    card = 989e12, 3.9e12
    assert exponential_share(64) == 1 and exponential_share(128) == 0.5
    assert exponential_share(128, *card) == pytest.approx(exponential_share(128), rel=0.01)


@pytest.mark.equation("eq-flash-attention-cuda-swizzle")
@given(first=st.integers(0, 10**6), chunk=st.integers(0, 7), width=st.sampled_from([64, 128]))
def test_eight_rows_of_a_column_lie_in_eight_groups_of_banks(first, chunk, width):
    rows = torch.arange(8 * first, 8 * first + 8)
    plain = rows * 2 * width + 16 * chunk
    assert wavefronts(plain) == 8
    assert wavefronts(rows * 2 * width + 16 * swizzled(rows, chunk)) == 1


def test_the_swizzle_undoes_itself_and_moves_no_chunk_out_of_its_row():
    row, chunk = torch.arange(64)[:, None], torch.arange(16)
    moved = swizzled(row, chunk)
    assert (swizzled(row, moved) == chunk).all()
    assert (moved.sort(1).values == chunk).all()


def test_padding_by_a_chunk_would_do_too():
    assert wavefronts([row * (2 * 64 + 16) for row in range(8)]) == 1
    assert wavefronts([0] * 8) == 1  # one address: handed out together


@pytest.mark.parametrize(
    "call",
    [
        lambda: intensity(0, 64),
        lambda: intensity(8, 64, passes=-1),
        lambda: attainable(1.0, 0.0, 1.0),
        lambda: exponential_share(0),
        lambda: wavefronts([1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match="got"):
        call()
