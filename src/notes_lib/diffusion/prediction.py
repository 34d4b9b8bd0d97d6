r"""What a network regresses. Every target is a row (a, b): :math:`y = a\,x_0 + b\,\varepsilon`.

With :math:`x_t = \alpha x_0 + \sigma\varepsilon` beside it, two equations in two unknowns give back
:math:`x_0`; that one 2 x 2 solve replaces a table of conversions.

Where the determinant :math:`\alpha b - \sigma a` vanishes nothing can be recovered: for eps it is
alpha, so an eps network says little about x0 where alpha is small (the noisy end); for the score it
is -alpha/sigma, infinite where sigma is 0 (the clean end). For v it is 1 on every VP path.
Where it is exactly 0, :func:`decode` raises.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from ..core.tensor import check_same, expand_to
from .path import GaussianPath

Target = Callable[[GaussianPath, Tensor], tuple[Tensor, Tensor]]  # (path, t) -> (a, b)


def x0_target(path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    """The clean data."""
    return 0 * t + 1, 0 * t


def eps_target(path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    """The noise, as in DDPM. Ho et al. (2020), eq. 14."""
    return 0 * t, 0 * t + 1


def v_target(path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`v = \alpha\varepsilon - \sigma x_0`, :eq:`eq-velocity-prediction-v`.

    Salimans & Ho (2022), section 4.
    """
    return -path.sigma(t), path.alpha(t)


def score_target(path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`-\varepsilon/\sigma`, the score of :math:`q(x_t\mid x_0)`. Vincent (2011)."""
    return 0 * t, -1 / path.sigma(t)


def velocity_target(path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\dot\alpha x_0 + \dot\sigma\varepsilon`: flow matching. Lipman et al. (2022).

    On the linear path it is :math:`\varepsilon - x_0`, which :eq:`eq-velocity-prediction-linear`
    compares with v, and whose mean given x_t is :eq:`eq-rectified-flow-velocity`.
    """
    return path.alpha_dot(t), path.sigma_dot(t)


def karras_target(sigma_data: float) -> Target:
    r"""EDM's F for data of standard deviation :math:`s_d`, on any path: :eq:`eq-edm-precondition`.

    .. math::
        a = \frac{\sigma}{s_d\, n}, \qquad b = -\frac{\alpha s_d}{n}, \qquad
        n = \sqrt{\alpha^2 s_d^2 + \sigma^2}

    On the EDM path this is the c_skip, c_out of Karras et al. (2022), table 1; on a VP path with
    :math:`s_d = 1` it is -v. Its plain squared error is the weighted one of :eq:`eq-edm-weight`.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, got {sigma_data}")

    def target(path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha(t), path.sigma(t)
        norm = (alpha**2 * sigma_data**2 + sigma**2).sqrt()
        return sigma / (sigma_data * norm), -alpha * sigma_data / norm

    return target


def encode(
    target: Target,
    path: GaussianPath,
    x0: Float[Tensor, " b *d"],
    eps: Float[Tensor, " b *d"],
    t: Tensor,
) -> Float[Tensor, " b *d"]:
    r"""The regression target :math:`y = a_t x_0 + b_t \varepsilon`."""
    check_same("eps", eps, "x0", x0)
    a, b = target(path, t)
    return expand_to(a, x0) * x0 + expand_to(b, x0) * eps


def decode(
    target: Target,
    path: GaussianPath,
    x_t: Float[Tensor, " b *d"],
    y: Float[Tensor, " b *d"],
    t: Tensor,
) -> Float[Tensor, " b *d"]:
    r"""x0 from x_t and the prediction y, by Cramer's rule on the two rows.

    .. math::
        x_0 = \frac{b\,x_t - \sigma\,y}{\alpha b - \sigma a}

    For the eps target this is :eq:`eq-ddpm-x0-from-eps`, for v on a VP path
    :eq:`eq-velocity-prediction-inverse`.

    Raises:
        ValueError: `y` unlike `x_t` in shape or device, or a time at which the determinant is 0,
            so that x_t and y do not determine x0: eps or the score where no signal is left (SNR 0).
    """
    check_same("y", y, "x_t", x_t)
    a, b = target(path, t)
    sigma = path.sigma(t)
    det = _determinant(target, path, t)
    if (det == 0).any():
        name, times = getattr(target, "__name__", target), t.expand(det.shape)[det == 0]
        raise ValueError(
            f"x_t and {name} must determine x0, but at t = {times[0].item():g} of {path} they do "
            "not: their determinant is 0. Where no signal is left, use v_target or x0_target"
        )
    return (expand_to(b, x_t) * x_t - expand_to(sigma, x_t) * y) / expand_to(det, x_t)


def error_ratio(target: Target, path: GaussianPath, t: Tensor) -> Tensor:
    r"""The error of a prediction per error of the x0 that :func:`decode` reads from it.

    .. math::
        \frac{\lVert y - \hat y\rVert}{\lVert x_0 - \hat x_0\rVert}
        = \frac{|\alpha b - \sigma a|}{\sigma}

    This is :eq:`eq-velocity-prediction-errors`. Its square is the weight that a target's own loss
    puts on the error of x0: 1 for x0 itself, the SNR for eps, SNR + 1 for v on a VP path.
    """
    return _determinant(target, path, t).abs() / path.sigma(t)


def _determinant(target: Target, path: GaussianPath, t: Tensor) -> Tensor:
    a, b = target(path, t)
    return path.alpha(t) * b - path.sigma(t) * a
