"""Rectified flow against torchcfm, and transport costs against POT."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from notes_lib.data import ring
from notes_lib.diffusion import Denoiser, Linear, encode, transport_cost, velocity_target

PEERS = "peer: pip install -r requirements-peers.txt"
PATH = Linear()


@pytest.mark.equation("eq-rectified-flow-velocity", "eq-rectified-flow-loss")
def test_torchcfm_draws_the_same_points_and_velocities():
    """Its x0 is the noise and its time runs from it: x0, x1, t, u are our eps, x0, 1 - t, -v."""
    cfm = pytest.importorskip("torchcfm", reason=PEERS)
    matcher = cfm.ConditionalFlowMatcher(sigma=0.0)
    x0, eps, t = ring(64), torch.randn(64, 2), torch.rand(64)
    s, x_s, u = matcher.sample_location_and_conditional_flow(eps, x0, t=1 - t)
    torch.testing.assert_close(x_s, PATH.perturb(x0, eps, 1 - s))
    torch.testing.assert_close(-u, encode(velocity_target, PATH, x0, eps, t))
    net = lambda x, t: torch.sin(x) * t[:, None]
    theirs = (net(x_s, 1 - s) + u).square().mean()
    torch.testing.assert_close(Denoiser(net, PATH, velocity_target).loss(x0, t, eps), theirs)


@pytest.mark.equation("eq-rectified-flow-cost")
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_the_best_pairs_cost_what_pot_says(power):
    ot = pytest.importorskip("ot", reason=PEERS)
    x0, eps = ring(200), torch.randn(200, 2)
    every = torch.stack([transport_cost(x0.roll(k, 0), eps, power) for k in range(200)])
    cost = torch.stack([every[(i - torch.arange(200)) % 200, i] for i in range(200)])
    rows, columns = linear_sum_assignment(cost.numpy())
    mine = transport_cost(x0[torch.as_tensor(columns)], eps, power).mean().item()
    assert abs(mine - ot.emd2([], [], cost.numpy())) < 1e-10
    assert mine < cost.diagonal().mean().item()
