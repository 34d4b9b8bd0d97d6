from inspect import unwrap

import pytest
import torch

from notes_lib.diffusion import (
    EDM,
    VPCosine,
    VPTabulated,
    decode,
    encode,
    eps_target,
    karras_target,
    linear_betas,
    v_target,
)

from .paths import PATHS, TARGETS, interior, name


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("target", TARGETS, ids=name)
def test_decode_inverts_encode(path, target):
    t, x0, eps = interior(path), torch.randn(7, 3, 4), torch.randn(7, 3, 4)
    y = encode(target, path, x0, eps, t)
    got = decode(target, path, path.perturb(x0, eps, t), y, t)
    torch.testing.assert_close(got, x0, rtol=1e-7, atol=1e-7)


@pytest.mark.equation("eq-ddpm-x0-from-eps")
def test_decode_of_eps_is_the_formula_of_ddpm():
    path = VPTabulated(linear_betas(1000))
    t, x_t, eps = interior(path), torch.randn(7, 3), torch.randn(7, 3)
    alpha_bar = (path.alpha(t) ** 2)[:, None]
    expected = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    torch.testing.assert_close(decode(eps_target, path, x_t, eps, t), expected)


def test_karras_row_is_the_preconditioning_of_edm():
    path, s_d = EDM(), 0.5
    t, x0, eps = interior(path), torch.randn(7, 5), torch.randn(7, 5)
    x, s = path.perturb(x0, eps, t), t[:, None]
    c_skip, c_out = s_d**2 / (s**2 + s_d**2), s * s_d / (s**2 + s_d**2).sqrt()
    target = karras_target(s_d)
    torch.testing.assert_close(encode(target, path, x0, eps, t), (x0 - c_skip * x) / c_out)
    f = torch.randn(7, 5)
    torch.testing.assert_close(decode(target, path, x, f, t), c_skip * x + c_out * f)


def test_karras_is_minus_v_on_the_unit_circle():
    path = VPCosine()
    t = interior(path)
    for ours, v in zip(karras_target(1.0)(path, t), v_target(path, t), strict=True):
        torch.testing.assert_close(ours, -v)


def test_decode_refuses_an_output_of_another_shape():
    with pytest.raises(ValueError, match="y and x_t need one shape"):
        unwrap(decode)(eps_target, VPCosine(), torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(()))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan")])
def test_karras_refuses_impossible_data(sigma_data):
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        karras_target(sigma_data)
