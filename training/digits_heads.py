"""Train three heads of one network on 8 x 8 digits, each with three seeds, and keep them.

    python training/digits_heads.py

About two minutes on one core. Writes src/notes_lib/checkpoints/digits_heads.safetensors, weights in
half precision, with the seeds, the commit, the date and the loss curve inside.
"""

from statistics import fmean

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import (
    Denoiser,
    Target,
    VPTabulated,
    eps_target,
    linear_betas,
    v_target,
    x0_target,
)
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

T, BATCH, STEPS, RATE, SEEDS = 200, 128, 5000, 4e-3, 3
PATH = VPTabulated(linear_betas(T, 1e-4 * 1000 / T, 0.02 * 1000 / T))
TARGETS = {"eps": eps_target, "x0": x0_target, "v": v_target}


def head(target: Target) -> Denoiser:
    """One untrained network that regresses `target`, on DDPM's path of 200 steps."""
    return Denoiser(ResidualMLP(64, hidden=128, blocks=2), PATH, target)


def build() -> nn.ModuleDict:
    """The untrained models: for each target a list, one model a seed."""
    return nn.ModuleDict(
        {name: nn.ModuleList(head(y) for _ in range(SEEDS)) for name, y in TARGETS.items()}
    )


def train(x: Tensor, target: Target, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on the images x, and the loss of every step."""
    torch.manual_seed(seed)
    model = head(target)
    losses = (
        model.loss(x0, torch.randint(1, T + 1, (BATCH,)) / T) for x0 in batches(x, BATCH, steps)
    )
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    models, curves = build(), []
    for name, target in TARGETS.items():
        for seed in range(SEEDS):
            models[name][seed], losses = train(x_train, target, STEPS, seed)
            curves.append(losses)
    means = [fmean(column) for column in zip(*curves, strict=True)]
    for parameter in models.parameters():
        parameter.data = parameter.data.half()  # buffers stay: the frequencies need their digits
    seeds = f"0 to {SEEDS - 1}"
    keep(__file__, models, seed=seeds, steps=str(STEPS), losses=curve(means))


if __name__ == "__main__":
    main()
