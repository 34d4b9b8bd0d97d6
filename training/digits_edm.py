"""Train the network of 8 x 8 digits in EDM's dress: scaled input, F target, log-normal noise.

    python training/digits_edm.py

About two minutes on one core. Writes src/notes_lib/checkpoints/digits_edm.safetensors with the
seed, the commit, the date and the loss curve inside.
"""

import json
import subprocess
from datetime import date
from statistics import fmean

import torch
from torch import Tensor
from tqdm import tqdm

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import EDM, Denoiser, InputScaling, karras_target, log_normal_times
from notes_lib.nn import ResidualMLP
from notes_lib.train import CHECKPOINTS, EMA, batches, fit, save_checkpoint

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
    ema = EMA(model, decay=0.998)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.1
    )
    draws = (
        model.loss(x0, log_normal_times(EDM(), BATCH, MEAN, STD)) for x0 in batches(x, BATCH, steps)
    )
    losses = []
    for loss in tqdm(fit(draws, optimizer, schedule), total=steps, desc=f"seed {seed}"):
        losses.append(loss)
        ema.update(model)
    return ema.module, losses


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    model, losses = train(x_train, STEPS, SEED)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    save_checkpoint(
        CHECKPOINTS / "digits_edm.safetensors",
        model,
        script="training/digits_edm.py",
        seed=str(SEED),
        steps=str(STEPS),
        commit=commit,
        date=date.today().isoformat(),
        torch=torch.__version__,
        losses=json.dumps([round(fmean(losses[i : i + 80]), 4) for i in range(0, STEPS, 80)]),
    )


if __name__ == "__main__":
    main()
