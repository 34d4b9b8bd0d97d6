"""One step of each recurrent network against PyTorch's cell, and the model that reads on."""

from functools import partial

import pytest
import torch
from torch import nn

from notes_lib.nn import RecurrentDecoder, gru_step, lstm_step, rnn_jacobian, rnn_step


@pytest.mark.equation("eq-transformer-rnn")
def test_rnn_step_equals_pytorch():
    cell, x, h = nn.RNNCell(3, 5), torch.randn(2, 3), torch.randn(2, 5)
    ours = rnn_step(x, h, cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh)
    torch.testing.assert_close(ours, cell(x, h))


@pytest.mark.equation("eq-transformer-lstm")
def test_lstm_step_equals_pytorch():
    cell, x, state = nn.LSTMCell(3, 5), torch.randn(2, 3), tuple(torch.randn(2, 2, 5))
    ours = lstm_step(x, state, cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh)
    for mine, theirs in zip(ours, cell(x, state), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.equation("eq-transformer-gru")
def test_gru_step_equals_pytorch_where_the_two_forms_meet():
    """They meet where U is diagonal (r then commutes with it), with z of the other sign."""
    cell, x, h = nn.GRUCell(3, 5), torch.randn(2, 3), torch.randn(2, 5)
    w_x, w_h = cell.weight_ih.detach().clone(), cell.weight_hh.detach().clone()
    b_h = cell.bias_hh.detach().clone()
    w_h[10:], b_h[10:] = torch.diag(torch.randn(5)), 0
    with torch.no_grad():
        cell.weight_hh.copy_(w_h)
        cell.bias_hh.copy_(b_h)
    b = (cell.bias_ih + b_h).detach()
    for part in (w_x, w_h, b):
        part[5:10] *= -1
    torch.testing.assert_close(gru_step(x, h, w_x, w_h, b), cell(x, h))
    u = torch.randn(5, 5)
    w_h[10:] = u
    r, z = ((x @ w_x.T + h @ w_h.T + b)[:, i : i + 5].sigmoid() for i in (0, 5))
    candidate = torch.tanh((x @ w_x.T + b)[:, 10:] + (r * h) @ u.T)
    torch.testing.assert_close(gru_step(x, h, w_x, w_h, b), (1 - z) * h + z * candidate)


@pytest.mark.equation("eq-transformer-jacobian")
def test_the_product_of_jacobians_is_autograds():
    x, h0 = torch.randn(6, 3), torch.randn(5)
    w_x, w_h, b = torch.randn(5, 3), torch.randn(5, 5) / 5**0.5, torch.randn(5)
    states = []

    def last(h):
        states.clear()
        for row in x:
            h = rnn_step(row[None], h[None], w_x, w_h, b)[0]
            states.append(h.detach())
        return h

    autograd = torch.autograd.functional.jacobian(last, h0)
    torch.testing.assert_close(rnn_jacobian(torch.stack(states), w_h), autograd)


@pytest.mark.equation("eq-transformer-bound")
def test_the_jacobian_is_smaller_than_the_power_of_the_norm():
    h, w_h = torch.randn(9, 5).tanh(), torch.randn(5, 5)
    steepest = (1 - h.square()).max()
    norm = torch.linalg.matrix_norm(rnn_jacobian(h, w_h), 2)
    assert norm <= (steepest * torch.linalg.matrix_norm(w_h, 2)) ** 9
    straight = rnn_jacobian(torch.zeros(9, 5), 0.5 * torch.eye(5))
    torch.testing.assert_close(straight, 0.5**9 * torch.eye(5))  # where the bound is an equality


@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, partial(nn.GRU, num_layers=2)])
def test_reading_in_pieces_is_reading_at_once(cell):
    model, tokens = RecurrentDecoder(11, 6, cell), torch.randint(11, (2, 9))
    read = model.reader()
    pieces = [read(piece) for piece in tokens.split([4, 1, 3, 1], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens))


def test_no_output_moves_when_a_later_token_does():
    model, tokens = RecurrentDecoder(11, 6, nn.LSTM), torch.randint(11, (2, 9))
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % 11
    same = (model(tokens) == model(other)).all(-1).all(0)
    assert same[:5].all() and not same[5:].any()
