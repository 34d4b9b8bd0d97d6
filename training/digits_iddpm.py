"""Train three pairs of digit models, with a fixed and with a learnt variance, and keep one.

    python training/digits_iddpm.py

About six minutes on one core. Both models of a pair start from the same weights and see the same
digits, steps and noises; one minimises the simple loss, the other the hybrid. Writes
src/notes_lib/checkpoints/digits_iddpm.safetensors: the hybrid model of seed 0 and, in its notes,
the bits per dimension that every model needs for the test digits.
"""

import json
from collections.abc import Callable
from functools import partial

import torch
from _common import averaged, curve, keep
from torch import Tensor

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
from notes_lib.train import batches

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
    losses = (loss(model, x0, torch.randint(1, T + 1, (BATCH,))) for x0 in batches(x, BATCH, steps))
    return averaged(model, losses, steps, RATE, f"seed {seed}")


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
    keep(
        __file__,
        model,
        seed="0",
        steps=str(STEPS),
        bits=json.dumps(bits),
        losses=curve(losses),
    )


if __name__ == "__main__":
    main()
