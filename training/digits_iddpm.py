"""Train three pairs of digit models, with a fixed and with a learnt variance, and keep one.

    python training/digits_iddpm.py

About six minutes on one core. Both models of a pair start from the same weights and see the same
digits, steps and noises; one minimises the simple loss, the other the hybrid. Writes
src/notes_lib/checkpoints/digits_iddpm.safetensors: the hybrid model of seed 0 and, in its notes,
the bits per dimension that every model needs for the test digits.
"""

import json
import subprocess
from collections.abc import Callable
from datetime import date
from functools import partial
from statistics import fmean

import torch
from torch import Tensor
from tqdm import tqdm

from notes_lib.core import Estimate, mean, seeded_noise
from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import (
    TwoHeads,
    VPTabulated,
    bin_log_prob,
    bits_per_dim,
    bound_terms,
    eps_target,
    fixed_variance,
    forward_variance,
    hybrid_loss,
    hybrid_terms,
    learned_variance,
    linear_betas,
    uniform,
)
from notes_lib.nn import ResidualMLP
from notes_lib.train import CHECKPOINTS, EMA, batches, fit, save_checkpoint

T, BATCH, STEPS, RATE, SEEDS = 200, 128, 4000, 4e-3, (0, 1, 2)
GREYS = partial(bin_log_prob, half_width=1 / 16)


def build() -> TwoHeads:
    """The untrained model, on the chain of digits_ddpm.py."""
    path = VPTabulated(linear_betas(T, 1e-4 * 1000 / T, 0.02 * 1000 / T))
    return TwoHeads(ResidualMLP(2 * 64, hidden=192, blocks=3), path, eps_target)


def simple(model: TwoHeads, x0: Tensor, k: Tensor) -> Tensor:
    """The loss of the first arm: the second head is never trained."""
    return hybrid_terms(model, x0, k, GREYS)[0].mean()


def hybrid(model: TwoHeads, x0: Tensor, k: Tensor) -> Tensor:
    """The loss of the second arm."""
    return hybrid_loss(model, x0, k, GREYS)


def train(x: Tensor, steps: int, seed: int, loss: Callable) -> tuple[TwoHeads, list[float]]:
    """The averaged model after so many steps on the images x, and the loss of every step."""
    torch.manual_seed(seed)
    model = build()
    ema = EMA(model, decay=0.998)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.1
    )
    draws = (loss(model, x0, torch.randint(1, T + 1, (BATCH,))) for x0 in batches(x, BATCH, steps))
    losses = []
    for value in tqdm(fit(draws, optimizer, schedule), total=steps, desc=f"seed {seed}"):
        losses.append(value)
        ema.update(model)
    return ema.module, losses


@torch.no_grad()
def needed_bits(model: TwoHeads, x: Tensor, learnt: bool) -> Estimate:
    """Bits per dimension of the images x, one draw of noise a term."""
    fixed = fixed_variance(model, forward_variance)
    reverse = learned_variance(model, model.v) if learnt else fixed
    noise = seeded_noise(torch.Generator().manual_seed(0))
    terms = bound_terms(reverse, model.path, x, uniform(model.path, T), GREYS, noise)
    return mean(bits_per_dim(terms.sum(0), 64))


def main() -> None:
    torch.set_num_threads(1)
    x_train, x_test, *_ = stratified_split(*digits())
    runs, bits = {}, {"simple": [], "hybrid": []}
    for seed in SEEDS:
        for loss in (simple, hybrid):
            runs[loss, seed] = train(x_train, STEPS, seed, loss)
            found = needed_bits(runs[loss, seed][0], x_test, learnt=loss is hybrid)
            bits[loss.__name__].append(found.value)
    model, losses = runs[hybrid, 0]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    save_checkpoint(
        CHECKPOINTS / "digits_iddpm.safetensors",
        model,
        script="training/digits_iddpm.py",
        seed="0",
        steps=str(STEPS),
        bits=json.dumps(bits),
        commit=commit,
        date=date.today().isoformat(),
        torch=torch.__version__,
        losses=json.dumps([round(fmean(losses[i : i + 40]), 4) for i in range(0, STEPS, 40)]),
    )


if __name__ == "__main__":
    main()
