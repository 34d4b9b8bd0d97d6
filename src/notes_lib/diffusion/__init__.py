"""Diffusion on any Gaussian path: path, target, denoiser, grid, solver, one loop.

Glossary: x0 data, eps noise, x_t = alpha x0 + sigma eps, t and s the times a step starts from and
goes to (data at 0, noise at 1), ``_hat`` an estimate, lambda half the log-SNR.
"""

from .bashforth import adams, adams_moulton
from .bridge import Row, posterior, transition
from .calibrate import calibrate
from .churn import churned
from .denoiser import Denoiser, on_path
from .discrete import bin_log_prob
from .elbo import bits_per_dim, bound_terms, fixed_variance, kl_weight, vlb_terms
from .exponential import (
    Coordinate,
    Form,
    angle_form,
    asinh_ratio,
    data_form,
    log_ratio,
    noise_form,
    path_time,
    plain_ratio,
)
from .gaussian import (
    affine_moments,
    exact_flow,
    guided_flow,
    output_variance,
    tilted_gaussian,
)
from .gradient_guidance import (
    ancestral_shifted,
    classifier,
    classifier_loss,
    gradient,
    shift_score,
)
from .grid import (
    eased,
    exponential,
    graded,
    karras,
    log_snr,
    spread,
    subsequence,
    trailing,
    uniform,
)
from .guidance import (
    classifier_free,
    classifier_free_doubled,
    dynamic_threshold,
    interval,
    rescaled,
)
from .heat import continuity_residual, diffuse, heat_velocity
from .importance import LossHistory
from .langevin import annealed_langevin, langevin, mala, stationary_variance
from .likelihood import flow_log_prob, flow_velocity, kl_rate
from .matching import acceleration, loss_floor, pair_noise, path_length
from .multistep import bh1, bh2, deis, dpmpp_2m, dpmpp_3m, dpmpp_sde, halved, unipc
from .path import GaussianPath, Level
from .plan import closed_form, robust, tuned
from .precondition import InputScaling, log_normal_times
from .prediction import (
    Target,
    decode,
    encode,
    eps_target,
    error_ratio,
    karras_target,
    score_target,
    v_target,
    velocity_target,
    x0_target,
)
from .rectify import straightness, transport_cost
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
from .sde import (
    corrector_variance,
    langevin_corrector,
    predictor_corrector,
    reverse_sde,
    reverse_sde_row,
    stay,
)
from .solver import (
    Solver,
    Step,
    ancestral,
    ddim,
    ddim_row,
    euler,
    forward_variance,
    heun,
    linear,
    one_call,
    posterior_variance,
    stepwise,
)
from .transform import SNRShift, ZeroTerminalSNR
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
    "EDM", "VE", "Coordinate", "Denoiser", "Form", "GaussianPath", "InputScaling", "Level",
    "Linear", "LossHistory", "Row", "SNRShift", "Solver", "Step", "SubVP", "Target", "TwoHeads",
    "VPCosine", "VPLinear", "VPTabulated", "ZeroTerminalSNR", "acceleration", "adams",
    "adams_moulton", "affine_moments", "ancestral", "ancestral_shifted", "angle_form",
    "annealed_langevin", "asinh_ratio", "between", "bh1", "bh2", "bin_log_prob", "bits_per_dim",
    "bound_terms", "calibrate", "churned", "classifier", "classifier_free",
    "classifier_free_doubled", "classifier_loss", "clip", "closed_form", "continuity_residual",
    "corrector_variance", "cosine_betas", "data_form", "ddim", "ddim_row", "decode", "deis",
    "diffuse", "dpmpp_2m", "dpmpp_3m", "dpmpp_sde", "dsm", "dynamic_threshold", "eased", "encode",
    "eps_target", "error_ratio", "euler", "exact_flow", "exponential", "fisher", "fixed_variance",
    "flow_log_prob", "flow_velocity", "forward_variance", "graded", "gradient", "guided_flow",
    "halved", "heat_velocity", "heun", "hybrid_loss", "hybrid_terms", "interval", "ism", "karras",
    "karras_target", "kl_rate", "kl_weight", "langevin", "langevin_corrector", "learned_ancestral",
    "learned_variance", "linear", "linear_betas", "log_normal_times", "log_ratio", "log_snr",
    "loss_floor", "mala", "noise_form", "on_path", "one_call", "optimal_variance",
    "output_variance", "pair_noise", "path_length", "path_time", "plain_ratio", "posterior",
    "posterior_variance", "predictor_corrector", "rescaled", "reverse_sde", "reverse_sde_row",
    "robust", "sample", "score_model", "score_of", "score_target", "shift_score", "spread", "ssm",
    "stationary_variance", "stay", "stepwise", "straightness", "subsequence", "tilted_gaussian",
    "trailing", "trajectory", "transition", "transport_cost", "tuned", "uniform", "unipc",
    "v_target", "variance_range", "velocity_target", "vlb_terms", "x0_target",
]  # fmt: skip
