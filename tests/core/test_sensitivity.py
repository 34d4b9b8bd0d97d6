import torch

from notes_lib.core import sensitivity


def test_it_is_the_norm_of_the_jacobian():
    x, w = torch.randn(2, 5, 3), torch.randn(4, 3)

    def net(x):
        return torch.tanh(x.cumsum(1) @ w.T)

    norms = sensitivity(net, x)
    for row, norm in zip(x, norms, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda row: net(row[None])[0, -1], row)
        torch.testing.assert_close(norm, jacobian.square().sum((0, 2)).sqrt())


def test_of_a_shrinking_memory_it_falls_geometrically():
    def net(x):
        h, states = torch.zeros_like(x[:, 0]), []
        for column in x.unbind(1):
            h = 0.5 * h + column
            states.append(h)
        return torch.stack(states, 1)

    norms = sensitivity(net, torch.randn(1, 6, 3))[0]
    torch.testing.assert_close(norms, 3**0.5 * 0.5 ** torch.arange(5, -1, -1.0))
