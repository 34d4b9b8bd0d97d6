"""A mixture in the plane with a class, for the tests of guidance."""

import torch

from notes_lib.core import GaussianMixture


def mixture():
    """Four bumps in the plane; the class is the first two."""
    means = torch.tensor([[-1.0, 0.5], [0.3, -1.0], [1.0, 0.8], [0.2, 0.1]], dtype=torch.float64)
    variances = torch.tensor([[0.1], [0.3], [0.2], [0.15]], dtype=torch.float64)
    return GaussianMixture(means, variances, torch.tensor([1.0, 2.0, 3.0, 1.0]).double())


def class_of(whole):
    return GaussianMixture(whole.means[:2], whole.variances[:2], whole.weights[:2])


def log_prob_of(whole, path):
    return lambda x, t: whole.log_posterior(x, path.alpha(t), path.sigma(t))[:, :2].logsumexp(1)
