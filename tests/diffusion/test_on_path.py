"""One denoiser on every path: sampling commutes with the change of path."""

from itertools import product

import pytest
import torch

from notes_lib.core import Empirical, GaussianMixture
from notes_lib.diffusion import (
    EDM,
    VE,
    Linear,
    SubVP,
    VPCosine,
    VPLinear,
    ddim,
    dpmpp_2m,
    euler,
    log_snr,
    on_path,
    sample,
)

from .paths import name

PATHS = [VPLinear(), VPCosine(), SubVP(), VE(), EDM(), Linear()]
pairs = pytest.mark.parametrize(
    ("source", "target"), [pair for pair in product(PATHS, PATHS) if pair[0] != pair[1]], ids=name
)
MIXTURE = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor(0.3))
RATIOS = torch.tensor([8.0, 3.0, 1.0, 0.4, 0.1])  # sigma / alpha, within every path


@pairs
def test_the_oracle_on_another_path(source, target):
    """Reading the source's exact denoiser along the target gives the target's exact denoiser."""
    t, x = target.time_of_log_snr(-2 * RATIOS.log()), torch.randn(5, 2)
    translated = on_path(MIXTURE.denoiser(source), source, target)
    torch.testing.assert_close(translated(x, t), MIXTURE.denoiser(target)(x, t))
    torch.testing.assert_close(translated(x, t[2]), MIXTURE.denoiser(target)(x, t[2]))


@pairs
def test_the_same_samples_on_every_path(source, target):
    """DDIM and 2M step in sigma/alpha only: the same noise gives the same sample, to 1e-9."""
    denoise = MIXTURE.denoiser(source)
    noise = torch.randn(16, 2)
    for solver in (ddim(), dpmpp_2m):
        ends = []
        for path, way in ((source, denoise), (target, on_path(denoise, source, target))):
            ts = path.time_of_log_snr(-2 * RATIOS.log())
            start, end = path.levels(ts[[0, -1]])
            x = sample(way, path, start.alpha * noise * RATIOS[0], ts, solver)
            ends.append(x / end.alpha)
        torch.testing.assert_close(*ends, atol=1e-9, rtol=1e-9)


def test_euler_in_time_does_not_commute():
    """Euler in the path's own time takes other steps on other paths: 1e-2 apart, not 1e-9."""
    source, target = VPLinear(), EDM()
    denoise, noise, ends = MIXTURE.denoiser(source), torch.randn(16, 2), []
    for path, way in ((source, denoise), (target, on_path(denoise, source, target))):
        ts = log_snr(path, 12, *path.time_of_log_snr(-2 * RATIOS[[0, -1]].log()).tolist())
        start, end = path.levels(ts[[0, -1]])
        ends.append(sample(way, path, start.alpha * noise * RATIOS[0], ts, euler) / end.alpha)
    assert (ends[0] - ends[1]).abs().max() > 1e-2


def test_a_finite_set_on_another_path():
    points, x = torch.randn(10, 3), torch.randn(4, 3)
    translated = on_path(Empirical(points).denoiser(Linear()), Linear(), EDM())
    t = torch.tensor([0.1, 0.5, 1.0, 2.0])
    torch.testing.assert_close(translated(x, t), Empirical(points).denoiser(EDM())(x, t))
