"""Diffusion on any Gaussian path: path, target, denoiser, grid, solver, one loop.

Glossary: x0 data, eps noise, x_t = alpha x0 + sigma eps, t and s the times a step starts from and
goes to (data at 0, noise at 1), ``_hat`` an estimate, lambda half the log-SNR.
"""

from .bridge import Row, posterior, transition
from .denoiser import Denoiser
from .elbo import bits_per_dim, kl_weight, vlb_terms
from .gaussian import exact_flow, output_variance
from .grid import karras, log_snr, spread, subsequence, uniform
from .path import (
    EDM,
    VE,
    GaussianPath,
    Level,
    Linear,
    VPCosine,
    VPLinear,
    VPTabulated,
    linear_betas,
)
from .prediction import (
    Target,
    decode,
    encode,
    eps_target,
    karras_target,
    score_target,
    v_target,
    velocity_target,
    x0_target,
)
from .sample import clip, sample, trajectory
from .solver import (
    Solver,
    Step,
    ancestral,
    ddim,
    ddim_row,
    dpmpp_2m,
    euler,
    forward_variance,
    heun,
    linear,
    one_call,
    posterior_variance,
    stepwise,
)

__all__ = [
    "EDM", "VE", "Denoiser", "GaussianPath", "Level", "Linear", "Row", "Solver", "Step", "Target",
    "VPCosine", "VPLinear", "VPTabulated", "ancestral", "bits_per_dim", "clip", "ddim", "ddim_row",
    "decode", "dpmpp_2m", "encode", "eps_target", "euler", "exact_flow", "forward_variance", "heun",
    "karras", "karras_target", "kl_weight", "linear", "linear_betas", "log_snr", "one_call",
    "output_variance", "posterior", "posterior_variance", "sample", "score_target", "spread",
    "stepwise", "subsequence", "trajectory", "transition", "uniform", "v_target", "velocity_target",
    "vlb_terms", "x0_target",
]  # fmt: skip
