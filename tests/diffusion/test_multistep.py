"""Multistep solvers: exact weights, the orders they claim, and what they have in common."""

import math
from itertools import pairwise

import pytest
import torch

from notes_lib.core import GaussianMixture, seeded_noise, variance
from notes_lib.diffusion import (
    EDM,
    VE,
    Linear,
    Row,
    VPCosine,
    VPLinear,
    adams,
    adams_moulton,
    ancestral,
    angle_form,
    asinh_ratio,
    bh1,
    bh2,
    data_form,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_3m,
    dpmpp_sde,
    eased,
    exact_flow,
    linear,
    log_ratio,
    log_snr,
    noise_form,
    path_time,
    plain_ratio,
    sample,
    uniform,
    unipc,
)
from notes_lib.diffusion.exponential import adams_weights

from .paths import name

SMOOTH = [VPLinear(), VPCosine(), VE(), Linear()]
ANGLE, ASINH = angle_form(), asinh_ratio(0.1)
PLAIN = VPCosine()
ORDERS = {
    "2M": (dpmpp_2m, 2),
    "3M": (dpmpp_3m, 3),
    "DEIS 1": (deis(1), 1),
    "DEIS 2": (deis(2), 2),
    "DEIS 3": (deis(3), 3),
    "DEIS 3, log": (deis(3, log_ratio), 3),
    "DEIS 3, time": (deis(3, path_time(PLAIN)), 3),
    "UniPC 1, bh1": (unipc(1, bh1), 2),
    "UniPC 1, bh2": (unipc(1, bh2), 2),
    "UniPC 2, bh2": (unipc(2, bh2), 3),
    "UniPC 2": (unipc(2), 3),
    "UniPC 3": (unipc(3), 4),
    "angle, AB 3": (adams(ANGLE, ASINH, 3), 3),
    "angle, AB 4": (adams(ANGLE, ASINH, 4), 4),
    "angle, ABM 3": (adams_moulton(ANGLE, ASINH, 3), 4),
    "angle, ABM 4": (adams_moulton(ANGLE, ASINH, 4), 5),
}


def gaussian(mean=0.7, var=0.25):
    return GaussianMixture(torch.tensor([[mean]]), torch.tensor([[var]]))


def linear_oracle(path, ts):
    """The exact denoiser of N(0.7, 0.25), which is linear, from a table: quick to call."""
    table = {level.time.item(): level for level in path.levels(ts)}

    def denoise(x, t):
        level = table[t.item()]
        gain = 0.25 * level.alpha / (0.25 * level.alpha**2 + level.sigma**2)
        return 0.7 + gain * (x - 0.7 * level.alpha)

    return denoise


def error(path, solver, n):
    """Against the ODE solved in closed form; the first step is cut to far below the rest."""
    x = torch.linspace(-2, 2, 9)[:, None]
    ts = eased(log_snr(path, n, 0.8, 0.1), 2 * int(math.log2(n)))
    end = sample(linear_oracle(path, ts), path, x, ts, solver)
    return (end - exact_flow(x, path, 0.8, 0.1, 0.7, 0.25)).abs().max().item()


@pytest.mark.parametrize("case", ORDERS)
def test_order(case):
    """The slope of the error from 128 to 256 steps, where it is as small as 1e-11."""
    solver, order = ORDERS[case]
    errors = [error(PLAIN, solver, n) for n in (128, 256)]
    slope = math.log2(errors[0] / errors[1])
    assert abs(slope - order) < 0.2, (slope, errors)
    assert errors[1] < 10.0 ** (1 - 2 * order), errors


@pytest.mark.parametrize("path", SMOOTH, ids=name)
def test_third_order_on_every_path(path):
    errors = [error(path, dpmpp_3m, n) for n in (128, 256)]
    assert math.log2(errors[0] / errors[1]) > 2.85
    assert errors[1] < 1e-6


