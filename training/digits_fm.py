"""Train digits by flow matching, with noise paired at random and by transport, and keep both.

    python training/digits_fm.py

About three minutes on one core. Writes src/notes_lib/checkpoints/digits_fm.safetensors: for each of
three seeds a network that saw random pairs and its twin, which saw the same digits and the same
noise, paired by optimal transport in pools of 512. The seeds, the commit, the date and the loss
curves are inside.
"""

from collections.abc import Callable, Iterator

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import Denoiser, Linear, pair_noise, velocity_target
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

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
    drawn = zip(range(steps), pairs(x, couple, steps), strict=False)
    losses = (model.loss(x0, torch.rand(BATCH), eps) for _, (x0, eps) in drawn)
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    x_train, *_ = stratified_split(*digits())
    runs = [train(x_train, couple, STEPS, seed) for seed in SEEDS for couple in COUPLINGS]
    models, losses = zip(*runs, strict=True)
    keep(
        __file__,
        nn.ModuleList(models),
        seed=" ".join(map(str, SEEDS)),
        steps=str(STEPS),
        pool=str(POOL),
        losses=curve(losses[0]),
        paired_losses=curve(losses[1]),
    )


if __name__ == "__main__":
    main()
