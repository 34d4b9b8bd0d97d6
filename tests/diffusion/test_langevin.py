"""Langevin dynamics against exact variances, exact laws and a peer's step."""

import math

import pytest
import torch

from notes_lib.core import GaussianMixture, seeded_noise, variance
from notes_lib.diffusion import (
    VE,
    annealed_langevin,
    langevin,
    mala,
    score_model,
    stationary_variance,
)


def last(chain):
    *_, x = chain
    return x


@pytest.mark.equation("eq-score-matching-langevin", "eq-score-matching-bias")
@pytest.mark.parametrize("step", [0.01, 0.1, 0.5, 1.0, 1.9])
@pytest.mark.parametrize("v", [1.0, 0.3])
def test_the_stationary_variance_is_a_fixed_point(step, v):
    """One step keeps the variance v/(1 - eps/2v): x -> (1 - eps/v) x + sqrt(2 eps) z."""
    step *= v
    kept = stationary_variance(v, step)
    x, z = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    (moved,) = langevin(lambda x: -x / v, x, step, 1, lambda _: z)
    gain, std = moved[:, 0]
    torch.testing.assert_close(gain**2 * kept + std**2, x.new_tensor(kept))


@pytest.mark.equation("eq-score-matching-bias")
@pytest.mark.parametrize(("step", "steps"), [(0.1, 100), (0.5, 30), (1.0, 5)])
def test_chains_settle_at_the_stationary_variance(step, steps):
    x, noise = torch.zeros(100_000, 1), seeded_noise(torch.Generator().manual_seed(0))
    drawn = variance(last(langevin(torch.neg, x, step, steps, noise))[:, 0])
    assert abs(drawn.value - stationary_variance(1.0, step)) < 4 * drawn.se


@pytest.mark.parametrize("step", [0.0, -1.0, 2.0, math.nan])
def test_no_stationary_variance(step):
    with pytest.raises(ValueError, match="step must lie in"):
        stationary_variance(1.0, step)


@pytest.mark.equation("eq-score-matching-langevin")
def test_without_noise_all_mass_goes_to_the_mode():
    x = last(langevin(torch.neg, torch.randn(100, 2), 0.1, 400, torch.zeros_like))
    assert x.abs().max() < 1e-15


@pytest.mark.equation("eq-score-matching-annealed")
def test_the_ladder_scales_its_steps():
    """With the score -x/sigma^2 every rung shrinks x by the same factor."""
    path, x = VE(0.1, 10.0), torch.ones(1, 1)
    ladder = path.levels(torch.linspace(1, 0, 5))
    xs = list(
        annealed_langevin(
            lambda x, t: -x / path.sigma(t) ** 2, x, ladder, 0.002, 3, torch.zeros_like
        )
    )
    torch.testing.assert_close(torch.cat(xs)[:, 0], 0.8 ** torch.arange(1.0, 16))


@pytest.mark.equation("eq-score-matching-annealed")
def test_the_noise_of_a_rung():
    path, x = VE(0.1, 10.0), torch.zeros(1, 1)
    ladder = path.levels(torch.linspace(1, 0, 3))
    xs = annealed_langevin(lambda x, t: 0 * x, x, ladder, 0.02, 1, torch.ones_like)
    steps = torch.cat([x, *xs])[:, 0].diff()
    torch.testing.assert_close(steps, 0.2 * torch.tensor([100.0, 10.0, 1.0]))


@pytest.mark.equation("eq-score-matching-annealed")
def test_annealing_finds_the_weights_that_plain_langevin_cannot():
    modes = GaussianMixture(
        torch.tensor([[-4.0], [4.0]]), torch.tensor(0.25), torch.tensor([0.8, 0.2])
    )
    path = VE(0.05, 16.0)
    score = score_model(modes.denoiser(path), path)
    noise = seeded_noise(torch.Generator().manual_seed(0))
    ladder = path.levels(torch.linspace(1, 0, 24))
    x, n = 16 * noise(torch.empty(4000, 1)), 4000
    share = (last(annealed_langevin(score, x, ladder, 2e-4, 30, noise)) < 0).double().mean()
    assert abs(share - 0.8) < 0.03
    t = torch.tensor(0.0)
    plain = last(langevin(lambda x: score(x, t), x, 0.02, 300, noise))
    assert abs((plain < 0).double().mean() - 0.5) < 4 * 0.5 / n**0.5


