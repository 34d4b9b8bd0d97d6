import math

import pytest
import torch

from notes_lib.core import DOPRI5, EULER, HEUN, RK4, Embedded, Tableau, adaptive, odeint

HEUN_EULER = Embedded(HEUN.a, HEUN.b, HEUN.c, b_hat=(1.0, 0.0), order=1)


@pytest.mark.parametrize(("tableau", "order"), [(EULER, 1), (HEUN, 2), (RK4, 4), (DOPRI5, 5)])
def test_observed_order(tableau, order):
    def field(t, x):
        return x * torch.cos(t)  # x(t) = x(0) exp(sin t)

    x = torch.tensor([[1.0], [2.0]])
    errors = []
    for n in (40, 80):
        end = odeint(field, x, torch.linspace(0, 2, n + 1), tableau)
        errors.append((end - x * math.exp(math.sin(2))).abs().max())
    assert abs(torch.log2(errors[0] / errors[1]) - order) < 0.15


def test_time_may_run_backwards():
    ts = torch.linspace(0, 1, 101)
    x = torch.randn(3, 2)

    def field(t, x):
        return torch.sin(x) + t

    torch.testing.assert_close(odeint(field, odeint(field, x, ts), ts.flip(0)), x)


@pytest.mark.parametrize(
    "rows",
    [
        dict(a=((),), b=(0.9,), c=(0.0,)),
        dict(a=((), ()), b=(0.5, 0.5), c=(0.0, 0.0)),
        dict(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 0.5)),
        dict(a=((),), b=(0.5, 0.5), c=(0.0,)),
    ],
)
def test_inconsistent_tableaux_are_refused(rows):
    with pytest.raises(ValueError):
        Tableau(**rows)


def end_of(field, x, t, s, **options):
    """The end, and how many calls of the field and how many steps it took."""
    calls = 0

    def counted(t, x):
        nonlocal calls
        calls += 1
        return field(t, x)

    states = list(adaptive(counted, x, t, s, **options))
    assert states[-1][0] == s
    return states[-1][1], calls, len(states)


def test_the_conditions_of_order():
    """Of the conditions of order 5, those of a quadrature rule and those of a linear equation."""
    a = torch.zeros(7, 7)
    for i, row in enumerate(DOPRI5.a):
        a[i, : len(row)] = torch.tensor(row)
    c, ones = torch.tensor(DOPRI5.c), torch.ones(7)
    for weights, order in ((DOPRI5.b, 5), (DOPRI5.b_hat, 4)):
        chain, b = ones, torch.tensor(weights)
        for n in range(1, order + 1):
            torch.testing.assert_close(b @ c ** (n - 1), torch.tensor(1 / n))
            torch.testing.assert_close(b @ chain, torch.tensor(1 / math.factorial(n)))
            chain = a @ chain
    chain, b_hat = torch.linalg.matrix_power(a, 4) @ ones, torch.tensor(DOPRI5.b_hat)
    assert abs(b_hat @ chain - 1 / 120) > 1e-4, "the second weights must be of order 4 only"


@pytest.mark.parametrize("tableau", [DOPRI5, HEUN_EULER])
def test_a_smaller_tolerance_gives_a_smaller_error(tableau):
    """The error follows the tolerance, over a time that rises and one that falls."""
    x = torch.tensor([[1.0], [2.0]])
    for t, s in ((0.0, 2.0), (2.0, 0.0)):
        exact, errors = x * math.exp(math.sin(s) - math.sin(t)), []
        for tol in (1e-4, 1e-6, 1e-8) if tableau is DOPRI5 else (1e-2, 1e-4):
            end, *_ = end_of(
                lambda t, x: x * torch.cos(t), x, t, s, rtol=tol, atol=tol, tableau=tableau
            )
            errors.append((end - exact).abs().max())
            assert errors[-1] < 10 * tol
        assert all(small < large / 10 for large, small in zip(errors, errors[1:], strict=False))


