"""The families that the diffusion tests run over."""

import torch

from notes_lib.diffusion import (
    EDM,
    VE,
    GaussianPath,
    Linear,
    SNRShift,
    SubVP,
    VPCosine,
    VPLinear,
    VPTabulated,
    ZeroTerminalSNR,
    eps_target,
    karras_target,
    linear_betas,
    score_target,
    v_target,
    velocity_target,
    x0_target,
)

PATHS = [
    VPLinear(), VPCosine(), VPTabulated(linear_betas(1000)), SubVP(), VE(), EDM(), Linear(),
    Linear(0.1), ZeroTerminalSNR(VPTabulated(linear_betas(1000))), SNRShift(VPLinear(), 0.25),
    SNRShift(Linear(), 1 / 9), SNRShift(EDM(), 4.0),
]  # fmt: skip
TARGETS = [x0_target, eps_target, v_target, score_target, velocity_target, karras_target(0.5)]


def name(value):
    """The id of a path or a target; pytest names the rest."""
    if isinstance(value, GaussianPath):
        return type(value).__name__
    return getattr(value, "__name__", "karras") if callable(value) else None


def interior(path, n=7):
    """Times inside the path, off the knots of a table (where it has a kink)."""
    width = path.t_max - path.t_min
    return torch.linspace(path.t_min + 0.0503 * width, path.t_min + 0.9501 * width, n)
