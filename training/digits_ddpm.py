"""Train the DDPM of 8 x 8 digits that the chapters on sampling share, and keep it.

    python training/digits_ddpm.py

About two minutes on one core. Writes src/notes_lib/checkpoints/digits_ddpm.safetensors with the
seed, the commit, the date and the loss curve inside.
"""

import torch
from _common import averaged, curve, keep
from torch import Tensor

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import Denoiser, VPTabulated, eps_target, linear_betas
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

T, BATCH, STEPS, RATE, SEED = 200, 128, 8000, 4e-3, 0


def build() -> Denoiser:
    """The untrained model: DDPM's linear betas, scaled from 1000 to 200 steps."""
    path = VPTabulated(linear_betas(T, 1e-4 * 1000 / T, 0.02 * 1000 / T))
    return Denoiser(ResidualMLP(64, hidden=192, blocks=3), path, eps_target)


def train(x: Tensor, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on the images x, and the loss of every step."""
    torch.manual_seed(seed)
    model = build()
    losses = (
        model.loss(x0, torch.randint(1, T + 1, (BATCH,)) / T) for x0 in batches(x, BATCH, steps)
    )
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    model, losses = train(x_train, STEPS, SEED)
    keep(__file__, model, seed=str(SEED), steps=str(STEPS), losses=curve(losses))


if __name__ == "__main__":
    main()