def test_the_work_grows_with_the_fifth_root_of_the_accuracy():
    """Ten thousand times more accuracy, at order 5, costs 10^(4/5) = 6.3 times the steps."""
    x = torch.tensor([[1.0, 0.0]])

    def orbit(t, x):
        return torch.stack([x[:, 1], -x[:, 0]], 1)

    steps = {}
    for tol in (1e-6, 1e-10):
        end, calls, steps[tol] = end_of(orbit, x, 0.0, 50.0, rtol=tol, atol=tol)
        exact = torch.tensor([[math.cos(50.0), -math.sin(50.0)]])
        assert (end - exact).abs().max() < 100 * tol
        assert 6 * steps[tol] < calls < 6 * steps[tol] * 1.15 + 8  # the last slope is used again
    assert 5 < steps[1e-10] / steps[1e-6] < 8


def test_steps_are_short_where_the_solution_moves():
    """A bump of width 0.01 in the middle of a long rest."""
    x = torch.zeros(1, 1)

    def field(t, x):
        return torch.exp(-0.5 * ((t - 0.5) / 0.01) ** 2) + 0 * x

    states = list(adaptive(field, x, 0.0, 1.0, rtol=1e-8, atol=1e-10))
    assert abs(states[-1][1].item() - 0.01 * math.sqrt(2 * math.pi)) < 1e-8
    times = torch.stack([t for t, _ in states])
    inside = ((times - 0.5).abs() < 0.03).sum()
    assert inside > len(times) / 3


def test_every_row_is_within_tolerance_whatever_its_mates():
    """A row is not less accurate for standing beside a thousand rows at rest."""
    x = torch.zeros(1000, 1)
    x[0] = 1.0

    def field(t, x):
        return -20 * x

    end, *_ = end_of(field, x, 0.0, 1.0, rtol=1e-7, atol=1e-12)
    alone, *_ = end_of(field, x[:1], 0.0, 1.0, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(end[:1], alone, rtol=1e-12, atol=0)
    assert abs(end[0].item() / math.exp(-20) - 1) < 200 * 1e-7  # some hundred steps' worth


def test_float32_states_keep_their_type():
    x = torch.ones(3, 2, dtype=torch.float32)
    end, *_ = end_of(lambda t, x: -x * t, x, 0.0, 1.0, rtol=1e-5, atol=1e-6)
    assert end.dtype == torch.float32
    torch.testing.assert_close(end, x * math.exp(-0.5), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "field",
    [
        lambda t, x: 1 / (1 - t) ** 2 + 0 * x,  # the solution leaves every bound at t = 1
        lambda t, x: torch.where(t < 0.5, x, x * torch.nan),
    ],
    ids=["blow-up", "nan"],
)
def test_an_underflow_is_an_error_that_says_where(field):
    with pytest.raises(FloatingPointError, match="step size underflow at t = (0.9999|0.49)"):
        end_of(field, torch.ones(1, 1), 0.0, 2.0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (dict(x=torch.tensor([[math.nan]])), "x must be finite"),
        (dict(s=0.0), "differ"),
        (dict(s=math.inf), "finite"),
        (dict(rtol=0.0), "rtol and atol must be positive, got 0.0"),
        (dict(atol=-1.0), "rtol and atol must be positive"),
    ],
)
def test_bad_arguments_of_the_adaptive_integrator(options, word):
    arguments = dict(x=torch.ones(1, 1), t=0.0, s=1.0) | options
    with pytest.raises(ValueError, match=word):
        adaptive(lambda t, x: x, **arguments)


@pytest.mark.parametrize("b_hat, order", [((1.0,), 1), ((0.5, 0.4), 1), ((1.0, 0.0), 0)])
def test_second_weights_must_fit(b_hat, order):
    with pytest.raises(ValueError):
        Embedded(HEUN.a, HEUN.b, HEUN.c, b_hat=b_hat, order=order)
