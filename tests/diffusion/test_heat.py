"""The heat equation against closed forms, and continuity against every path's own velocity."""

import pytest
import torch

from notes_lib.core import GaussianMixture
from notes_lib.diffusion import (
    EDM,
    VE,
    continuity_residual,
    diffuse,
    flow_velocity,
    heat_velocity,
)

from .paths import PATHS, interior, name

SPACING = 0.05
GRID = SPACING * (torch.arange(512, dtype=torch.float64) - 256)


def mixture(d=1):
    return GaussianMixture(torch.randn(3, d), 0.05 + torch.rand(3, d), 0.2 + torch.rand(3))


def noised(data, path):
    return lambda t, x: data.log_prob(x, path.alpha(t), path.sigma(t))


@pytest.mark.equation("eq-rectified-flow-continuity", "eq-rectified-flow-log-density")
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_the_velocity_of_every_path_carries_its_density(path):
    data, x = mixture(d=3), torch.randn(7, 3)
    f = flow_velocity(data.denoiser(path), path)
    residual = continuity_residual(noised(data, path), f, x, interior(path))
    assert residual.abs().max() < 1e-9 and not residual.requires_grad


def test_a_wrong_field_leaves_a_residual():
    """Twice the speed counts its own terms twice: what is left is minus the rate of p."""
    data, path, x, t = mixture(d=2), EDM(), torch.randn(7, 2), torch.full((7,), 0.6)
    f, log_prob = flow_velocity(data.denoiser(path), path), noised(data, path)
    twice = continuity_residual(log_prob, lambda t, x: 2 * f(t, x), x, t)
    rate = continuity_residual(log_prob, lambda t, x: 0 * x, x, t)
    assert twice.abs().min() > 1e-3
    torch.testing.assert_close(twice, -rate, atol=1e-9, rtol=0)


@pytest.mark.equation("eq-rectified-flow-continuity")
def test_a_field_of_one_number_has_its_residual():
    """f = a x under a standing N(0, 1): a - a x^2."""
    a, x = torch.tensor(0.7), torch.randn(5, 1)
    residual = continuity_residual(
        lambda t, x: -0.5 * x.square().sum(1) + 0 * t, lambda t, x: a * x, x, torch.zeros(5)
    )
    torch.testing.assert_close(residual, a * (1 - x[:, 0] ** 2))


@pytest.mark.equation("eq-rectified-flow-fourier", "eq-rectified-flow-heat")
@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.5])
def test_diffusing_a_mixture_gives_the_noised_mixture(sigma):
    data = mixture()
    p = data.log_prob(GRID[:, None]).exp()
    expected = data.log_prob(GRID[:, None], 1.0, sigma).exp()
    torch.testing.assert_close(diffuse(p, SPACING, sigma), expected, atol=1e-10, rtol=0)


@pytest.mark.equation("eq-rectified-flow-fourier")
def test_any_profile_is_convolved_with_the_kernel():
    """A box, which is no mixture, against the sum of the definition; an odd length too."""
    for n in (512, 511):
        x = SPACING * (torch.arange(n) - n // 2)
        box = (x.abs() < 1).double()
        kernel = torch.exp(-0.5 * ((x[:, None] - x) / 0.4) ** 2) / (0.4 * (2 * torch.pi) ** 0.5)
        expected = SPACING * kernel @ box
        torch.testing.assert_close(diffuse(box, SPACING, 0.4), expected, atol=1e-10, rtol=0)


def test_mass_is_kept_and_steps_add_up():
    p = torch.rand(300)
    twice = diffuse(diffuse(p, 0.1, 0.3), 0.1, 0.4)
    torch.testing.assert_close(twice, diffuse(p, 0.1, 0.5))
    torch.testing.assert_close(twice.sum(), p.sum(), atol=1e-11, rtol=0)


@pytest.mark.equation("eq-rectified-flow-particles")
@pytest.mark.parametrize("path", [EDM(), VE()], ids=name)
def test_the_heat_velocity_is_the_velocity_of_the_path(path):
    """The score by autograd against the oracle's denoiser."""
    data, x = mixture(d=3), torch.randn(6, 3)
    denoise = data.denoiser(path)
    for level in path.levels(interior(path)):
        f = heat_velocity(
            lambda x, s=level.sigma: data.log_prob(x, 1.0, s), level.sigma, level.sigma_dot
        )
        expected = path.velocity(x, denoise(x, level.time), level.time)
        torch.testing.assert_close(f(x), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("p", "spacing", "sigma", "word"),
    [
        (torch.tensor([1.0, torch.nan]), 0.1, 0.1, "finite"),
        (torch.ones(4), 0.0, 0.1, "spacing > 0"),
        (torch.ones(4), 0.1, -0.1, "sigma >= 0"),
    ],
)
def test_bad_input_is_refused(p, spacing, sigma, word):
    with pytest.raises(ValueError, match=word):
        diffuse(p, spacing, sigma)
