"""Mathematics that every chapter borrows. Imports torch only.

Glossary: x0 data, x_t noised data, eps standard normal noise, alpha and sigma the scale of data and
of noise in x_t = alpha x0 + sigma eps, t and s the time a step starts from and goes to.
"""

from .gaussian import normal_kl, normal_log_prob
from .metrics import Estimate, bootstrap, frechet_distance, mean, nearest_distance, variance
from .ode import EULER, HEUN, RK4, Tableau, odeint, rk_step
from .oracle import Denoise, Empirical, GaussianMixture
from .tensor import Noise, check_finite, check_same, expand_to, seeded_noise, slerp

__all__ = [
    "EULER", "HEUN", "RK4", "Denoise", "Empirical", "Estimate", "GaussianMixture", "Noise",
    "Tableau", "bootstrap", "check_finite", "check_same", "expand_to", "frechet_distance", "mean",
    "nearest_distance", "normal_kl", "normal_log_prob", "odeint", "rk_step", "seeded_noise",
    "slerp", "variance",
]  # fmt: skip
