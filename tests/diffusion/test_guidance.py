"""Guided denoisers with an oracle in the network's place: every guidance x solver x path."""

import pytest
import torch

from notes_lib.core import GaussianMixture, seeded_noise
from notes_lib.diffusion import (
    EDM,
    VE,
    Denoiser,
    Linear,
    VPCosine,
    VPLinear,
    ancestral,
    classifier,
    classifier_free,
    classifier_free_doubled,
    ddim,
    dpmpp_2m,
    dynamic_threshold,
    eps_target,
    euler,
    guided_flow,
    heun,
    interval,
    log_snr,
    rescaled,
    sample,
    tilted_gaussian,
    v_target,
    velocity_target,
)
from notes_lib.nn import ClassEmbedding, Labelled, ResidualMLP

from .bumps import class_of, log_prob_of, mixture
from .paths import name

PATHS = [VPLinear(), VPCosine(), VE(), EDM(), Linear()]
SOLVERS = {
    "ddim": lambda: ddim(),
    "ddim eta 1": lambda: ddim(1.0, seeded_noise(torch.Generator().manual_seed(0))),
    "ancestral": lambda: ancestral(noise=seeded_noise(torch.Generator().manual_seed(0))),
    "euler": lambda: euler,
    "heun": lambda: heun,
    "dpmpp_2m": lambda: dpmpp_2m,
}


def by_classifier(scale):
    def build(path):
        whole = mixture()
        expected = whole if scale == 0 else class_of(whole)
        guided = classifier(whole.denoiser(path), log_prob_of(whole, path), path, scale)
        return guided, expected.denoiser(path)

    return build


def by_itself(combine, expect):
    """combine and expect get the denoisers of the class, of all data, and the path."""

    def build(path):
        whole = mixture()
        cond, uncond = class_of(whole).denoiser(path), whole.denoiser(path)
        return combine(cond, uncond, path), expect(cond, uncond, path)

    return build


def cond_itself(cond, uncond, path):
    return cond


def uncond_itself(cond, uncond, path):
    return uncond


def at_three(cond, uncond, path):
    return classifier_free(cond, uncond, 3.0)


def in_interval(low, high):
    return lambda cond, uncond, path: interval(
        at_three(cond, uncond, path), cond, low * path.t_max, high * path.t_max
    )


def by_exact_classifier(cond, uncond, path):
    return classifier(uncond, log_prob_of(mixture(), path), path, 3.0)


def small(cond, uncond, path):
    """A denoiser whose output stays inside [-1, 1]."""
    return lambda x, t: torch.tanh(cond(x, t))


CASES = {  # path -> (guided denoiser, the denoiser that it must equal), tolerance
    "classifier at 0": (by_classifier(0.0), 0.0),
    "classifier at 1": (by_classifier(1.0), 1e-9),
    "classifier-free at 0": (
        by_itself(lambda c, u, path: classifier_free(c, u, 0.0), uncond_itself), 0.0),
    "classifier-free at 1": (
        by_itself(lambda c, u, path: classifier_free(c, u, 1.0), cond_itself), 0.0),
    "classifier-free is its own classifier": (by_itself(at_three, by_exact_classifier), 1e-8),
    "guidance by itself": (
        by_itself(lambda c, u, path: classifier_free(c, c, 3.0), cond_itself), 1e-12),
    "interval of no time": (by_itself(in_interval(2.0, 3.0), cond_itself), 0.0),
    "interval of all times": (by_itself(in_interval(0.0, 1.0), at_three), 0.0),
    "rescaled by 0": (
        by_itself(lambda *args: rescaled(at_three(*args), args[0], 0.0), at_three), 0.0),
    "rescaled to itself": (
        by_itself(lambda c, u, path: rescaled(c, c, 0.7), cond_itself), 1e-12),
    "threshold of small x0_hat": (
        by_itself(lambda *args: dynamic_threshold(small(*args), 0.9), small), 0.0),
}  # fmt: skip


# A case compares two denoisers, and what tells them apart is the path (its conversions, its end)
# or the times and the memory of the solver: every path with one solver, every solver on one path.
PAIRS = [("heun", path) for path in PATHS] + [(s, EDM()) for s in SOLVERS if s != "heun"]


