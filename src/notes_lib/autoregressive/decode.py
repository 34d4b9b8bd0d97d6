"""Sampling a sequence token by token: one loop, and filters that shape the odds."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

Read = Callable[[Tensor], Tensor]  # tokens "b n" not read before -> logits "b n vocab"
Filter = Callable[[Tensor], Tensor]  # logits "b vocab" -> logits "b vocab"


def generate(
    read: Read,
    prompt: Int[Tensor, "b n"],
    *filters: Filter,
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, " b"]]:
    r"""Draw the next token of every row, append it, and so on without end.

    .. math:: x_{n+1} \sim p(\,\cdot \mid x_1, \dots, x_n), \qquad
        p(x_1, \dots, x_N) = \prod_n p(x_n \mid x_{<n})

    Ancestral sampling, :eq:`eq-transformer-chain`; `filters` change the logits, in their order.

    Args:
        read: remembers what it has read, as a ``model.reader()`` does; :func:`rereading` makes one.
        prompt: what is read first, at least one token.

    Raises:
        ValueError: an empty prompt.
    """
    if not prompt.shape[1]:
        raise ValueError("the prompt needs at least one token")
    while True:
        with torch.no_grad():
            logits = read(prompt)[:, -1]
            for change in filters:
                logits = change(logits)
            prompt = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        yield prompt[:, 0]


def rereading(model: Callable[[Tensor], Tensor]) -> Read:
    """A model without a memory as one that remembers: it reads everything again for every token."""
    seen = []

    def read(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return model(torch.cat(seen, 1))

    return read


def temperature(value: float) -> Filter:
    r"""Logits divided by :math:`\tau`: likely tokens get likelier below 1, less likely above.

    .. math:: p \leftarrow p^{1/\tau} \Big/ \sum p^{1/\tau}

    :eq:`eq-transformer-temperature`.

    Raises:
        ValueError: a temperature that is not positive (the limit 0 is ``top_k(1)``).
    """
    if value <= 0:
        raise ValueError(f"temperature must be positive, got {value}")
    return lambda logits: logits / value


def top_k(k: int) -> Filter:
    """Only the k likeliest tokens; ``top_k(1)`` always takes the likeliest.

    Fan et al. (2018). Tokens that tie with the k-th stay too.

    Raises:
        ValueError: a k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")

    def keep(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, "b vocab"]:
        last = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < last, -torch.inf)

    return keep


def top_p(p: float) -> Filter:
    """Only the nucleus: the fewest likeliest tokens that together have probability p or more.

    Holtzman et al. (2020), section 3.1.

    Raises:
        ValueError: a p outside (0, 1].
    """
    if not 0 < p <= 1:
        raise ValueError(f"p must lie in (0, 1], got {p}")

    def keep(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, "b vocab"]:
        share, order = logits.softmax(-1).sort(descending=True, stable=True)
        before = share.cumsum(-1) - share
        return logits.masked_fill(
            torch.zeros_like(before).scatter(1, order, before) >= p, -torch.inf
        )

    return keep
