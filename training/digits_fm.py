"""Train digits by flow matching, with noise paired at random and by transport, and keep both.

    python training/digits_fm.py

About three minutes on one core. Writes src/notes_lib/checkpoints/digits_fm.safetensors: for each of
three seeds a network that saw random pairs and its twin, which saw the same digits and the same
noise, paired by optimal transport in pools of 512. The seeds, the commit, the date and the loss
curves are inside.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from statistics import fmean

import torch
from torch import Tensor, nn
from tqdm import tqdm

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import Denoiser, Linear, pair_noise, velocity_target
from notes_lib.nn import ResidualMLP
from notes_lib.train import CHECKPOINTS, EMA, batches, fit, save_checkpoint

POOL, BATCH, STEPS, RATE, SEEDS = 512, 128, 3000, 4e-3, (0, 1, 2)
Couple = Callable[[Tensor, Tensor], Tensor]  # (x0, eps) -> eps in another order


def as_drawn(x0: Tensor, eps: Tensor) -> Tensor:
    """The independent coupling."""
    return eps


COUPLINGS: tuple[Couple, Couple] = (as_drawn, pair_noise)


def build() -> nn.ModuleList:
    """The untrained networks: random pairs, then paired noise, for one seed after the other."""
    return nn.ModuleList(one() for _ in SEEDS for _ in COUPLINGS)


def one() -> Denoiser:
    net = ResidualMLP(64, hidden=128, blocks=2, condition=32)
    return Denoiser(net, Linear(), velocity_target)


def pairs(x: Tensor, couple: Couple, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (x0, eps), coupled in pools of several batches."""
    for x0 in batches(x, POOL, -(-steps * BATCH // POOL)):
        eps = couple(x0, torch.randn_like(x0))
        yield from zip(x0.split(BATCH), eps.split(BATCH), strict=True)


def train(x: Tensor, couple: Couple, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on the images x, and the loss of every step."""
    torch.manual_seed(seed)
    model = one()
    ema = EMA(model, decay=0.998)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.1
    )
    drawn = zip(range(steps), pairs(x, couple, steps), strict=False)
    draws = (model.loss(x0, torch.rand(BATCH), eps) for _, (x0, eps) in drawn)
    losses = []
    for loss in tqdm(fit(draws, optimizer, schedule), total=steps, desc=f"seed {seed}"):
        losses.append(loss)
        ema.update(model)
    return ema.module, losses


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    runs = [train(x_train, couple, STEPS, seed) for seed in SEEDS for couple in COUPLINGS]
    models, losses = zip(*runs, strict=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    def curve(losses: list[float]) -> str:
        return json.dumps([round(fmean(losses[i : i + 30]), 4) for i in range(0, STEPS, 30)])

    save_checkpoint(
        CHECKPOINTS / "digits_fm.safetensors",
        nn.ModuleList(models),
        script="training/digits_fm.py",
        seed=" ".join(map(str, SEEDS)),
        steps=str(STEPS),
        pool=str(POOL),
        commit=commit,
        date=date.today().isoformat(),
        torch=torch.__version__,
        losses=curve(losses[0]),
        paired_losses=curve(losses[1]),
    )


if __name__ == "__main__":
    main()
