"""The sampling loop and its filters, and the loss."""

from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn

from notes_lib.autoregressive import (
    generate,
    next_token_loss,
    next_token_nats,
    rereading,
    temperature,
    top_k,
    top_p,
)
from notes_lib.nn import Decoder, RecurrentDecoder, TransformerBlock

MODELS = {
    "transformer": lambda: Decoder(7, 12, 2, partial(TransformerBlock, heads=3)),
    "lstm": lambda: RecurrentDecoder(7, 6, nn.LSTM),
}
ODDS = torch.tensor([[0.1, 0.4, 0.15, 0.3, 0.05]], dtype=torch.float64)


def drawn(read, prompt, count, *filters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        list(islice(generate(read, prompt, *filters, generator=generator), count)), 1
    )


@pytest.mark.equation("eq-transformer-chain")
@pytest.mark.parametrize("name", MODELS)
def test_remembering_and_rereading_draw_the_same(name):
    model, prompt = MODELS[name](), torch.randint(7, (5, 3))
    remembered = drawn(model.reader(), prompt, 12)
    assert torch.equal(remembered, drawn(rereading(model), prompt, 12))
    assert remembered.unique().numel() > 2


def test_a_reader_is_never_given_a_token_twice():
    lengths = []

    def read(tokens):
        lengths.append(tokens.shape[1])
        return torch.zeros(*tokens.shape, 4)

    drawn(read, torch.zeros(2, 5, dtype=torch.long), 3)
    assert lengths == [5, 1, 1]


@pytest.mark.equation("eq-transformer-chain")
def test_tokens_come_as_often_as_the_model_says():
    """A chain of order one: each row of draws has the odds of its last token."""
    table = torch.randn(3, 3)
    prompt = torch.arange(30_000)[:, None] % 3
    first = drawn(lambda tokens: table[tokens], prompt, 1)[:, 0]
    odds = table.softmax(-1)
    for i in range(3):
        share = first[i::3].bincount(minlength=3) / 10_000
        assert ((share - odds[i]).abs() < 4 * (odds[i] * (1 - odds[i]) / 10_000).sqrt()).all()


@pytest.mark.equation("eq-transformer-temperature")
def test_temperature_takes_a_power_of_the_odds():
    got = temperature(0.5)(ODDS.log()).softmax(-1)
    torch.testing.assert_close(got, ODDS.square() / ODDS.square().sum())
    assert torch.equal(temperature(1.0)(ODDS.log()), ODDS.log())


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (top_k(1), [1]),
        (top_k(3), [1, 2, 3]),
        (top_k(9), [0, 1, 2, 3, 4]),
        (top_p(0.39), [1]),
        (top_p(0.41), [1, 3]),
        (top_p(0.86), [0, 1, 2, 3]),
        (top_p(1.0), [0, 1, 2, 3, 4]),
    ],
)
def test_filters_keep_the_likeliest_and_their_ratios(keep, left):
    got = keep(ODDS.log()).softmax(-1)
    expected = torch.zeros(1, 5)
    expected[:, left] = ODDS[:, left]
    torch.testing.assert_close(got, expected / expected.sum())


def test_filters_treat_every_row_alone():
    odds = torch.stack([ODDS[0], ODDS[0].flip(0)])
    for keep in (top_k(2), top_p(0.6)):
        assert keep(odds.log()).isfinite().tolist() == [
            [False, True, False, True, False],
            [False, True, False, True, False],
        ]
    uneven = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25]]).log()
    assert top_p(0.7)(uneven).isfinite().sum(1).tolist() == [1, 2]


def test_filters_apply_in_their_order():
    """First a flat temperature, then the nucleus: more tokens stay than the other way round."""
    prompt = torch.zeros(2000, 1, dtype=torch.long)

    def read(tokens):
        return ODDS.log().expand(len(tokens), 1, 5)

    flat_first = drawn(read, prompt, 1, temperature(5.0), top_p(0.7)).unique()
    nucleus_first = drawn(read, prompt, 1, top_p(0.7), temperature(5.0)).unique()
    assert flat_first.tolist() == [0, 1, 2, 3] and nucleus_first.tolist() == [1, 3]


def test_likeliest_tokens_only_is_a_maximum():
    model, prompt = MODELS["transformer"](), torch.randint(7, (5, 3))
    (first,) = drawn(model.reader(), prompt, 1, top_k(1)).unbind(1)
    assert torch.equal(first, model(prompt)[:, -1].argmax(-1))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: temperature(0.0), "positive"),
        (lambda: top_k(0), "at least 1"),
        (lambda: top_p(0.0), r"\(0, 1\]"),
        (lambda: top_p(1.5), r"\(0, 1\]"),
        (lambda: next(generate(torch.zeros_like, torch.zeros(1, 0, dtype=torch.long))), "prompt"),
    ],
)
def test_nonsense_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.equation("eq-transformer-chain")
def test_nats_add_up_to_the_probability_of_the_text():
    """Over all texts of a length, the probabilities sum to one."""
    model = Decoder(3, 6, 1, partial(TransformerBlock, heads=2))
    texts = torch.cartesian_prod(*[torch.arange(3)] * 3)
    tokens = torch.cat([torch.zeros(27, 1, dtype=torch.long), texts], 1)
    odds = torch.exp(-next_token_nats(model, tokens).sum(1))
    torch.testing.assert_close(odds.sum(), torch.tensor(1.0))
    torch.testing.assert_close(
        next_token_loss(model, tokens), next_token_nats(model, tokens).mean()
    )


@pytest.mark.equation("eq-transformer-smoothing")
def test_smoothing_mixes_in_the_mean_over_all_tokens():
    model, tokens = MODELS["transformer"](), torch.randint(7, (5, 9))
    every = model(tokens[:, :-1]).log_softmax(-1).mean()
    expected = 0.9 * next_token_loss(model, tokens) - 0.1 * every
    torch.testing.assert_close(next_token_loss(model, tokens, smoothing=0.1), expected)
