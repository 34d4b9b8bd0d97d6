import pytest
import torch

from notes_lib.diffusion import (
    EDM,
    VE,
    Denoiser,
    Linear,
    SNRShift,
    SubVP,
    VPCosine,
    VPLinear,
    VPTabulated,
    ZeroTerminalSNR,
    ddim,
    eps_target,
    heun,
    linear_betas,
    sample,
    score_target,
    spread,
    v_target,
    velocity_target,
    x0_target,
)

from .paths import interior

TABLE = VPTabulated(linear_betas(1000))
VP = [VPLinear(), VPCosine(), TABLE, SNRShift(VPLinear(), 0.25)]
SHIFTABLE = [*VP, Linear(), VE(), EDM(), ZeroTerminalSNR(VPLinear())]
FACTORS = [1e-3, 0.25, 1.0, 9.0]


@pytest.mark.equation("eq-velocity-prediction-rescale")
@pytest.mark.parametrize("path", VP, ids=str)
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3])
def test_rescaled_path_is_the_formula_and_untouched_before_keep(path, keep):
    ours = ZeroTerminalSNR(path, keep)
    t = torch.linspace(keep, 1, 501)
    kept, last = path.alpha(torch.tensor([keep, 1.0]))
    expected = (path.alpha(t) - last) * kept / (kept - last)
    torch.testing.assert_close(ours.alpha(t), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.alpha(t) ** 2 + ours.sigma(t) ** 2, torch.ones_like(t))
    before = torch.linspace(0, keep, 7)
    assert torch.equal(ours.alpha(before), path.alpha(before))
    assert torch.equal(ours.sigma(before), path.sigma(before))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("path", VP, ids=str)
def test_no_signal_is_left_at_the_end_to_the_last_bit(path, dtype):
    ours = ZeroTerminalSNR(path)
    for n in (1, 2, 3, 9, 33):  # vectorised and scalar kernels may differ in the last bit
        t = torch.full((n,), 1.0, dtype=dtype)
        assert (ours.alpha(t) == 0).all()
    torch.testing.assert_close(ours.sigma(t), torch.ones_like(t))
    (level,) = ours.levels(torch.ones(1))
    assert level.alpha == 0 and level.half_log_snr == -float("inf")


def test_little_noise_is_computed_without_cancellation():
    """Near the data 1 - alpha'^2 has no digits left in float32; sigma keeps them."""
    ours = ZeroTerminalSNR(VPLinear())
    t = torch.tensor([1e-6, 1e-5, 1e-4])
    torch.testing.assert_close(ours.sigma(t.float()).double(), ours.sigma(t), rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", SHIFTABLE, ids=str)
@pytest.mark.parametrize("factor", FACTORS)
def test_shift_multiplies_the_snr_and_keeps_the_curve(path, factor):
    ours, t = SNRShift(path, factor), interior(path, 50)
    expected = path.log_snr(t) + torch.tensor(factor).log()
    torch.testing.assert_close(ours.log_snr(t), expected)
    for norm in (lambda a, s: a, lambda a, s: a + s, torch.hypot):
        kept = (norm(path.alpha(t), path.sigma(t)) - 1).abs().max() < 1e-12
        assert ((norm(ours.alpha(t), ours.sigma(t)) - 1).abs().max() < 1e-12) == kept


@pytest.mark.parametrize("path", SHIFTABLE, ids=str)
def test_shifts_compose_and_invert(path):
    t = interior(path, 20)
    twice, once = SNRShift(SNRShift(path, 5.0), 0.3), SNRShift(path, 1.5)
    back = SNRShift(SNRShift(path, 5.0), 0.2)
    for field in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
        torch.testing.assert_close(getattr(twice, field)(t), getattr(once, field)(t))
        torch.testing.assert_close(getattr(back, field)(t), getattr(path, field)(t))


@pytest.mark.parametrize("m", [0.5, 3.0])
def test_shift_of_the_linear_path_is_another_time(m):
    ours, t = SNRShift(Linear(), 1 / m**2), torch.linspace(0, 1, 21)
    torch.testing.assert_close(ours.sigma(t), m * t / (1 + (m - 1) * t))


def test_shift_of_a_vp_path_moves_the_schedule_of_the_variance():
    """Rescaled data: alpha x0 + sigma eps of k x0, divided by its deviation for unit data."""
    path, k, t = VPLinear(), 0.5, interior(VPLinear())
    norm = (k**2 * path.alpha(t) ** 2 + path.sigma(t) ** 2).sqrt()
    torch.testing.assert_close(SNRShift(path, k**2).alpha(t), k * path.alpha(t) / norm)


@pytest.mark.parametrize("path", [ZeroTerminalSNR(TABLE), VPCosine(), Linear()], ids=str)
@pytest.mark.parametrize("solver", [ddim(), ddim(1.0)])
def test_v_and_x0_start_where_no_signal_is_left(path, solver):
    """The exact predictions of the point mass at 2: every target but eps and the score gets there.

    DDIM ends on the point; Heun in the path's own time must at least stay finite.
    """

    def net(x, t, target):
        (a, b), eps = target(path, t), path.eps_from_x0(x, torch.full_like(x, 2.0), t)
        return a * 2.0 + b * eps

    x, ts = torch.randn(5, 1), spread(1000, 10)
    for target in (x0_target, v_target, velocity_target):
        denoise = Denoiser(lambda x, t, y=target: net(x, t, y), path, target)
        torch.testing.assert_close(sample(denoise, path, x, ts, solver), torch.full_like(x, 2.0))
        assert sample(denoise, path, x, ts, heun).isfinite().all()
    for target in (eps_target, score_target):
        with pytest.raises(ValueError, match="x_t and .* must determine x0, but at t = 1 of"):
            denoise = Denoiser(lambda x, t, y=target: net(x, t, y), path, target)
            sample(denoise, path, x, ts, solver)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ZeroTerminalSNR(Linear()), r"alpha\^2 \+ sigma\^2 = 1, got Linear"),
        (lambda: ZeroTerminalSNR(EDM()), r"alpha\^2 \+ sigma\^2 = 1, got EDM"),
        (lambda: ZeroTerminalSNR(SubVP()), r"alpha\^2 \+ sigma\^2 = 1, got SubVP"),
        (lambda: ZeroTerminalSNR(TABLE, -0.1), "keep must lie in"),
        (lambda: ZeroTerminalSNR(TABLE, 1.0), "keep must lie in"),
        (lambda: ZeroTerminalSNR(TABLE, float("nan")), "keep must lie in"),
        (lambda: SNRShift(SubVP(), 2.0), "alpha = 1, got SubVP"),
        (lambda: SNRShift(Linear(0.1), 2.0), "alpha = 1, got Linear"),
        (lambda: SNRShift(VPLinear(), 0.0), "factor must be positive and finite"),
        (lambda: SNRShift(VPLinear(), float("inf")), "factor must be positive and finite"),
        (lambda: SNRShift(VPLinear(), float("nan")), "factor must be positive and finite"),
    ],
)
def test_what_cannot_be_transformed_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
