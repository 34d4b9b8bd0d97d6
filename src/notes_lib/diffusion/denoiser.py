"""From a network to E[x0 | x_t], the loss that trains it, and its reading along another path."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.oracle import Denoise
from ..core.tensor import check_finite, expand_to
from .path import GaussianPath
from .prediction import Target, decode, encode


class Denoiser(nn.Module):
    r""":math:`D(x_t, t) \approx \mathbb E[x_0 \mid x_t]`, read out of a network.

    Args:
        net: a module or a function, called as ``net(x_t, t, **condition)`` with t of shape (b,), or
            (1,) where one time holds for all, as in sampling; returns a tensor like x_t.
        path: the Gaussian path of the data.
        target: what the network's output means.
    """

    def __init__(self, net: Callable[..., Tensor], path: GaussianPath, target: Target) -> None:
        super().__init__()
        self.net, self.path, self.target = net, path, target

    def forward(
        self, x_t: Float[Tensor, " b *d"], t: Tensor, **condition: Tensor
    ) -> Float[Tensor, " b *d"]:
        t = t.to(x_t).reshape(-1)
        return decode(self.target, self.path, x_t, self.net(x_t, t, **condition), t)

    def errors(
        self,
        x0: Float[Tensor, " b *d"],
        t: Float[Tensor, " b"],
        eps: Float[Tensor, " b *d"] | None = None,
        **condition: Tensor,
    ) -> Float[Tensor, " b"]:
        r"""Squared error of the network, averaged over the entries of each sample.

        .. math:: \tfrac1d \lVert \mathrm{net}(x_t, t) - (a_t x_0 + b_t\varepsilon) \rVert^2

        Raises:
            ValueError: non-finite data, a time outside the path, or `eps` unlike `x0`.
        """
        check_finite("x0", x0)
        eps = torch.randn_like(x0) if eps is None else eps
        x_t = self.path.perturb(x0, eps, t)
        error = self.net(x_t, t, **condition) - encode(self.target, self.path, x0, eps, t)
        return error.square().flatten(1).mean(1)

    def loss(
        self,
        x0: Float[Tensor, " b *d"],
        t: Float[Tensor, " b"],
        eps: Float[Tensor, " b *d"] | None = None,
        **condition: Tensor,
    ) -> Float[Tensor, ""]:
        r"""Mean of :meth:`errors`; with :func:`.eps_target` it is :eq:`eq-ddpm-simple`, and on a
        variance-exploding path :eq:`eq-score-matching-ncsn`.

        With :func:`.velocity_target` it is :eq:`eq-flow-matching-loss`, and on the path
        :class:`.Linear` :eq:`eq-rectified-flow-loss`, on whatever pairs (x0, eps) it is given.
        """
        return self.errors(x0, t, eps, **condition).mean()


def on_path(denoise: Denoise, source: GaussianPath, target: GaussianPath) -> Denoise:
    r"""A denoiser made along `source`, read along `target`, :eq:`eq-edm-ratio`.

    .. math:: D_{\mathrm{target}}(x, t) = D_{\mathrm{source}}\Bigl(
        \frac{\alpha_u}{\alpha_t}\,x,\; u\Bigr), \qquad
        \frac{\alpha_u}{\sigma_u} = \frac{\alpha_t}{\sigma_t}

    At equal log-SNR two noised samples differ by a scale only: :math:`\mathbb E[x_0\mid x_t]` is
    the same. Karras et al. (2022), section 2. Beyond the log-SNRs of `source` its end is used.
    """

    def translated(x: Tensor, t: Tensor) -> Tensor:
        u = source.time_of_log_snr(target.log_snr(t.double()))
        scale = (source.alpha(u) / target.alpha(t.double())).to(x)
        return denoise(expand_to(scale, x) * x, u.to(t))

    return translated
