"""Train the same small network once in the manner of each diffusion chapter; DDIM's is DDPM's.

    python training/one_frame.py

Two moons in the plane, three seeds a manner. About five minutes on one core. Writes
src/notes_lib/checkpoints/one_frame.safetensors with the seed, the commit, the date and the loss
curve (relative to each manner's first losses, averaged over all) inside.
"""

from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn

from notes_lib.data import moons
from notes_lib.diffusion import (
    EDM,
    VE,
    Denoiser,
    GaussianPath,
    InputScaling,
    Linear,
    Target,
    VPCosine,
    VPLinear,
    VPTabulated,
    cosine_betas,
    eps_target,
    karras_target,
    linear_betas,
    log_normal_times,
    v_target,
    velocity_target,
)
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

BATCH, STEPS, RATE, SEEDS = 256, 2400, 3e-3, (0, 1, 2)
T = 1000
DDPM = VPTabulated(linear_betas(T))
COSINE = VPTabulated(cosine_betas(T))


def of_the_chain(n: int) -> Tensor:
    """Steps 1 to T of a discrete chain, as times."""
    return torch.randint(1, T + 1, (n,)) / T


def of_karras(n: int) -> Tensor:
    """log sigma ~ N(-0.5, 1.2^2): the paper's mean, moved to data of standard deviation 1."""
    return log_normal_times(EDM(), n, -0.5, 1.2)


class Manner(NamedTuple):
    """What a chapter chooses before it trains."""

    path: GaussianPath
    target: Target
    times: Callable[[int], Tensor]
    scaled: bool = False


MANNERS = {
    "score-matching": Manner(VE(0.02, 10.0), eps_target, torch.rand, scaled=True),
    "ddpm": Manner(DDPM, eps_target, of_the_chain),
    "improved-ddpm": Manner(COSINE, eps_target, of_the_chain),
    "score-sde": Manner(VPLinear(), eps_target, torch.rand),
    "rectified-flow": Manner(Linear(), velocity_target, torch.rand),
    "flow-matching": Manner(Linear(0.01), velocity_target, torch.rand),
    "velocity-prediction": Manner(VPCosine(), v_target, torch.rand),
    "edm": Manner(EDM(), karras_target(1.0), of_karras, scaled=True),
}


def data(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Two moons with mean 0 and standard deviation 1 over both coordinates."""
    return (moons(n, generator) - torch.tensor([0.5, 0.25])) / 0.709


def model_of(manner: Manner) -> Denoiser:
    """The untrained model of one manner: always the same network."""
    net = ResidualMLP(2, hidden=56, blocks=2, condition=32)
    net = InputScaling(net, manner.path, 1.0) if manner.scaled else net
    return Denoiser(net, manner.path, manner.target)


def build() -> nn.ModuleDict:
    """All untrained models: ``build()["ddpm"][0]`` is DDPM's with the first seed."""
    return nn.ModuleDict(
        {name: nn.ModuleList(model_of(m) for _ in SEEDS) for name, m in MANNERS.items()}
    )


def train(manner: Manner, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps, and the loss of every step."""
    torch.manual_seed(seed)
    model = model_of(manner)
    losses = (model.loss(x0, manner.times(BATCH)) for x0 in batches(data(20_000), BATCH, steps))
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    models, curves = build(), []
    for name, manner in MANNERS.items():
        for i, seed in enumerate(SEEDS):
            model, losses = train(manner, STEPS, seed)
            models[name][i].load_state_dict(model.state_dict())
            curves.append(torch.tensor(losses) / fmean(losses[:30]))
    losses = curve(torch.stack(curves).mean(0).tolist(), points=80)
    keep(__file__, models, seed=str(SEEDS), steps=str(STEPS), losses=losses)


if __name__ == "__main__":
    main()