def published_3m(levels):
    """The third-order rows of both libraries: their phi_3 takes the divided difference itself."""
    half, rows = [level.half_log_snr for level in levels], []
    for i, (t, s) in enumerate(pairwise(levels)):
        h = half[i + 1] - half[i]
        phi_1 = -math.expm1(-h)
        if i < 2:
            older = (-s.alpha * phi_1 * 0.5 * h / (half[1] - half[0]),) if i else ()
            rows.append(Row(s.sigma / t.sigma, s.alpha * phi_1 - sum(older), 0.0, older))
            continue
        phi_2 = 1 - phi_1 / h
        phi_3 = phi_2 / h - 0.5
        r0, r1 = (half[i] - half[i - 1]) / h, (half[i - 1] - half[i - 2]) / h
        first = torch.tensor([1.0, -1.0, 0.0]) / r0
        second = torch.tensor([0.0, 1.0, -1.0]) / r1
        slope = first + (first - second) * r0 / (r0 + r1)
        curve = (first - second) / (r0 + r1)
        x0, *older = s.alpha * (phi_1 * torch.tensor([1.0, 0, 0]) + phi_2 * slope - phi_3 * curve)
        rows.append(Row(s.sigma / t.sigma, x0.item(), 0.0, tuple(w.item() for w in older)))
    return rows


def test_the_published_3m_is_second_order():
    errors = [error(PLAIN, linear(published_3m), n) for n in (128, 256)]
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.1
    assert errors[1] > 20 * error(PLAIN, dpmpp_3m, 256)


def antiderivatives(form):
    """Of u^k dphi, k = 0, 1, 2, by hand."""
    if form == "noise":
        return plain_ratio, noise_form(), lambda u, k: u ** (k + 1) / (k + 1)
    powers = [lambda u: 1, lambda u: u + 1, lambda u: u**2 + 2 * u + 2]
    return log_ratio, data_form(), lambda u, k: torch.exp(-u) * powers[k](u)


@pytest.mark.parametrize("form", ["noise", "data"])
def test_weights_integrate_polynomials_exactly(form):
    coordinate, form, integral = antiderivatives(form)
    nodes = torch.rand(5, 3).cumsum(1)
    t, s = nodes[:, 0], nodes[:, 0] - 0.7
    present = torch.tensor([[True, True, True]]).expand(5, 3)
    weights = adams_weights(form, coordinate, nodes, present, t, s)
    for k in range(3):
        expected = integral(s, k) - integral(t, k)
        torch.testing.assert_close((weights * nodes**k).sum(1), expected, atol=1e-13, rtol=1e-12)


def test_an_absent_node_has_no_weight():
    nodes, t, s = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([3.0]), torch.tensor([2.0])
    present = torch.tensor([[True, True, False]])
    three = adams_weights(ANGLE, ASINH, nodes, present, t, s)
    two = adams_weights(ANGLE, ASINH, nodes[:, :2], present[:, :2], t, s)
    torch.testing.assert_close(three, torch.cat([two, torch.zeros(1, 1)], 1))


@pytest.mark.parametrize("path", SMOOTH, ids=name)
@pytest.mark.parametrize("solver", [adams(data_form(), log_ratio, 1), deis(1), dpmpp_sde(1, 0.0)])
def test_one_slope_is_ddim(path, solver):
    x, ts = torch.randn(9, 1), torch.linspace(0.9, 0.1, 8)
    torch.testing.assert_close(
        sample(gaussian().denoiser(path), path, x, ts, solver),
        sample(gaussian().denoiser(path), path, x, ts, ddim()),
    )


def test_2m_is_the_formula():
    path, ts = VPLinear(), torch.tensor([0.9, 0.6, 0.4])
    denoise, x = gaussian().denoiser(path), torch.randn(9, 1)
    (t, _), (s, r) = pairwise(path.levels(ts))
    first = denoise(x, t.time)
    x_s = sample(denoise, path, x, ts[:2])
    h_last, h = s.half_log_snr - t.half_log_snr, r.half_log_snr - s.half_log_snr
    second = denoise(x_s, s.time)
    mixed = second + h / (2 * h_last) * (second - first)
    expected = r.sigma / s.sigma * x_s - r.alpha * math.expm1(-h) * mixed
    torch.testing.assert_close(sample(denoise, path, x, ts, dpmpp_2m), expected)


