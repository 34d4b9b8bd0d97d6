"""Recurrent networks: one step of each as the papers write it, and a language model."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .embed import TokenEmbedding


def rnn_step(
    x: Float[Tensor, "b e"],
    h: Float[Tensor, "b d"],
    w_x: Float[Tensor, "d e"],
    w_h: Float[Tensor, "d d"],
    b: Float[Tensor, " d"],
) -> Float[Tensor, "b d"]:
    r"""The state after the input x.

    .. math:: h_t = \tanh(W_h h_{t-1} + W_x x_t + b)

    :eq:`eq-transformer-rnn`. PyTorch splits b into two biases, which add up to it.
    """
    return torch.tanh(h @ w_h.T + x @ w_x.T + b)


def rnn_jacobian(h: Float[Tensor, "n d"], w_h: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    r"""How the last state moves with the state before `h`, the n states that follow it.

    .. math:: \frac{\partial h_T}{\partial h_t}
        = \prod_{i=T}^{t+1} \operatorname{diag}(1 - h_i^2)\,W_h

    :eq:`eq-transformer-jacobian`, Pascanu et al. (2013), for the hyperbolic tangent. Its spectral
    norm is bounded by :eq:`eq-transformer-bound`.
    """
    product = torch.eye(len(w_h), dtype=h.dtype, device=h.device)
    for state in h:
        product = (1 - state.square())[:, None] * (w_h @ product)
    return product


def lstm_step(
    x: Float[Tensor, "b e"],
    state: tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]],
    w_x: Float[Tensor, "4*d e"],
    w_h: Float[Tensor, "4*d d"],
    b: Float[Tensor, " 4*d"],
) -> tuple[Tensor, Tensor]:
    r"""The state (h, c) after the input x; the rows of the weights are i, f, c~, o, as PyTorch's.

    .. math:: c_t = f_t \odot c_{t-1} + i_t \odot \tilde c_t, \qquad h_t = o_t \odot \tanh c_t

    :eq:`eq-transformer-lstm`. Hochreiter & Schmidhuber (1997), with the forget gate f of Gers et
    al. (2000).
    """
    h, c = state
    i, f, update, o = (x @ w_x.T + h @ w_h.T + b).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * update.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(
    x: Float[Tensor, "b e"],
    h: Float[Tensor, "b d"],
    w_x: Float[Tensor, "3*d e"],
    w_h: Float[Tensor, "3*d d"],
    b: Float[Tensor, " 3*d"],
) -> Float[Tensor, "b d"]:
    r"""The state after the input x; the rows of the weights are r, z, h~.

    .. math:: h_t = (1 - z_t) \odot h_{t-1}
        + z_t \odot \tanh\bigl(W x_t + U (r_t \odot h_{t-1})\bigr)

    :eq:`eq-transformer-gru`. PyTorch swaps z and 1 - z, and applies r after U.
    """
    (x_r, x_z, x_h), (u_r, u_z, u_h) = (x @ w_x.T + b).chunk(3, -1), w_h.chunk(3)
    r, z = torch.sigmoid(x_r + h @ u_r.T), torch.sigmoid(x_z + h @ u_z.T)
    return torch.lerp(h, torch.tanh(x_h + (r * h) @ u_h.T), z)


class RecurrentDecoder(nn.Module):
    """A language model with a state: tokens in, logits of the next token out; tied embeddings.

    Args:
        cell: ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, or a ``partial`` of one that adds layers.
    """

    def __init__(self, vocab: int, dim: int, cell: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.embed = TokenEmbedding(vocab, dim)
        self.cell = cell(dim, dim, batch_first=True)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n vocab"]:
        return self.reader()(tokens)

    def reader(self) -> Callable[[Tensor], Tensor]:
        """This model as a function that remembers: call it with the next tokens only."""
        state = None

        def read(tokens: Tensor) -> Tensor:
            nonlocal state
            x, state = self.cell(self.embed(tokens), state)
            return self.embed.logits(x)

        return read
