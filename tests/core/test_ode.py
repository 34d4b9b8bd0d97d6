import math

import pytest
import torch

from notes_lib.core import EULER, HEUN, RK4, Tableau, odeint


@pytest.mark.parametrize(("tableau", "order"), [(EULER, 1), (HEUN, 2), (RK4, 4)])
def test_observed_order(tableau, order):
    def field(t, x):
        return x * torch.cos(t)  # x(t) = x(0) exp(sin t)

    x = torch.tensor([[1.0], [2.0]])
    errors = []
    for n in (20, 40):
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
