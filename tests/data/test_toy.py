"""The toys have the shapes and the moments their docstrings promise."""

import math

import torch

from notes_lib.core import GaussianMixture
from notes_lib.data import checkerboard, moons, ring, ring_centres


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_centres_lie_evenly_on_the_circle():
    centres = ring_centres(5, 3.0)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((5,), 3.0))
    gaps = (centres - centres.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((5,), 6 * math.sin(math.pi / 5)))
    torch.testing.assert_close(centres[0], torch.tensor([3.0, 0.0]))


def test_the_ring_is_the_mixture():
    """Its mean log density under the mixture is minus the mixture's entropy, and modes are even."""
    x, mixture = ring(20_000, seeded()), GaussianMixture(ring_centres(), torch.tensor(0.15**2))
    drawn, _ = mixture.sample(20_000, seeded(1))
    mine, theirs = mixture.log_prob(x), mixture.log_prob(drawn)
    assert abs(mine.mean() - theirs.mean()) < 4 * (2 * theirs.var() / 20_000) ** 0.5
    counts = torch.cdist(x, ring_centres()).argmin(1).bincount()
    assert abs(counts - 2500).max() < 4 * (20_000 / 8 * 7 / 8) ** 0.5


def test_moons_lie_on_two_half_circles():
    x = moons(2000, seeded(), std=0.0)
    upper = abs(x.norm(dim=1) - 1) < 1e-12
    lower = abs((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1) < 1e-12
    assert (upper ^ lower).all() and upper.sum() == 1000
    noisy = moons(2000, seeded(), std=0.1)
    assert abs((noisy - x).std() / 0.1 - 1) < 0.05  # the same points, with noise


def test_the_board_has_eight_even_fields():
    x = checkerboard(16_000, seeded())
    field = x.floor().long() + 2
    assert (field.sum(1) % 2 == 0).all() and field.min() == 0 and field.max() == 3
    counts = (4 * field[:, 0] + field[:, 1]).bincount()
    counts = counts[counts > 0]
    assert len(counts) == 8 and abs(counts - 2000).max() < 4 * (16_000 / 8 * 7 / 8) ** 0.5
    inside = x - x.floor()
    assert abs(inside.mean(0) - 0.5).max() < 4 / (12 * 16_000) ** 0.5


def test_a_generator_decides():
    for toy in (ring, moons, checkerboard):
        assert toy(50, seeded()).dtype == torch.get_default_dtype()
        assert torch.equal(toy(50, seeded()), toy(50, seeded()))
        assert not torch.equal(toy(50, seeded()), toy(50, seeded(1)))