@pytest.mark.equation(
    "eq-classifier-guidance-bayes",
    "eq-classifier-guidance-oracle",
    "eq-classifier-free-guidance-mix",
    "eq-classifier-free-guidance-implicit",
)
@pytest.mark.parametrize(("solver", "path"), PAIRS, ids=name)
@pytest.mark.parametrize("case", CASES)
def test_guided_sampling_is_known(case, solver, path):
    build, tolerance = CASES[case]
    ts = log_snr(path, 6, 0.9 * path.t_max, 0.05 * path.t_max)
    x = path.sigma(ts[0]) * torch.randn(16, 2)
    got, expected = (sample(d, path, x, ts, SOLVERS[solver]()) for d in build(path))
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


# Classifier-free guidance of two Gaussians: all data N(0, 1), the class N(1, 1/4).
ALL, CLASS = (0.0, 1.0), (1.0, 0.25)
ODE_SOLVERS = {  # solver, order, steps, and the relative error of the variance once extrapolated
    "ddim": (ddim(), 1, 150, 5e-3),
    "euler": (euler, 1, 150, 0.04),  # its steps are long in the time of the path VE
    "heun": (heun, 2, 60, 3e-3),
    "dpmpp_2m": (dpmpp_2m, 2, 60, 3e-3),
}
# The solvers of order 1 need many steps, and meet the paths that are hardest for them.
MEETINGS = [(s, path) for s in ("heun", "dpmpp_2m") for path in PATHS]
MEETINGS += [(s, path) for s in ("ddim", "euler") for path in (VE(), Linear())]


def gaussian(mean, variance):
    return GaussianMixture(torch.tensor([[mean]]), torch.tensor([[variance]]))


@pytest.mark.equation("eq-classifier-free-guidance-variance", "eq-classifier-free-guidance-centre")
@pytest.mark.parametrize(("solver", "path"), MEETINGS, ids=name)
def test_guided_gaussians_have_the_closed_form(solver, path):
    """The flow is affine: its offset is the mean, its slope gives the variance.

    Two step counts and the order of the solver say what no steps at all would give (Richardson).
    """
    step, order, steps, tolerance = ODE_SOLVERS[solver]
    times = 0.99 * path.t_max, path.time_of_log_snr(torch.tensor([13.8])).item()
    first, _ = path.levels(torch.tensor(times))
    guided = classifier_free(gaussian(*CLASS).denoiser(path), gaussian(*ALL).denoiser(path), 3.0)
    start = torch.tensor([[0.0], [first.sigma]])

    def law(steps):
        mean, end = sample(guided, path, start, log_snr(path, steps, *times), step)[:, 0]
        return torch.stack([mean, (end - mean) ** 2])

    coarse, fine = law(steps), law(2 * steps)
    mean, variance = (fine + (fine - coarse) / (2**order - 1)).tolist()
    expected = guided_flow(ALL, CLASS, 3.0, first.sigma / first.alpha)
    assert mean == pytest.approx(expected[0], abs=2e-3)
    assert variance == pytest.approx(expected[1], rel=tolerance)


def test_guided_flow_known_values():
    """Variance 0.0625 and 0.0039 at scales 2 and 4; means from sigma = 80, worked out apart."""
    for scale, expected in {2.0: (1.374, 0.0625), 4.0: (1.514, 0.0039)}.items():
        assert guided_flow(ALL, CLASS, scale, 80.0) == pytest.approx(expected, abs=6e-4)
    for scale in (0.3, 2.0, 5.0):  # equal variances: the mean moves by scale, nothing narrows
        assert guided_flow((0.2, 0.5), (0.7, 0.5), scale) == pytest.approx((0.2 + 0.5 * scale, 0.5))
    far = guided_flow(ALL, CLASS, 2.0, 1e6)
    assert far == pytest.approx(guided_flow(ALL, CLASS, 2.0), abs=1e-5)


