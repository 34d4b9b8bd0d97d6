"""The theorems of flow matching by quadrature and finite differences; pairing by transport."""

from itertools import permutations

import pytest
import torch

from notes_lib.core import GaussianMixture, normal_log_prob
from notes_lib.diffusion import (
    Denoiser,
    Linear,
    VPCosine,
    acceleration,
    continuity_residual,
    encode,
    flow_velocity,
    loss_floor,
    pair_noise,
    path_length,
    velocity_target,
)

from .paths import PATHS, TARGETS, interior, name

every_path = pytest.mark.parametrize("path", PATHS, ids=name)
ATOMS = GaussianMixture(
    torch.tensor([[-1.2], [0.3], [0.8]], dtype=torch.float64),
    torch.tensor(0.0, dtype=torch.float64),
    torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
)


def middle(path):
    """A time well inside the path, off the knots of a table."""
    return interior(path)[3]


def quadrature(path, t, n=4001):
    """Nodes x, their spacing, and the joint density of x_t = x with each atom, (n, k)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    x = torch.linspace(-1, 1, n)[:, None] * (1.3 * alpha + 9 * sigma)
    log_p = normal_log_prob(x, alpha * ATOMS.means.T, sigma**2)
    return x, (x[1] - x[0]).item(), (ATOMS.weights.log() + log_p).exp()


def conditional(path, x, t):
    """The field of each atom at each x, (n, k)."""
    atoms = ATOMS.means.T.expand(len(x), -1)
    return path.velocity(x.expand_as(atoms), atoms, t)


@every_path
@pytest.mark.equation("eq-flow-matching-flow", "eq-flow-matching-conditional")
def test_theorem_3_is_the_time_derivative_of_the_flow(path):
    x0, eps = torch.randn(2, 50, 3)
    for t in interior(path):
        h = 1e-5 * t
        moved = (path.perturb(x0, eps, t + h) - path.perturb(x0, eps, t - h)) / (2 * h)
        field = path.velocity(path.perturb(x0, eps, t), x0, t)
        torch.testing.assert_close(field, moved, rtol=1e-6, atol=1e-7)


@every_path
@pytest.mark.equation("eq-flow-matching-conditional")
def test_the_misprint_of_theorem_3_is_wrong(path):
    """sigma' (sigma' y + mu') + mu', with the inverse of the flow written as its derivative."""
    x0, y, t = torch.randn(50, 3), torch.randn(50, 3), middle(path)
    mu_dot, rate = path.alpha_dot(t) * x0, path.sigma_dot(t)
    misprint = rate * (rate * y + mu_dot) + mu_dot
    right = rate * (y - path.alpha(t) * x0) / path.sigma(t) + mu_dot
    torch.testing.assert_close(path.velocity(y, x0, t), right)
    assert (misprint - right).abs().max() > 0.1


@every_path
@pytest.mark.equation("eq-flow-matching-field")
def test_theorem_1_is_the_posterior_mean_of_the_conditional_fields(path):
    t = middle(path)
    x, _, joint = quadrature(path, t, n=401)
    x, joint = x[100:300], joint[100:300]  # where the density does not underflow
    average = (joint * conditional(path, x, t)).sum(1) / joint.sum(1)
    field = flow_velocity(ATOMS.denoiser(path), path)
    torch.testing.assert_close(field(t, x)[:, 0], average, rtol=1e-9, atol=1e-9)


@every_path
@pytest.mark.equation("eq-flow-matching-field")
def test_the_marginal_field_carries_the_marginal_density(path):
    law = GaussianMixture(torch.randn(4, 3), 0.05 + torch.rand(4, 3), 0.1 + torch.rand(4))
    t, n = middle(path), 30
    x = path.perturb(law.sample(n)[0], torch.randn(n, 3), t)
    field = flow_velocity(law.denoiser(path), path)
    density = lambda t, x: law.log_prob(x, path.alpha(t), path.sigma(t))
    residual = continuity_residual(density, field, x, t.expand(n))
    torch.testing.assert_close(residual, torch.zeros(n), atol=1e-9, rtol=0)
    frozen = lambda t, x: path.velocity(x, law.means[:1].expand_as(x), t)
    assert continuity_residual(density, frozen, x, t.expand(n)).abs().max() > 1e-3


@every_path
@pytest.mark.equation("eq-flow-matching-loss", "eq-flow-matching-gap")
def test_theorem_2_by_quadrature(path):
    """Equal gradients; the losses differ by one number, the floor, whatever the network."""
    t = middle(path)
    x, dx, joint = quadrature(path, t)
    p = joint.sum(1)
    variance = ATOMS.posterior_variance(x, path.alpha(t), path.sigma(t))
    floor = (p * loss_floor(velocity_target, path, variance, t)).sum() * dx
    field = flow_velocity(ATOMS.denoiser(path), path)(t, x)[:, 0]
    for seed in range(5):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        v = net(x / path.sigma(t))
        fm = (p * (v[:, 0] - field) ** 2).sum() * dx
        cfm = (joint * (v - conditional(path, x, t)) ** 2).sum() * dx
        torch.testing.assert_close(cfm - fm, floor, rtol=1e-8, atol=1e-8)
        theirs, ours = (torch.autograd.grad(loss, net.parameters(), retain_graph=True)
                        for loss in (fm, cfm))  # fmt: skip
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("eq-flow-matching-gap")
@every_path
@pytest.mark.parametrize("target", TARGETS, ids=name)
def test_the_exact_network_reaches_the_floor(path, target):
    """Monte Carlo: the mean error of the best network is the mean floor, for every target."""
    law = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor(0.1))
    n, t = 4000, middle(path)
    x0, eps = law.sample(n)[0], torch.randn(n, 2)
    denoise = law.denoiser(path)

    def best(x, t):
        x0_hat = denoise(x, t[:1].squeeze())
        return encode(target, path, x0_hat, path.eps_from_x0(x, x0_hat, t[0]), t)

    errors = Denoiser(best, path, target).errors(x0, t.expand(n), eps)
    x_t = path.perturb(x0, eps, t)
    variance = law.posterior_variance(x_t, path.alpha(t), path.sigma(t))
    gap = errors - loss_floor(target, path, variance, t)
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    assert errors.mean() > 0


@pytest.mark.equation("eq-flow-matching-ot")
@pytest.mark.parametrize("sigma_min", [0.0, 1e-2, 0.3])
def test_conditional_ot_field_of_lipman(sigma_min):
    """Their eq. 21, in their time and with their sign."""
    path = Linear(sigma_min)
    x, x1 = torch.randn(2, 40, 3)
    for t in (0.0, 0.4, 0.9):
        theirs = (x1 - (1 - sigma_min) * x) / (1 - (1 - sigma_min) * t)
        torch.testing.assert_close(-path.velocity(x, x1, torch.tensor(1.0 - t)), theirs)


def test_no_velocity_where_there_is_no_noise():
    """0/0 is not hidden by a clamp; the regression target, which divides by nothing, is fine."""
    t, (x0, eps) = torch.tensor(0.0), torch.randn(2, 4, 3)
    assert Linear().velocity(x0, x0, t).isnan().all()
    assert Linear(0.01).velocity(x0, x0, t).isfinite().all()
    torch.testing.assert_close(encode(velocity_target, Linear(), x0, eps, t), eps - x0)


@every_path
@pytest.mark.equation("eq-flow-matching-acceleration")
def test_acceleration_of_conditional_flows(path):
    """alpha'' x0 + sigma'' eps, by finite differences; zero on the linear paths."""
    x0, eps = torch.randn(2, 20, 3)
    t = middle(path)
    h = 1e-4 * t
    left, here, right = (path.perturb(x0, eps, t + k * h) for k in (-1, 0, 1))
    got = acceleration(lambda t, x: path.velocity(x, x0, t), t, here)
    second = (left - 2 * here + right) / h**2
    atol = 1e-3 * (1 + second.abs().max().item())
    torch.testing.assert_close(got, second, rtol=1e-4, atol=atol)
    if type(path).__name__ in ("Linear", "EDM"):
        assert got.abs().max() < 1e-10
    if type(path).__name__ in ("VPLinear", "VPCosine", "VE"):
        assert got.abs().max() > 1


@pytest.mark.equation("eq-flow-matching-acceleration")
def test_acceleration_of_known_fields():
    """Rotation at rate 2: minus 4 x. A field that only depends on time: its derivative."""
    x, t = torch.randn(10, 2), torch.tensor(0.3)
    turn = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    torch.testing.assert_close(acceleration(lambda t, x: x @ turn.T, t, x), -4 * x)
    torch.testing.assert_close(
        acceleration(lambda t, x: t**3 + 0 * x, t, x), torch.full_like(x, 0.27)
    )
    path = VPCosine()
    law = GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0))  # N(0, I): nothing moves
    still = acceleration(flow_velocity(law.denoiser(path), path), t, x)
    torch.testing.assert_close(still, torch.zeros_like(x), atol=1e-12, rtol=0)


def test_path_length_of_known_polygons():
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])[:, None]
    torch.testing.assert_close(path_length(square), torch.tensor([4.0]))
    angle = torch.linspace(0, torch.pi, 2001)
    arc = torch.stack([angle.cos(), angle.sin()], 1)[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(path_length(arc), torch.full((3,), torch.pi), rtol=1e-6, atol=0)
    images = torch.randn(4, 5, 1, 8, 8)
    torch.testing.assert_close(path_length(images), path_length(images.flatten(2)))


@pytest.mark.equation("eq-flow-matching-coupling")
@pytest.mark.parametrize("shape", [(6, 2), (6, 1, 2, 2)])
def test_no_permutation_is_cheaper(shape):
    x0, eps = torch.randn(2, *shape)
    paired = pair_noise(x0, eps)
    best = min((x0 - eps[list(p)]).square().sum() for p in permutations(range(len(x0))))
    torch.testing.assert_close((x0 - paired).square().sum(), best)


@pytest.mark.equation("eq-flow-matching-coupling")
def test_pairing_only_reorders():
    x0, eps = torch.randn(2, 200, 3)
    paired = pair_noise(x0, eps)
    torch.testing.assert_close(paired.sort(0).values, eps.sort(0).values, rtol=0, atol=0)
    assert (x0 - paired).square().sum() < (x0 - eps).square().sum()
    torch.testing.assert_close(pair_noise(eps, eps[torch.randperm(200)]), eps)
    in_one_dimension = pair_noise(x0[:, :1], eps[:, :1])
    order = x0[:, 0].argsort()
    assert (in_one_dimension[order, 0].diff() >= 0).all()  # monotone, as transport on a line is


def test_what_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        loss_floor(velocity_target, Linear(), -torch.ones(2, 2), torch.tensor(0.5))
    with pytest.raises(ValueError, match="x0_variance must be finite"):
        loss_floor(velocity_target, Linear(), torch.full((2, 2), torch.nan), torch.tensor(0.5))
    with pytest.raises(ValueError, match="2 points or more, got 1"):
        path_length(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="eps must be finite, got 1 of 4"):
        pair_noise(torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]))
