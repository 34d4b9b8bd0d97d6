"""Train three class-conditional DDPMs of 8 x 8 digits with dropped labels, and keep them.

    python training/digits_cfg.py

About three minutes on one core. Writes src/notes_lib/checkpoints/digits_cfg.safetensors, which
holds one model for each of three seeds, with the commit, the date and the mean loss curve inside.
"""

from statistics import fmean

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn

from notes_lib.data import digits, stratified_split
from notes_lib.diffusion import Denoiser, VPTabulated, eps_target, linear_betas
from notes_lib.nn import ClassEmbedding, Labelled, ResidualMLP
from notes_lib.train import batches

T, BATCH, STEPS, RATE, DROP, SEEDS = 200, 128, 8000, 4e-3, 0.1, (0, 1, 2)


def build_one() -> Denoiser:
    """One untrained model, called as ``model(x_t, t, label=label)``; label 10 is no label."""
    path = VPTabulated(linear_betas(T, 1e-4 * 1000 / T, 0.02 * 1000 / T))
    net = Labelled(ResidualMLP(64, hidden=144, blocks=3), ClassEmbedding(10, 64))
    return Denoiser(net, path, eps_target)


def build() -> nn.ModuleList:
    """The untrained models, one a seed."""
    return nn.ModuleList(build_one() for _ in SEEDS)


def train(x: Tensor, y: Tensor, steps: int, seed: int) -> tuple[Denoiser, list[float]]:
    """The averaged model after so many steps on images x with labels y, and every loss."""
    torch.manual_seed(seed)
    model = build_one()
    losses = (
        model.loss(
            x[i],
            torch.randint(1, T + 1, (BATCH,)) / T,
            label=model.net.embedding.drop(y[i], DROP),
        )
        for i in batches(torch.arange(len(x)), BATCH, steps)
    )
    return averaged(model, losses, steps, RATE, f"seed {seed}")


def main() -> None:
    torch.set_num_threads(1)
    x_train, _, y_train, _ = stratified_split(*digits())
    models, curves = zip(*(train(x_train, y_train, STEPS, seed) for seed in SEEDS), strict=True)
    losses = [fmean(step) for step in zip(*curves, strict=True)]
    seeds = ", ".join(map(str, SEEDS))
    keep(__file__, nn.ModuleList(models), seed=seeds, steps=str(STEPS), losses=curve(losses))


if __name__ == "__main__":
    main()
