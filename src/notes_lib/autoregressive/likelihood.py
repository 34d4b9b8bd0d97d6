"""How well a model foretells the next token: the loss of every language model."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

Model = Callable[[Tensor], Tensor]  # tokens "b n" -> logits of each next token, "b n vocab"


def next_token_nats(model: Model, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n-1"]:
    r""":math:`-\log p(x_n \mid x_1, \dots, x_{n-1})` in nats, of every token but the first."""
    logits = model(tokens[:, :-1]).transpose(1, 2)
    return cross_entropy(logits, tokens[:, 1:], reduction="none")


def next_token_loss(
    model: Model, tokens: Int[Tensor, "b n"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    r"""Mean cross-entropy in nats, with the labels smoothed.

    .. math:: (1 - \epsilon)\bigl(-\log p_y\bigr)
        + \frac{\epsilon}{V} \sum_{v=1}^{V} \bigl(-\log p_v\bigr)

    :eq:`eq-transformer-smoothing`, Szegedy et al. (2016); :math:`\epsilon` is `smoothing`.
    """
    logits = model(tokens[:, :-1]).transpose(1, 2)
    return cross_entropy(logits, tokens[:, 1:], label_smoothing=smoothing)
