import math

import pytest
import torch

from notes_lib.diffusion import (
    EDM,
    VPLinear,
    VPTabulated,
    eased,
    exponential,
    karras,
    linear_betas,
    log_snr,
    spread,
    subsequence,
    trailing,
    uniform,
)

from .paths import PATHS, name


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_uniform_steps_are_equal(path):
    ts = uniform(path, 10)
    assert len(ts) == 11 and ts[0] == path.t_max and ts[-1] == path.t_min
    torch.testing.assert_close(ts.diff(), ts.diff()[:1].expand(10))


@pytest.mark.equation("eq-ddim-subsequence")
def test_subsequences_by_hand():
    torch.testing.assert_close(subsequence(10, 5) * 10, torch.tensor([10.0, 8, 6, 4, 2, 0]))
    quadratic = subsequence(1000, 10, power=2.0) * 1000
    expected = torch.tensor([1000.0, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0])
    torch.testing.assert_close(quadratic, expected)


@pytest.mark.equation("eq-ddim-subsequence")
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_subsequences_keep_both_ends(steps):
    ts = subsequence(1000, steps)
    assert ts[0] == 1 and ts[-1] == 0 and (ts.diff() < 0).all() and len(ts) == steps + 1


def test_spread_visits_the_first_and_the_last_index():
    ts = spread(1000, 10) * 1000
    assert ts[0] == 1000 and ts[-2] == 1 and ts[-1] == 0


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_log_snr_steps_are_equal_in_log_snr(path):
    first, last = path.t_max * 0.9, path.t_max * 0.1
    steps = path.log_snr(log_snr(path, 12, first, last)).diff()
    torch.testing.assert_close(steps, steps[:1].expand(12), rtol=1e-6, atol=0)


def test_karras_against_the_formula():
    ts = karras(EDM(), 18)
    i = torch.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(ts[:-1], expected, rtol=1e-9, atol=0)
    assert ts[-1] == 0


def test_karras_on_another_path_has_the_same_noise():
    ts = karras(VPLinear(), 8, low=0.02, high=50.0)
    sigma = VPLinear().sigma(ts) / VPLinear().alpha(ts)
    torch.testing.assert_close(sigma[[0, -2]], torch.tensor([50.0, 0.02]), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: uniform(EDM(), 0),
        lambda: subsequence(10, 11),
        lambda: subsequence(100, 50, power=2.0),
        lambda: spread(10, 1),
        lambda: log_snr(VPTabulated(linear_betas(10)), 5, 1.0, 0.0),
        lambda: karras(EDM(), 5, low=1.0, high=0.5),
    ],
)
def test_impossible_grids_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_an_exponential_grid_falls_by_one_factor(path):
    ts = exponential(path, 6, low=0.2, high=20.0)
    ratios = (-0.5 * path.log_snr(ts[:-1])).exp()
    assert ts[-1] == path.t_min and len(ts) == 7
    torch.testing.assert_close(ratios, torch.logspace(math.log10(20), math.log10(0.2), 6))


def test_trailing_counts_down_from_the_last_index():
    torch.testing.assert_close(trailing(10, 4) * 10, torch.tensor([10.0, 8, 5, 2, 0]))
    with pytest.raises(ValueError, match="steps <= total = 10, got 11"):
        trailing(10, 11)


def test_eased_cuts_the_first_step_only():
    ts = eased(torch.tensor([1.0, 0.5, 0.0]), 2)
    torch.testing.assert_close(ts, torch.tensor([1.0, 0.875, 0.75, 0.5, 0.0]))
    torch.testing.assert_close(eased(ts, 0), ts)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_ends_in_the_wrong_order_are_refused(low, high):
    for grid in (exponential, karras):
        with pytest.raises(ValueError, match="need 0 < low < high"):
            grid(EDM(), 5, low, high)
