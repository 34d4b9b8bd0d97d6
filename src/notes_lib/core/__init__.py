"""Mathematics that every chapter borrows. Imports torch only.

Glossary: x0 data, x_t noised data, eps standard normal noise, alpha and sigma the scale of data and
of noise in x_t = alpha x0 + sigma eps, t and s the time a step starts from and goes to.
"""

from .divergence import exact_divergence, hutchinson_divergence, rademacher
from .gaussian import normal_kl, normal_log_prob
from .memory import PeakBytes
from .metrics import Estimate, bootstrap, frechet_distance, mean, nearest_distance, variance
from .ode import DOPRI5, EULER, HEUN, RK4, Embedded, Tableau, adaptive, odeint, rk_step
from .oracle import Denoise, Empirical, GaussianMixture
from .sde import euler_maruyama
from .sensitivity import sensitivity
from .tensor import Noise, check_finite, check_same, expand_to, seeded_noise, slerp
from .two_sample import PrecisionRecall, c2st, mmd_rbf, precision_recall, sliced_wasserstein

__all__ = [
    "DOPRI5", "EULER", "HEUN", "RK4", "Denoise", "Embedded", "Empirical", "Estimate",
    "GaussianMixture", "Noise", "PeakBytes", "PrecisionRecall", "Tableau", "adaptive", "bootstrap",
    "c2st", "check_finite", "check_same", "euler_maruyama", "exact_divergence", "expand_to",
    "frechet_distance", "hutchinson_divergence", "mean", "mmd_rbf", "nearest_distance", "normal_kl",
    "normal_log_prob", "odeint", "precision_recall", "rademacher", "rk_step", "seeded_noise",
    "sensitivity", "slerp", "sliced_wasserstein", "variance",
]  # fmt: skip
