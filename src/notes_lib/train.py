"""One training loop, and it yields: logging, stopping and plotting belong to the caller."""

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CHECKPOINTS = Path(__file__).parent / "checkpoints"  # weights that a page loads, with their notes


class EMA:
    r"""An exponential moving average of a module's parameters, kept in `module`, a copy.

    .. math:: \bar\theta_n = d_n \bar\theta_{n-1} + (1 - d_n)\,\theta_n, \qquad
        d_n = \min\Bigl(d, \frac{1 + n}{10 + n}\Bigr)

    The decay rises to d, so that the start is forgotten. Buffers are copied.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the parameters of `module`."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for average, value in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(value)


def fit(
    losses: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Iterator[float]:
    """Minimise each loss in turn, one optimiser step a loss, and yield its value after the step.

    `losses` is a generator expression that computes a loss when asked for the next one:
    ``fit((model.loss(x, t) for x, t in batches), optimizer)``.

    Raises:
        FloatingPointError: a loss that is NaN or infinite; the parameters are left as they were.
    """
    for step, loss in enumerate(losses):
        if not loss.isfinite():
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        yield loss.item()


def noam(dim: int, warmup: int) -> Callable[[int], float]:
    r"""The learning rate of Vaswani et al. (2017), eq. (3), for ``LambdaLR`` on a base rate of 1.

    .. math:: \mathrm{dim}^{-1/2} \min(t^{-1/2},\ t\,w^{-3/2})

    :eq:`eq-transformer-noam`: it climbs for w = `warmup` steps and then falls. The scheduler counts
    from 0; its step 0 is t = 1.

    Raises:
        ValueError: a warm-up below one step.
    """
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1 step, got {warmup}")
    return lambda step: dim**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


def batches(
    x: Tensor, size: int, steps: int, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """`steps` batches of `size` rows of x, drawn with replacement."""
    if not len(x):
        raise ValueError("x has no rows to draw from")
    for _ in range(steps):
        yield x[torch.randint(len(x), (size,), generator=generator)]


def save_checkpoint(path: Path, module: nn.Module, **notes: str) -> None:
    """Write the state of `module` as safetensors, with `notes` (seed, script, date ...) inside.

    The file appears whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, part, metadata=notes)
    part.replace(path)


def load_checkpoint(path: Path, module: nn.Module) -> dict[str, str]:
    """Load safetensors into `module`, all keys matching, and return the notes kept with them."""
    with safe_open(path, "pt") as file:
        module.load_state_dict({key: file.get_tensor(key) for key in file.keys()})
        return file.metadata() or {}
