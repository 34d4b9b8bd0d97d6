"""Train a rectified flow of 8 x 8 digits, straighten it once by reflow, and keep both.

    python training/digits_flow.py

About six minutes on one core. Writes src/notes_lib/checkpoints/digits_flow.safetensors, which holds
the flow (0) and the reflow (1), with the seed, the commit, the date and the loss curves inside.
"""

from collections.abc import Iterable

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import Denoiser, Linear, heun, sample, uniform, velocity_target
from notes_lib.nn import ResidualMLP
from notes_lib.train import batches

BATCH, STEPS, RATE, PAIRS, SEED = 128, 8000, 4e-3, 40_000, 0


def build() -> nn.ModuleList:
    """The two untrained models: the flow and the reflow."""
    return nn.ModuleList(
        Denoiser(ResidualMLP(64, hidden=192, blocks=3), Linear(), velocity_target) for _ in range(2)
    )


def fresh(x: Tensor) -> Tensor:
    """Each row of x beside noise of its own, stacked: the independent pairs (x0, eps)."""
    return torch.stack([x, torch.randn_like(x)], 1)


def simulated(model: Denoiser, n: int) -> Tensor:
    """n pairs (x0, eps), where x0 is what the flow makes of eps in 40 steps of Heun's method."""
    eps = torch.randn(n, 1, 8, 8)
    parts = [sample(model, model.path, part, uniform(model.path, 40), heun)
             for part in eps.split(5000)]  # fmt: skip
    return torch.stack([torch.cat(parts), eps], 1)


def train(model: Denoiser, pairs: Iterable[Tensor], steps: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on batches of pairs, and the loss of every step."""
    losses = (model.loss(pair[:, 0], torch.rand(len(pair)), pair[:, 1]) for pair in pairs)
    return averaged(model, losses, steps, RATE)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    x_train, *_ = stratified_split(*digits())
    flow, reflow = build()
    flow, losses = train(flow, map(fresh, batches(x_train, BATCH, STEPS)), STEPS)
    reflow.load_state_dict(flow.state_dict())  # as in the paper, from where the flow ended
    pairs = batches(simulated(flow, PAIRS), BATCH, STEPS)
    reflow, reflow_losses = train(reflow, pairs, STEPS)
    keep(
        __file__,
        nn.ModuleList([flow, reflow]),
        seed=str(SEED),
        steps=str(STEPS),
        pairs=str(PAIRS),
        losses=curve(losses),
        reflow_losses=curve(reflow_losses),
    )


if __name__ == "__main__":
    main()