def bimodal(x):
    return GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor(0.3)).log_prob(x)


@pytest.mark.parametrize("step", [0.1, 0.5, 1.5])
def test_mala_keeps_the_law_at_any_step(step):
    """Started from exact draws, the variance stays; without the correction it would not."""
    modes = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor(0.3))
    x, _ = modes.sample(10_000, torch.Generator().manual_seed(0))
    drawn = last(mala(bimodal, x, step, 20, seeded_noise(torch.Generator().manual_seed(1))))
    moved = variance(drawn[:, 0])
    assert abs(moved.value - 1.3) < 4 * moved.se
    assert 0.05 < (drawn != x).double().mean() <= 1


def test_mala_satisfies_detailed_balance():
    """p(x) q(y|x) min(1, e^a) is symmetric: acceptance by quadrature from both ends."""
    x, y, step = torch.tensor([[0.3]]), torch.tensor([[1.1]]), 0.4

    def flow(x, y):
        score = torch.func.grad(lambda x: bimodal(x[None])[0])(x[0])
        z = (y - x - step * score) / (2 * step) ** 0.5
        coins = torch.linspace(0.0005, 0.9995, 1000)

        def noise(like):
            return z.expand_as(like) if like.ndim == 2 else torch.special.ndtri(coins)

        (moved,) = mala(bimodal, x.expand(1000, 1), step, 1, noise)
        accepted = (
            (moved == moved.max()).double().mean()
            if y > x
            else (moved == moved.min()).double().mean()
        )
        return accepted * (bimodal(x)[0] - 0.5 * z.square().sum()).exp()

    torch.testing.assert_close(flow(x, y), flow(y, x), rtol=2e-3, atol=0)


def test_a_hopeless_proposal_is_rejected():
    x = torch.randn(5, 1)
    (stayed,) = mala(lambda x: -0.5 * x.square().sum(1), x, 1e6, 1)
    assert torch.equal(stayed, x)


@pytest.mark.equation("eq-score-matching-langevin")
def test_step_of_diffusers(monkeypatch):
    """ScoreSdeVeScheduler.step_correct is this step, its size chosen from the norms."""
    diffusers = pytest.importorskip("diffusers", reason="peer: requirements-peers.txt")
    scheduler = diffusers.ScoreSdeVeScheduler()
    scheduler.set_timesteps(10)
    x, z = torch.randn(2, 4, 3, 2, 2)
    monkeypatch.setattr("diffusers.schedulers.scheduling_sde_ve.randn_tensor", lambda *_, **__: z)

    def score(x):
        return torch.sin(2 * x) - x

    theirs = scheduler.step_correct(score(x), x).prev_sample
    norms = (v.flatten(1).norm(dim=1).mean() for v in (z, score(x)))
    z_norm, score_norm = norms
    step = 2 * (0.15 * z_norm / score_norm) ** 2
    (ours,) = langevin(score, x, step.item(), 1, lambda _: z)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_gradients_are_off_and_the_start_is_kept():
    weight = torch.ones(1, requires_grad=True)
    x = torch.zeros(2, 1)
    chain = list(langevin(lambda x: -weight * x, x, 0.1, 3))
    assert len(chain) == 3 and not chain[-1].requires_grad and torch.equal(x, torch.zeros(2, 1))
    for _ in langevin(torch.neg, x, 0.1, 1):
        assert torch.is_grad_enabled()  # the caller's own work keeps its gradients


@pytest.mark.parametrize("walk", [langevin, mala])
@pytest.mark.parametrize(
    ("x", "step", "steps", "word"),
    [
        (torch.full((2, 1), torch.inf), 0.1, 3, "x must be finite"),
        (torch.zeros(2, 1), 0.0, 3, "step must be positive, got 0"),
        (torch.zeros(2, 1), 0.1, 0, "steps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_at_the_call(walk, x, step, steps, word):
    with pytest.raises(ValueError, match=word):
        walk(torch.neg, x, step, steps)


@pytest.mark.parametrize("ts", [[], [0.0, 1.0], [1.0, 1.0]])
def test_a_ladder_must_fall(ts):
    ladder = VE().levels(torch.tensor(ts)) if ts else []
    with pytest.raises(ValueError, match="sigma must fall strictly"):
        annealed_langevin(lambda x, t: -x, torch.zeros(2, 1), ladder, 0.1, 3)
