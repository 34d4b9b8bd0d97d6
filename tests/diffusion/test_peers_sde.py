"""The SDE chapter against torchsde, torchdiffeq and diffusers, on the same noise."""

from itertools import pairwise

import pytest
import torch

from notes_lib.core import GaussianMixture, adaptive, euler_maruyama
from notes_lib.diffusion import (
    VE,
    VPLinear,
    ancestral,
    flow_log_prob,
    flow_velocity,
    forward_variance,
    langevin_corrector,
    one_call,
    reverse_sde_row,
    score_model,
)

PEER = "peer: pip install -r requirements-peers.txt"
MIXTURE = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [1.2, 0.8]], dtype=torch.float64),
    torch.tensor(0.1, dtype=torch.float64),
)


class Reverse(torch.nn.Module):
    """The reverse SDE in torchsde's form, with its own time tau = 1 - t that rises."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, path, lam):
        super().__init__()
        self.path, self.lam = path, lam
        self.score = score_model(MIXTURE.denoiser(path), path)

    def f(self, tau, y):
        t = 1 - tau
        pull = 0.5 * (1 + self.lam**2) * self.path.diffusion_sq(t) * self.score(y, t)
        return pull - self.path.drift(t) * y

    def g(self, tau, y):
        return self.lam * self.path.diffusion_sq(1 - tau).sqrt() * torch.ones_like(y)


@pytest.mark.equation("eq-score-sde-family", "eq-score-sde-step")
@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
def test_torchsde_takes_the_same_path(lam):
    """Our solver's row, our euler_maruyama and torchsde's euler, one Wiener path.

    The steps are 1/32, exact in binary: a path of w read a rounding error later is another number.
    """
    torchsde = pytest.importorskip("torchsde", reason=PEER)
    path, x, tau = VPLinear(), torch.randn(6, 2), torch.linspace(0.0, 0.875, 29)
    bm = torchsde.BrownianInterval(0.0, 0.875, size=(6, 2), dtype=torch.float64, entropy=0)
    sde = Reverse(path, lam)
    theirs = torchsde.sdeint(sde, x, tau, bm=bm, method="euler", dt=1 / 32)

    steps = [bm(a, b) / (b - a).sqrt() for a, b in pairwise(tau)]
    for plain in (True, False):
        draws = iter(steps)
        noise = lambda x, draws=draws: next(draws)
        if plain:
            ends = list(euler_maruyama(sde.f, sde.g, x, tau, noise))
        else:
            solver, y, ends = one_call(lambda t, s: reverse_sde_row(t, s, lam), noise), x, []
            for step in solver(path.levels(1 - tau)):
                y, _ = step(MIXTURE.denoiser(path), y, None)
                ends.append(y)
        torch.testing.assert_close(torch.stack(ends), theirs[1:], atol=1e-9, rtol=1e-9)


@pytest.mark.equation("eq-score-sde-log-prob", "eq-score-sde-flow")
def test_torchdiffeq_finds_the_same_log_density():
    torchdiffeq = pytest.importorskip("torchdiffeq", reason=PEER)
    path, x = VPLinear(), MIXTURE.sample(20)[0]
    velocity = flow_velocity(MIXTURE.denoiser(path), path)
    end = torch.tensor(0.9)
    terminal = lambda z: MIXTURE.log_prob(z, path.alpha(end), path.sigma(end))

    def ours(f, y):
        *_, (_, y) = adaptive(f, y, 0.05, 0.9, rtol=1e-8, atol=1e-8)
        return y

    def theirs(f, y):
        ts = torch.tensor([0.05, 0.9])
        return torchdiffeq.odeint(f, y, ts, rtol=1e-8, atol=1e-8, method="dopri5")[-1]

    a, b = (flow_log_prob(velocity, x, terminal, solve) for solve in (ours, theirs))
    torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


def test_torchdiffeq_needs_about_as_many_calls():
    """A controller that works harder than the reference for one accuracy would be a poor one."""
    torchdiffeq = pytest.importorskip("torchdiffeq", reason=PEER)
    calls = {"ours": 0, "theirs": 0}

    def field(who):
        def orbit(t, x):
            calls[who] += 1
            radius = x[:, :2].norm(dim=1, keepdim=True)
            return torch.cat([x[:, 2:], -x[:, :2] / radius**3], 1)

        return orbit

    x = torch.tensor([[0.4, 0.0, 0.0, 2.0]])  # an ellipse of eccentricity 0.6 and period 2 pi
    period = 2 * torch.pi
    *_, (_, ours) = adaptive(field("ours"), x, 0.0, period, rtol=1e-8, atol=1e-8)
    theirs = torchdiffeq.odeint(
        field("theirs"), x, torch.tensor([0.0, period]), rtol=1e-8, atol=1e-8, method="dopri5"
    )[-1]
    assert calls["ours"] < 1.3 * calls["theirs"]
    assert (ours - x).abs().max() < 2 * max((theirs - x).abs().max(), torch.tensor(1e-8))


@pytest.mark.equation("eq-score-sde-corrector", "eq-score-sde-reverse")
def test_diffusers_predictor_and_corrector(monkeypatch):
    """Its predictor is our ancestral step on VE with the forward variance; tables in float32."""
    diffusers = pytest.importorskip("diffusers", reason=PEER)
    n, path = 50, VE(0.01, 10.0)
    scheduler = diffusers.ScoreSdeVeScheduler(
        num_train_timesteps=n, snr=0.2, sigma_min=0.01, sigma_max=10.0, sampling_eps=1e-5
    )
    scheduler.set_timesteps(n)
    scheduler.set_sigmas(n)
    oracle = GaussianMixture(torch.tensor([[0.5, -0.5, 0.2]]), torch.tensor(0.3)).denoiser(path)
    score, x = score_model(oracle, path), 10 * torch.randn(8, 3)
    module = "diffusers.schedulers.scheduling_sde_ve.randn_tensor"
    for k in (n - 1, n // 2, 1):
        times = torch.tensor([k, k - 1]) / (n - 1)
        t, s = path.levels(times)
        z = torch.randn(8, 3)
        z = z * 3**0.5 / z.norm(dim=1).mean()  # they use the mean norm of z, we its limit sqrt d
        monkeypatch.setattr(module, lambda *_, z=z, **__: z)

        step = ancestral(forward_variance, noise=lambda _, z=z: z)([t, s])[0]
        ours, _ = step(oracle, x, None)
        time = torch.tensor((k + 0.5) / (n - 1))  # they truncate to an index
        theirs = scheduler.step_pred(score(x, t.time), time, x).prev_sample
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)

        ours = langevin_corrector(0.2, noise=lambda _, z=z: z)(oracle, x, t)
        theirs = scheduler.step_correct(score(x, t.time), x).prev_sample
        torch.testing.assert_close(theirs, ours, atol=1e-10, rtol=1e-10)
