"""What the training scripts share: the averaged model of a run, and the file that keeps it."""

import json
import subprocess
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from notes_lib.train import CHECKPOINTS, EMA, fit, save_checkpoint

Model = TypeVar("Model", bound=nn.Module)


def averaged(
    model: Model,
    losses: Iterable[Tensor],
    steps: int,
    rate: float,
    run: object = "",
    clip: float | None = None,
) -> tuple[Model, list[float]]:
    """The moving average of `model` after so many steps of Adam, and the loss of every step.

    The learning rate climbs to `rate` for a tenth of the steps and then falls; gradients longer
    than `clip` are shortened to it; `run` is the word beside the progress bar.
    """
    ema = EMA(model, decay=0.998)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    if clip is not None:
        shorten(optimizer, model, clip)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    values = []
    for value in tqdm(fit(losses, optimizer, schedule), total=steps, desc=str(run)):
        values.append(value)
        ema.update(model)
    return ema.module, values


def shorten(optimizer: torch.optim.Optimizer, model: nn.Module, length: float) -> None:
    """Before every step of `optimizer`, shorten the gradient of `model` to `length` at most."""

    def before(*_) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), length)

    optimizer.register_step_pre_hook(before)


def curve(losses: list[float], points: int = 100) -> str:
    """The losses as JSON, averaged over `points` blocks of steps."""
    block = len(losses) // points
    means = (fmean(losses[i : i + block]) for i in range(0, len(losses), block))
    return json.dumps([round(value, 4) for value in means])


def keep(script: str, module: nn.Module, **notes: str) -> None:
    """Write the checkpoint named like the `script`, with where, when and from what it was made."""
    name = Path(script).stem
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    save_checkpoint(
        CHECKPOINTS / f"{name}.safetensors",
        module,
        script=f"training/{name}.py",
        commit=commit,
        date=date.today().isoformat(),
        torch=torch.__version__,
        **notes,
    )
