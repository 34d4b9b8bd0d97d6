"""Train the noise-conditional score network of 8 x 8 digits for the chapter on score matching.

    python training/digits_ncsn.py

About two minutes on one core. Writes src/notes_lib/checkpoints/digits_ncsn.safetensors with the
seed, the commit, the date and the loss curve inside.
"""

import torch
from _common import averaged, curve, keep
from torch import Tensor

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import VE, Denoiser, InputScaling, eps_target
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

BATCH, STEPS, RATE, SEED = 128, 8000, 4e-3, 0
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.05, 10.0, 0.75


def build() -> Denoiser:
    """The untrained model: it says -sigma times the score, on a geometric ladder of noise."""
    path = VE(SIGMA_MIN, SIGMA_MAX)
    net = InputScaling(ResidualMLP(64, hidden=192, blocks=3), path, SIGMA_DATA)
    return Denoiser(net, path, eps_target)


def train(x: Tensor, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on the images x, and the loss of every step."""
    torch.manual_seed(seed)
    model = build()
    losses = (model.loss(x0, torch.rand(BATCH)) for x0 in batches(x, BATCH, steps))
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    model, losses = train(x_train, STEPS, SEED)
    keep(__file__, model, seed=str(SEED), steps=str(STEPS), losses=curve(losses))


if __name__ == "__main__":
    main()
