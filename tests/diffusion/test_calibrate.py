"""Plans: a grid and a solver from the number of calls; closed form, fitted once, fitted to you."""

import math

import pytest
import torch

from notes_lib.core import GaussianMixture
from notes_lib.diffusion import (
    EDM,
    VE,
    Linear,
    VPCosine,
    VPLinear,
    calibrate,
    closed_form,
    dpmpp_2m,
    exact_flow,
    exponential,
    graded,
    robust,
    sample,
    tuned,
)
from notes_lib.diffusion.calibrate import Flow, fit

from .paths import name

MIXTURE = GaussianMixture(torch.tensor([[-1.0, 0.2], [0.9, -0.5]]), torch.tensor([[0.1, 0.05]]))


def quick(x, sigma):
    """A smooth denoiser that is cheap to call: of two points at +-0.8 in each coordinate."""
    spread = 0.05 + sigma**2
    mean = 0.8 * torch.tanh(0.8 * x / spread)
    return mean + 0.05 / spread * (x - mean)


def starts(path, plan, seed, count=128):
    generator = torch.Generator().manual_seed(seed)
    return path.sigma(plan[0][0]) * torch.randn(count, 2, generator=generator)


def error(plan, x):
    """Of the smooth denoiser's flow on the path EDM, against 200 corrected steps."""
    gap = sample(quick, EDM(), x, *plan) - sample(quick, EDM(), x, *closed_form(EDM(), 200))
    return gap.norm(dim=1).mean().item() / math.sqrt(2)


@pytest.mark.parametrize("path", [VPLinear(), VPCosine(), EDM(), Linear()], ids=name)
@pytest.mark.parametrize("plan", [closed_form, robust])
def test_a_plan_is_one_solver_on_every_path(path, plan):
    reference = EDM()
    ends = []
    for where in (reference, path):
        ts, solver = plan(where, 10)
        x = where.alpha(ts[0]) * starts(reference, plan(reference, 10), seed=0)
        ends.append(sample(MIXTURE.denoiser(where), where, x, ts, solver))
    torch.testing.assert_close(ends[1], ends[0], atol=1e-6, rtol=1e-5)  # x starts at 80


@pytest.mark.parametrize("nfe", [5, 10, 20])
def test_plans_beat_the_second_order_solver(nfe):
    path, low = EDM(), {5: 0.1, 10: 0.05, 20: 0.02}[nfe]
    x = starts(path, closed_form(path, nfe), seed=1)
    second = error((exponential(path, nfe, low=low), dpmpp_2m), x)
    assert error(closed_form(path, nfe), x) < 0.8 * second
    assert error(robust(path, nfe), x) < 0.5 * second


@pytest.mark.parametrize("nfe", [10, 20])
def test_the_data_scale_is_a_unit(nfe):
    """Data twice as large, noise twice as large, twice the sample."""
    path, large = EDM(), GaussianMixture(2 * MIXTURE.means, 4 * MIXTURE.variances)
    plan, wide = (closed_form(EDM(t_max=160.0), nfe, std) for std in (1.0, 2.0))
    x = starts(path, plan, seed=2)
    one = sample(MIXTURE.denoiser(path), path, x, *plan)
    two = sample(large.denoiser(path), EDM(t_max=160.0), 2 * x, *wide)
    torch.testing.assert_close(two, 2 * one)


def test_the_last_step_has_the_order_of_the_rest():
    """To sigma = 0 itself, where the multistep solvers of the literature are first order."""
    path, x = EDM(), torch.linspace(-80, 80, 9)[:, None]
    denoise = GaussianMixture(torch.tensor([[0.3]]), torch.tensor([[0.25]])).denoiser(path)
    exact, errors = exact_flow(x, path, 80.0, 0.0, 0.3, 0.25), []
    for n in (48, 96):
        errors.append((sample(denoise, path, x, *closed_form(path, n)) - exact).abs().max())
    assert math.log2(errors[0] / errors[1]) > 3.5 and errors[1] < 1e-5


def test_calibration_on_fresh_starts():
    """Better than the closed form by a wide margin on starts that it has not seen."""
    path = EDM()
    plan = closed_form(path, 5)
    fitted = calibrate(quick, path, 5, starts(path, plan, seed=3), iterations=40)
    x = starts(path, plan, seed=4)
    assert error(fitted, x) < 0.4 * error(plan, x)


def test_calibration_leaves_the_model_alone():
    path, net = EDM(), torch.nn.Linear(2, 2).double()
    before = [p.clone() for p in net.parameters()]
    denoise = lambda x, t: torch.tanh(net(x / torch.sqrt(1 + t**2)))
    calibrate(denoise, path, 4, starts(path, closed_form(path, 4), 5, 16), iterations=5)
    for p, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, old) and p.grad is None


def test_a_fit_without_iterations_is_the_closed_form():
    path = VE(0.01, 90.0)
    plan = closed_form(path, 7)
    x = starts(path, plan, seed=6, count=8)
    ratios, weights = fit([Flow(MIXTURE.denoiser(path), path, x, x)], 7, iterations=0)
    denoise, unfitted = MIXTURE.denoiser(path), tuned(path, ratios, weights)
    torch.testing.assert_close(unfitted[0], plan[0])
    torch.testing.assert_close(
        sample(denoise, path, x, *unfitted), sample(denoise, path, x, *plan), atol=1e-8, rtol=1e-8
    )


@pytest.mark.parametrize("path", [VPLinear(), VPCosine(), VE(), EDM(), Linear()], ids=name)
def test_a_graded_grid_keeps_to_the_path(path):
    ts = graded(path, 9)
    assert (ts.diff() < 0).all() and ts[-1] == path.t_min and ts[0] <= path.t_max


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: closed_form(EDM(), 0), "steps must be at least 1"),
        (lambda: closed_form(EDM(), 5, -1.0), "data_std must be positive, got -1.0"),
        (lambda: robust(EDM(), 7), "nfe must be one of 5, 8, 10, 15, 20, got 7"),
        (lambda: robust(VE(0.01, 50.0), 5), "need ratios from 80"),
        (lambda: tuned(EDM(), [80.0, 0.0], []), "need 1 rows of weights, got 0"),
        (lambda: fit([], 1), "nfe must be at least 2, got 1"),
        (lambda: graded(EDM(), 5, bend=1.0), "bend must lie in"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tuned_solver_refuses_another_grid():
    _, solver = robust(EDM(), 5)
    with pytest.raises(ValueError, match="this solver is for 6 levels, got 3"):
        solver(EDM().levels(torch.tensor([3.0, 2.0, 1.0])))
