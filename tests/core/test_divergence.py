"""The divergence is held against Jacobians, closed forms and the exact law of its estimate."""

from inspect import unwrap

import pytest
import torch

from notes_lib.core import exact_divergence, hutchinson_divergence, rademacher


def swirl(x):
    """A field that is neither linear nor a gradient, of any shape."""
    return torch.sin(x.roll(1, -1)) * x + x.square().flatten(1).sum(1).reshape(
        -1, *[1] * (x.ndim - 1)
    )


@pytest.mark.parametrize("shape", [(4, 1), (3, 5), (2, 1, 3, 2)])
def test_exact_is_the_trace_of_the_jacobian(shape):
    x = torch.randn(shape)
    expected = [
        torch.autograd.functional.jacobian(lambda row: swirl(row[None])[0], row)
        .reshape(row.numel(), row.numel())
        .trace()
        for row in x
    ]
    torch.testing.assert_close(exact_divergence(swirl, x), torch.stack(expected))


@pytest.mark.equation("eq-score-matching-probe")
def test_hutchinson_with_all_sign_vectors_is_exact():
    """The mean over the whole law of the probes, not over draws."""
    x = torch.randn(3, 4)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    mean = torch.stack([hutchinson_divergence(swirl, x, v.expand_as(x)) for v in signs]).mean(0)
    torch.testing.assert_close(mean, exact_divergence(swirl, x))


@pytest.mark.equation("eq-score-matching-probe")
def test_variance_of_both_kinds_of_probes():
    matrix, generator, n = torch.randn(5, 5), torch.Generator().manual_seed(0), 200_000
    symmetric = 0.5 * (matrix + matrix.T)
    off = symmetric - symmetric.diag().diag()
    x = torch.zeros(n, 5)
    for v, part in (
        (torch.randn(n, 5, generator=generator), symmetric),
        (rademacher(generator)(x), off),
    ):
        values = hutchinson_divergence(lambda x: x @ matrix.T, x, v)
        se = values.std() / n**0.5
        assert abs(values.mean() - matrix.trace()) < 4 * se
        assert abs(values.var() / (2 * part.square().sum()) - 1) < 0.05


def test_signs_are_signs_in_the_dtype_of_x():
    v = rademacher(torch.Generator().manual_seed(0))(torch.zeros(1000, 2, dtype=torch.float32))
    assert v.dtype == torch.float32 and torch.equal(v.abs(), torch.ones_like(v))
    assert abs(v.mean()) < 4 / 2000**0.5


@pytest.mark.parametrize(
    "divergence", [exact_divergence, lambda f, x: hutchinson_divergence(f, x, torch.ones_like(x))]
)
def test_gradients_reach_the_parameters_and_x(divergence):
    """The field a x^3: divergence 3 a x^2, whose derivatives in a and x are known."""
    a, x = torch.tensor(0.7, requires_grad=True), torch.randn(4, 1, requires_grad=True)
    value = divergence(lambda x: a * x**3, x).sum()
    by_a, by_x = torch.autograd.grad(value, (a, x))
    torch.testing.assert_close(by_a, 3 * x.square().sum())
    torch.testing.assert_close(by_x, 6 * a * x)
    with torch.no_grad():
        quiet = divergence(lambda x: a * x**3, x.detach())
    torch.testing.assert_close(quiet, 3 * a * x[:, 0] ** 2)
    assert not quiet.requires_grad


def test_a_constant_field_and_no_rows():
    assert torch.equal(exact_divergence(torch.ones_like, torch.randn(3, 2)), torch.zeros(3))
    assert exact_divergence(swirl, torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize(
    ("f", "x", "word"),
    [
        (swirl, torch.tensor([[torch.nan]]), "finite"),
        (swirl, torch.zeros(3), "rows"),
        (swirl, torch.zeros(3, 2, dtype=torch.long), "floating"),
        (lambda x: x[:, :1], torch.zeros(3, 2), "one shape"),
    ],
)
def test_bad_input_is_refused(f, x, word):
    with pytest.raises(ValueError, match=word):
        unwrap(exact_divergence)(f, x)
    with pytest.raises(ValueError, match=word):
        unwrap(hutchinson_divergence)(f, x, torch.ones_like(x))


def test_probes_must_fit():
    with pytest.raises(ValueError, match="v and x need one shape"):
        unwrap(hutchinson_divergence)(swirl, torch.zeros(3, 2), torch.zeros(3, 1))
