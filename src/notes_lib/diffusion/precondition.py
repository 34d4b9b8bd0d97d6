r"""What Karras et al. (2022) put around a network: scaled input, log noise for time.

With :func:`.karras_target` as the target, the network sees and regresses numbers of variance 1 at
every noise level, and the plain squared error of :class:`.Denoiser` is EDM's weighted loss: their
weight is :math:`\lambda = 1/c_{\mathrm{out}}^2`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.tensor import expand_to
from .path import GaussianPath


class InputScaling(nn.Module):
    r"""A network that is given :math:`c_{\mathrm{in}}x_t` and :math:`c_{\mathrm{noise}}`.

    .. math::
        c_{\mathrm{in}} = \frac{1}{\sqrt{\alpha^2 s_d^2 + \sigma^2}}, \qquad
        c_{\mathrm{noise}} = \tfrac14 \log\frac{\sigma}{\alpha}

    On the EDM path these are :eq:`eq-edm-scalings`, Karras et al. (2022), table 1; on any other,
    the network sees the same numbers at the same log-SNR: its weights do not depend on the path.

    Args:
        net: called as ``net(c_in x_t, c_noise, **condition)``.
        path: the path of the data.
        sigma_data: standard deviation of the data, :math:`s_d`.

    Raises:
        ValueError: a sigma_data that is not positive.
    """

    def __init__(self, net: Callable[..., Tensor], path: GaussianPath, sigma_data: float) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.net, self.path, self.sigma_data = net, path, sigma_data

    def forward(self, x_t: Float[Tensor, " b *d"], t: Tensor, **condition: Tensor) -> Tensor:
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        c_in = (alpha**2 * self.sigma_data**2 + sigma**2).rsqrt()
        c_noise = 0.25 * (sigma / alpha).log()
        return self.net(expand_to(c_in, x_t) * x_t, c_noise, **condition)


def log_normal_times(
    path: GaussianPath,
    n: int,
    mean: float = -1.2,
    std: float = 1.2,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    r"""n times of training at which :math:`\log(\sigma/\alpha)\sim\mathcal N(\mathrm{mean},
    \mathrm{std}^2)`, :eq:`eq-edm-noise`; where the path ends, its end. Karras et al. (2022),
    table 1.
    """
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    draws = torch.randn(n, generator=generator, dtype=torch.float64)
    return path.time_of_log_snr(-2 * (mean + std * draws)).to(torch.get_default_dtype())
