r"""Guidance by the model itself: two denoisers are combined into one, and the result is a denoiser.

Every wrapper takes and returns ``(x_t, t) -> x0_hat`` and so composes with every path, solver and
other wrapper. Here a scale of 1 is the plain conditional model, as in Imagen and diffusers; Ho &
Salimans (2022) count from there, with :math:`w = \gamma - 1`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import expand_to
from .gradient_guidance import check_scale


def classifier_free(cond: Denoise, uncond: Denoise, scale: float) -> Denoise:
    r"""Classifier-free guidance, :eq:`eq-classifier-free-guidance-mix`.

    .. math:: \hat x_0 = \hat x_{0,u} + \gamma\,(\hat x_{0,c} - \hat x_{0,u})

    Ho & Salimans (2022), eq. 6. The difference is the gradient of an implicit classifier,
    :eq:`eq-classifier-free-guidance-implicit`. The weights sum to 1, so it is the same formula for
    eps, v and the score. At 0 and 1 it returns the bits of `uncond` and `cond`.

    In the place of `uncond`, the denoiser of another condition makes a negative prompt, and a worse
    model of the same condition makes the autoguidance of Karras et al. (2024).

    Raises:
        ValueError: a scale that is not finite.
    """
    check_scale(scale)
    return lambda x, t: torch.lerp(uncond(x, t), cond(x, t), scale)


def classifier_free_doubled(
    model: Callable[..., Tensor], label: Tensor, null: int, scale: float
) -> Denoise:
    r"""The same from one call of a labelled model on a batch twice as long.

    Args:
        model: called as ``model(x_t, t, label=label)``, as a :class:`~.denoiser.Denoiser` is.
        label: the class of each row, shape (b,).
        null: the label that means "no label".
        scale: as in :func:`classifier_free`.

    Raises:
        ValueError: a scale that is not finite.
    """
    check_scale(scale)
    both = torch.cat([label, torch.full_like(label, null)])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        times = torch.cat([t, t]) if t.numel() > 1 else t
        cond, uncond = model(torch.cat([x, x]), times, label=both).chunk(2)
        return torch.lerp(uncond, cond, scale)

    return guided


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    r"""`guided` at times in (low, high], `plain` elsewhere. Kynkaanniemi et al. (2024).

    They give the interval in :math:`\sigma/\alpha`; ``path.time_of_log_snr`` converts.

    Raises:
        ValueError: unless low < high.
    """
    if not low < high:
        raise ValueError(f"need low < high, got {low} and {high}")

    def inside(x: Tensor, t: Tensor) -> Tensor:
        on = (t > low) & (t <= high)
        if on.all():
            return guided(x, t)
        return torch.where(expand_to(on, x), guided(x, t), plain(x, t)) if on.any() else plain(x, t)

    return inside


def rescaled(guided: Denoise, cond: Denoise, share: float = 0.7) -> Denoise:
    r"""Give x0_hat back the standard deviation of the conditional one, row by row.

    .. math:: \hat x_0 \Bigl(\phi\,\frac{\mathrm{std}(\hat x_{0,c})}{\mathrm{std}(\hat x_0)}
        + 1 - \phi\Bigr)

    Lin et al. (2024), section 3.4, with :math:`\phi` the `share`; :math:`\mathrm{std}` is over
    the entries of a row, 2 or more. They, and diffusers, rescale the network's output; here it is
    x0_hat, whatever the target.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")

    def rescale(x: Tensor, t: Tensor) -> Tensor:
        x0_hat = guided(x, t)
        ratio = cond(x, t).flatten(1).std(1) / x0_hat.flatten(1).std(1)
        return expand_to(share * ratio + (1 - share), x) * x0_hat

    return rescale


def dynamic_threshold(denoise: Denoise, quantile: float = 0.995) -> Denoise:
    r"""Keep x0_hat in [-1, 1] by clipping the largest entries and scaling the rest with them.

    .. math:: \frac{\mathrm{clip}(\hat x_0, -c, c)}{c}, \qquad
        c = \max(1,\ \text{quantile of } \lvert\hat x_0\rvert)

    with c for each row. Saharia et al. (2022), section 2.3. :func:`~.sample.clip` is the static
    threshold.

    Raises:
        ValueError: a quantile outside (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")

    def threshold(x: Tensor, t: Tensor) -> Tensor:
        x0_hat = denoise(x, t)
        c = expand_to(x0_hat.abs().flatten(1).quantile(quantile, 1).clamp(min=1), x)
        return torch.minimum(torch.maximum(x0_hat, -c), c) / c

    return threshold