@pytest.mark.parametrize("solver", [v[0] for v in ORDERS.values()], ids=list(ORDERS))
def test_one_image_on_every_path(solver):
    """At equal noise-to-signal ratios the paths differ by a factor alpha, whatever the solver."""
    mixture, x1 = GaussianMixture(torch.randn(3, 2), torch.tensor(0.2)), torch.randn(6, 2)
    ts, ends = torch.linspace(0.95, 0.05, 9), []
    for path in (PLAIN, VE(), Linear(), EDM()):
        times = path.time_of_log_snr(PLAIN.log_snr(ts))
        first, *_, last = path.levels(times)
        ends.append(sample(mixture.denoiser(path), path, first.alpha * x1, times, solver))
        torch.testing.assert_close(ends[-1] / last.alpha, ends[0] / PLAIN.alpha(ts[-1]))


@pytest.mark.parametrize("path", [VPCosine(), Linear()], ids=name)
@pytest.mark.parametrize("solver", [v[0] for v in ORDERS.values()], ids=list(ORDERS))
def test_pure_noise_and_pure_data_are_no_obstacle(path, solver):
    """alpha is 0 at the first level, sigma at the last; DDIM's step is taken where others fail."""
    x, ts = torch.linspace(-2, 2, 9)[:, None], uniform(path, 60)
    end = sample(linear_oracle(path, ts), path, x, ts, solver)
    exact = exact_flow(x, path, 1.0, 0.0, 0.7, 0.25)
    assert (end - exact).abs().max() < 0.05


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_the_angle_form_is_exact_on_its_own_gaussian(std):
    """x0_hat - (alpha d^2 / c^2) x vanishes: one step of any size solves the ODE."""
    path, x = VPLinear(), torch.randn(9, 1)
    solver = adams(angle_form(std), ASINH, 4)
    end = sample(gaussian(0.0, std**2).denoiser(path), path, x, torch.tensor([0.9, 0.0]), solver)
    torch.testing.assert_close(end, exact_flow(x, path, 0.9, 0.0, 0.0, std**2))


def test_a_corrected_step_costs_one_call():
    path, calls = Linear(), []

    def counted(x, t):
        calls.append(t.item())
        return gaussian().posterior_mean(x, path.alpha(t), path.sigma(t))

    ts = uniform(path, 9)
    sample(counted, path, torch.randn(3, 1), ts, adams_moulton(ANGLE, ASINH, 4))
    assert calls == ts[:-1].tolist()


@pytest.mark.parametrize("path", SMOOTH, ids=name)
def test_the_sde_solver_with_one_slope_is_the_posterior(path):
    x, ts = torch.randn(9, 1), torch.linspace(0.9, 0.1, 8)
    ends = []
    for solver in (dpmpp_sde, ancestral):
        noise = seeded_noise(torch.Generator().manual_seed(1))
        solver = dpmpp_sde(1, noise=noise) if solver is dpmpp_sde else ancestral(noise=noise)
        ends.append(sample(gaussian().denoiser(path), path, x, ts, solver))
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_sde_solver_keeps_the_marginals(order, eta):
    """Variance of 50,000 samples of N(0.7, 0.25): two slopes come within 4 errors, one does not."""
    path, noise = VPCosine(), seeded_noise(torch.Generator().manual_seed(2))
    ts = log_snr(path, 40, 0.95, 0.02)
    first, last = path.levels(ts[[0, -1]])
    start = (first.alpha**2 * 0.25 + first.sigma**2) ** 0.5
    x = 0.7 * first.alpha + start * noise(torch.empty(50_000, 1))
    end = sample(linear_oracle(path, ts), path, x, ts, dpmpp_sde(order, eta, noise))
    estimate = variance(end[:, 0])
    gap = abs(estimate.value - (0.25 * last.alpha**2 + last.sigma**2)) / estimate.se
    assert gap < 4 if order == 2 else gap > 8


@pytest.mark.parametrize("make", [deis, unipc, dpmpp_sde, lambda n: adams(ANGLE, ASINH, n)])
def test_an_order_below_one_is_refused(make):
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        make(0)


def test_a_negative_eta_is_refused():
    with pytest.raises(ValueError, match="eta must not be negative"):
        dpmpp_sde(2, -0.5)
