"""Train the network of 8 x 8 digits in EDM's dress: scaled input, F target, log-normal noise.

    python training/digits_edm.py

About two minutes on one core. Writes src/notes_lib/checkpoints/digits_edm.safetensors with the
seed, the commit, the date and the loss curve inside.
"""

import torch
from _common import averaged, curve, keep
from torch import Tensor

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import EDM, Denoiser, InputScaling, karras_target, log_normal_times
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

BATCH, STEPS, RATE, SEED = 128, 8000, 4e-3, 0
MEAN, STD = -0.8, 1.2  # of log sigma: the paper's -1.2 moved by log(0.75 / 0.5)
SIGMA_DATA = 0.75  # std of the training images; the paper's 0.5 belongs to its own


def build() -> Denoiser:
    """The untrained model, on the path whose time is the noise level, up to 80."""
    net = InputScaling(ResidualMLP(64, hidden=192, blocks=3), EDM(), SIGMA_DATA)
    return Denoiser(net, EDM(), karras_target(SIGMA_DATA))


def train(x: Tensor, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on the images x, and the loss of every step."""
    torch.manual_seed(seed)
    model = build()
    losses = (
        model.loss(x0, log_normal_times(EDM(), BATCH, MEAN, STD)) for x0 in batches(x, BATCH, steps)
    )
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    model, losses = train(x_train, STEPS, SEED)
    keep(__file__, model, seed=str(SEED), steps=str(STEPS), losses=curve(losses))


if __name__ == "__main__":
    main()
