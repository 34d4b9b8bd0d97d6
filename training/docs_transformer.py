"""Train a small Transformer on the text of Python's documentation, character by character.

    python training/docs_transformer.py

Three seeds, about four minutes on one core. Writes
src/notes_lib/checkpoints/docs_transformer.safetensors: the model of the first seed, and beside
seed, commit, date and loss curve the nats a character of every seed on held-out text.
"""

import json
from collections.abc import Callable
from functools import partial

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn

from notes_lib.attention import fused_attention
from notes_lib.autoregressive import next_token_loss, next_token_nats
from notes_lib.data import Alphabet, docs_text, split_text, windows
from notes_lib.nn import Decoder, TransformerBlock
from notes_lib.train import batches

SEEDS, LENGTH, BATCH, STEPS, CLIP = (0, 1, 2), 64, 32, 1200, 1.0
RATE = 6e-3  # of 3e-3, 6e-3 and 1.2e-2 the best, tried with another seed
ALPHABET = Alphabet.of(docs_text())


def build() -> Decoder:
    """The untrained model: 2 layers, 96 wide, 4 heads."""
    block = partial(TransformerBlock, heads=4, attend=fused_attention)
    return Decoder(len(ALPHABET), 96, 2, block)


@torch.no_grad()
def nats(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean nats a character of every window of `tokens`; windows do not overlap."""
    return next_token_nats(model, windows(tokens, LENGTH + 1)[::LENGTH]).mean(1)


def train(
    make: Callable[[], nn.Module], tokens: Tensor, steps: int, seed: int, rate: float = RATE
) -> tuple[nn.Module, list[float]]:
    """The averaged model after so many steps on `tokens`, and the loss of every step."""
    torch.manual_seed(seed)
    model = make()
    texts = batches(windows(tokens, LENGTH + 1), BATCH, steps)
    losses = (next_token_loss(model, x) for x in texts)
    return averaged(model, losses, steps, rate, f"seed {seed}", CLIP)


def all_seeds(
    make: Callable[[], nn.Module], rate: float
) -> tuple[nn.Module, list[float], list[float]]:
    """The model of the first seed, its losses, and the held-out nats of every seed."""
    text, held_out = split_text(ALPHABET.encode(docs_text()))
    found = []
    for seed in reversed(SEEDS):
        model, losses = train(make, text, STEPS, seed, rate)
        found.insert(0, nats(model, held_out).mean().item())
    return model, losses, found


def main() -> None:
    torch.set_num_threads(1)
    model, losses, found = all_seeds(build, RATE)
    notes = dict(seed=str(SEEDS), steps=str(STEPS), losses=curve(losses), nats=json.dumps(found))
    keep(__file__, model, **notes)


if __name__ == "__main__":
    main()