@pytest.mark.equation("eq-classifier-free-guidance-tilted")
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_the_tilted_gaussian_is_its_quadrature(scale):
    x = torch.linspace(-12, 12, 100_001)
    log_u, log_c = (gaussian(*law).log_prob(x[:, None]) for law in (ALL, CLASS))
    weight = ((1 - scale) * log_u + scale * log_c).softmax(0)
    mean = (weight * x).sum()
    expected = mean.item(), (weight * (x - mean) ** 2).sum().item()
    assert tilted_gaussian(ALL, CLASS, scale) == pytest.approx(expected, abs=1e-9)


@pytest.mark.equation("eq-classifier-free-guidance-mix")
def test_guiding_x0_is_guiding_eps_v_velocity_and_the_score():
    """The weights sum to 1, so any affine reading of x0_hat may be combined instead."""
    whole, x = mixture(), torch.randn(20, 2)
    for path in PATHS:
        t = torch.tensor([0.4 * path.t_max])
        c, u = class_of(whole).denoiser(path)(x, t), whole.denoiser(path)(x, t)
        guided = classifier_free(lambda x, t, c=c: c, lambda x, t, u=u: u, 3.0)(x, t)
        for read in (path.eps_from_x0, path.score, path.velocity):
            combined = 3 * read(x, c, t) - 2 * read(x, u, t)
            torch.testing.assert_close(read(x, guided, t), combined)


@pytest.mark.equation("eq-classifier-free-guidance-mix")
def test_a_step_is_affine_in_the_scale():
    whole, path, x = mixture(), VPCosine(), torch.randn(20, 2)
    cond, uncond = class_of(whole).denoiser(path), whole.denoiser(path)

    def after(scale):
        return sample(classifier_free(cond, uncond, scale), path, x, torch.tensor([0.7, 0.5]))

    for scale in (-1.0, 0.3, 0.8, 7.5):
        torch.testing.assert_close(
            after(scale), (1 - scale) * after(0.0) + scale * after(1.0), atol=1e-13, rtol=0
        )


class TwoFaced(torch.nn.Module):
    """A toy network that reads its label."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(4, 2)

    def forward(self, x, t, label):
        return torch.sin(x + self.table(label) + t[:, None])


@pytest.mark.equation("eq-classifier-free-guidance-mix")
@pytest.mark.parametrize("target", [eps_target, v_target, velocity_target])
def test_one_doubled_batch_is_two_passes(target):
    model, label = Denoiser(TwoFaced(), VPCosine(), target), torch.tensor([0, 2, 1])
    x, null = torch.randn(3, 2), torch.full((3,), 3)
    once = classifier_free_doubled(model, label, 3, 2.5)
    twice = classifier_free(
        lambda x, t: model(x, t, label=label), lambda x, t: model(x, t, label=null), 2.5
    )
    for t in (torch.tensor(0.4), torch.tensor([0.2, 0.5, 0.7])):
        torch.testing.assert_close(once(x, t), twice(x, t))


@pytest.mark.equation("eq-classifier-free-guidance-drop")
def test_dropped_samples_move_the_null_row_and_no_other():
    """The null row's gradient is that of the dropped samples alone; undropped, it is exactly 0."""
    net = Labelled(ResidualMLP(2, 16, 1, condition=8), ClassEmbedding(3, 8))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model, label = Denoiser(net, VPCosine(), eps_target), torch.arange(60) % 3
    (x0, eps), t = torch.randn(2, 60, 2), torch.rand(60)
    null, rows = net.embedding.null, net.embedding.table.weight

    def gradient(label, of=slice(None)):
        errors = model.errors(x0, t, eps, label=label)
        return torch.autograd.grad(errors[of].sum() / 60, rows)[0]

    dropped = net.embedding.drop(label, 0.3, torch.Generator().manual_seed(0))
    gone = dropped == null
    assert 0 < gone.sum() < 60 and (gradient(label)[null] == 0).all()
    torch.testing.assert_close(gradient(dropped)[null], gradient(dropped, gone)[null])
    assert (gradient(dropped, gone)[:null] == 0).all() and gradient(dropped)[null].norm() > 0


