"""Diffusion on any Gaussian path: path, target, denoiser, grid, solver, one loop.

Glossary: x0 data, eps noise, x_t = alpha x0 + sigma eps, t and s the times a step starts from and
goes to (data at 0, noise at 1), ``_hat`` an estimate, lambda half the log-SNR.
"""

from .bridge import Row, posterior, transition
from .churn import churned
from .denoiser import Denoiser, on_path
from .discrete import bin_log_prob
from .elbo import bits_per_dim, bound_terms, fixed_variance, kl_weight, vlb_terms
from .gaussian import exact_flow, output_variance
from .grid import karras, log_snr, spread, subsequence, uniform
from .importance import LossHistory
from .langevin import annealed_langevin, langevin, mala, stationary_variance
from .path import GaussianPath, Level
from .precondition import InputScaling, log_normal_times
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
from .schedule import (
    EDM,
    VE,
    Linear,
    SubVP,
    VPCosine,
    VPLinear,
    VPTabulated,
    cosine_betas,
    linear_betas,
)
from .score import dsm, fisher, ism, score_model, score_of, ssm
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
from .variance import (
    TwoHeads,
    between,
    hybrid_loss,
    hybrid_terms,
    learned_ancestral,
    learned_variance,
    optimal_variance,
    variance_range,
)

__all__ = [
    "EDM", "VE", "Denoiser", "GaussianPath", "InputScaling", "Level", "Linear", "LossHistory",
    "Row", "Solver", "Step", "SubVP", "Target", "TwoHeads", "VPCosine", "VPLinear", "VPTabulated",
    "ancestral", "annealed_langevin", "between", "bin_log_prob", "bits_per_dim", "bound_terms",
    "churned", "clip", "cosine_betas", "ddim", "ddim_row", "decode", "dpmpp_2m", "dsm", "encode",
    "eps_target", "euler", "exact_flow", "fisher", "fixed_variance", "forward_variance", "heun",
    "hybrid_loss", "hybrid_terms", "ism", "karras", "karras_target", "kl_weight", "langevin",
    "learned_ancestral", "learned_variance", "linear", "linear_betas", "log_normal_times",
    "log_snr", "mala", "on_path", "one_call", "optimal_variance", "output_variance", "posterior",
    "posterior_variance", "sample", "score_model", "score_of", "score_target", "spread", "ssm",
    "stationary_variance", "stepwise", "subsequence", "trajectory", "transition", "uniform",
    "v_target", "variance_range", "velocity_target", "vlb_terms", "x0_target",
]  # fmt: skip
