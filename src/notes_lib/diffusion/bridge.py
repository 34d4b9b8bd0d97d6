r"""The Gaussian algebra between two times of a path: the forward kernel and its Bayes inverse.

Both are written for a less noisy level s and a noisier level t, on any path, with

.. math:: \alpha_{ts} = \alpha_t/\alpha_s, \qquad
    \beta_{ts} = \sigma_t^2 - \alpha_{ts}^2\sigma_s^2 .

On DDPM's own chain, s = t - 1, these are :math:`\sqrt{1-\beta_t}` and :math:`\beta_t`. (The paper
writes :math:`\alpha_t` for :math:`1-\beta_t`; here alpha is always the scale of the data.)
"""

from typing import NamedTuple

from .path import Level


class Row(NamedTuple):
    r"""A Gaussian that is linear in what is known:
    :math:`x_s = c_x x_t + c_{x_0} x_0 + \mathrm{std}\cdot z`, z standard normal.

    `older` weighs what a multistep solver remembers of the steps before, the newest first; of this
    step it remembers ``x0 + blend * x_t``.
    """

    x: float
    x0: float
    std: float
    older: tuple[float, ...] = ()
    blend: float = 0.0


def transition(s: Level, t: Level) -> tuple[float, float]:
    r"""Scale and variance of :math:`q(x_t \mid x_s) = \mathcal N(\alpha_{ts} x_s, \beta_{ts} I)`.

    One step of the chain :eq:`eq-ddpm-step`, or many merged into one. For path VP and s = t - 1
    these are :math:`\sqrt{1-\beta_t}` and :math:`\beta_t`.
    """
    scale = t.alpha / s.alpha
    return scale, t.sigma**2 - scale**2 * s.sigma**2


def posterior(s: Level, t: Level) -> Row:
    r"""The Bayes inverse :math:`q(x_s \mid x_t, x_0)` of a forward step, :eq:`eq-ddpm-posterior`.

    .. math::
        \mu = \frac{\alpha_{ts}\sigma_s^2}{\sigma_t^2} x_t
            + \frac{\alpha_s\beta_{ts}}{\sigma_t^2} x_0, \qquad
        \mathrm{std}^2 = \frac{\sigma_s^2}{\sigma_t^2}\beta_{ts} = \tilde\beta

    Ho et al. (2020), eq. 7; needs :math:`\sigma_t > 0`.
    """
    scale, beta = transition(s, t)
    shrink = s.sigma**2 / t.sigma**2
    return Row(scale * shrink, s.alpha * beta / t.sigma**2, (shrink * beta) ** 0.5)