@pytest.mark.equation("eq-classifier-free-guidance-drop")
def test_the_loss_with_drops_is_least_at_both_exact_denoisers():
    """Its slope is 0 along any function of x_t and of the label that is left; a wrong one tells."""
    whole, path, n = mixture(), VPCosine(), 100_000
    x0, component = whole.sample(n)
    label = (component >= 2).long()  # the class is 0
    rest = GaussianMixture(whole.means[2:], whole.variances[2:], whole.weights[2:])
    left = ClassEmbedding(2, 1).drop(label, 0.3)
    eps, t = torch.randn(n, 2), 0.1 + 0.8 * torch.rand(n)
    x_t = path.perturb(x0, eps, t)

    def z_scores(denoisers):
        exact = torch.stack([path.eps_from_x0(x_t, d.denoiser(path)(x_t, t), t) for d in denoisers])
        error = exact[left, torch.arange(n)] - eps
        slopes = torch.nn.functional.one_hot(left, 3) * (error * torch.sin(x_t)).sum(1, True)
        return slopes.mean(0) / slopes.std(0) * n**0.5

    assert z_scores([class_of(whole), rest, whole]).abs().max() < 4
    assert z_scores([class_of(whole), rest, rest])[2].abs() > 20


def test_rescaled_has_the_conditional_deviation_and_threshold_the_range():
    path, x = VPCosine(), 3 * torch.randn(5, 2)
    whole, t = mixture(), torch.tensor(0.5)
    cond, uncond = class_of(whole).denoiser(path), whole.denoiser(path)
    strong = classifier_free(cond, uncond, 6.0)
    torch.testing.assert_close(rescaled(strong, cond, 1.0)(x, t).std(1), cond(x, t).std(1))
    for quantile in (0.5, 1.0):
        kept = dynamic_threshold(lambda x, t: x, quantile)(x, t)
        c = x.abs().quantile(quantile, 1).clamp(min=1)[:, None]
        torch.testing.assert_close(kept, x.clamp(-c, c) / c)
        assert kept.abs().max() <= 1


def test_an_interval_may_differ_from_row_to_row():
    guided, plain = (lambda x, t: 2 * x), (lambda x, t: x)
    got = interval(guided, plain, 0.2, 0.5)(torch.ones(4, 1), torch.tensor([0.2, 0.3, 0.5, 0.6]))
    assert got[:, 0].tolist() == [1.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda f: classifier_free(f, f, float("inf")), "scale must be finite"),
        (lambda f: classifier_free_doubled(f, torch.zeros(2).long(), 3, float("nan")), "finite"),
        (lambda f: interval(f, f, 0.5, 0.5), "low < high"),
        (lambda f: rescaled(f, f, 1.1), "share"),
        (lambda f: dynamic_threshold(f, 0.0), "quantile"),
        (lambda f: guided_flow(ALL, (1.0, 0.0), 2.0), "positive"),
        (lambda f: guided_flow(ALL, CLASS, 2.0, 0.0), "positive"),
        (lambda f: tilted_gaussian(CLASS, ALL, 3.0), "cannot be normalised"),
    ],
)
def test_bad_combinations_are_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call(lambda x, t: x)


def test_the_formulas_are_those_of_diffusers():
    """Its guider, its rescaling, its threshold; and w, Ho & Salimans' scale, is ours less 1."""
    pytest.importorskip("diffusers", reason="peer: pip install -r requirements-peers.txt")
    from diffusers import DDPMScheduler
    from diffusers.guiders import ClassifierFreeGuidance

    c, u, t = 2 * torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), torch.tensor(0.5)
    cond, uncond = (lambda x, t: c), (lambda x, t: u)
    ours = classifier_free(cond, uncond, 4.0)
    for peer in (
        ClassifierFreeGuidance(guidance_scale=4.0),
        ClassifierFreeGuidance(guidance_scale=3.0, use_original_formulation=True),
    ):
        torch.testing.assert_close(ours(c, t), peer.forward(c, u).pred)
    peer = ClassifierFreeGuidance(guidance_scale=4.0, guidance_rescale=0.7)
    torch.testing.assert_close(rescaled(ours, cond, 0.7)(c, t), peer.forward(c, u).pred)
    scheduler = DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=100.0
    )
    torch.testing.assert_close(dynamic_threshold(cond, 0.9)(c, t), scheduler._threshold_sample(c))
