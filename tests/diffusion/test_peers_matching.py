"""Flow matching against torchcfm and flow_matching: locations, targets, conversions, couplings.

Both peers run time as Lipman et al. do, with noise at 0 and data at 1: their t is 1 - t here, and
their velocities have the opposite sign.
"""

import pytest
import torch

from notes_lib.diffusion import Linear, encode, pair_noise, transport_cost, velocity_target

REASON = "peer: pip install -r requirements-peers.txt"


@pytest.mark.equation("eq-flow-matching-flow", "eq-flow-matching-ot", "eq-flow-matching-loss")
@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_target_conditional_flow_matcher(sigma_min, monkeypatch):
    peer = pytest.importorskip("torchcfm", reason=REASON)
    matcher = peer.TargetConditionalFlowMatcher(sigma=sigma_min)
    path, t = Linear(sigma_min), torch.rand(32)
    x0, eps = torch.randn(2, 32, 3)
    monkeypatch.setattr(matcher, "sample_noise_like", lambda _: eps)
    _, x_t, u = matcher.sample_location_and_conditional_flow(torch.zeros_like(x0), x0, 1 - t)
    torch.testing.assert_close(path.perturb(x0, eps, t), x_t)
    torch.testing.assert_close(-path.velocity(x_t, x0, t), u)
    torch.testing.assert_close(-encode(velocity_target, path, x0, eps, t), u)


@pytest.mark.equation("eq-flow-matching-flow", "eq-flow-matching-conditional")
def test_affine_path_of_flow_matching():
    paths = pytest.importorskip("flow_matching.path", reason=REASON)
    scheduler = pytest.importorskip("flow_matching.path.scheduler", reason=REASON)
    theirs = paths.AffineProbPath(scheduler.CondOTScheduler())
    path, t = Linear(), 0.1 + 0.8 * torch.rand(32)
    x0, eps = torch.randn(2, 32, 3)
    drawn = theirs.sample(x_0=eps, x_1=x0, t=1 - t)
    torch.testing.assert_close(path.perturb(x0, eps, t), drawn.x_t)
    torch.testing.assert_close(-encode(velocity_target, path, x0, eps, t), drawn.dx_t)
    u = theirs.target_to_velocity(x_1=x0, x_t=drawn.x_t, t=1 - t[:, None])
    torch.testing.assert_close(-path.velocity(drawn.x_t, x0, t), u)


@pytest.mark.equation("eq-flow-matching-coupling")
def test_exact_optimal_transport_matcher():
    """Their plan, solved by POT and then sampled, pairs as cheaply as ours: each pair is one."""
    peer = pytest.importorskip("torchcfm", reason=REASON)
    plan = peer.ExactOptimalTransportConditionalFlowMatcher().ot_sampler.get_map
    x0, eps = torch.randn(2, 64, 3)
    coupling = torch.as_tensor(plan(eps, x0))  # rows noise, columns data
    cost = torch.cdist(eps, x0).square()
    best = (coupling * cost).sum() / coupling.sum()
    torch.testing.assert_close(transport_cost(x0, pair_noise(x0, eps)).mean(), best)
    partner = eps[coupling.argmax(0)]
    torch.testing.assert_close(pair_noise(x0, eps), partner)
