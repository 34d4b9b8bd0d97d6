"""Train recurrent networks and a Transformer to name the first of T characters that they read.

    python training/recall.py

Text of Python's documentation, three lengths, three seeds. About ten minutes on one core. Writes
src/notes_lib/checkpoints/recall.safetensors: the models of the first seed, in half precision, and
beside seed, commit, date and loss curve the accuracy of every seed on held-out text.
"""

import json
from collections.abc import Callable
from functools import partial
from statistics import fmean

import torch
from _common import averaged, curve, keep
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from notes_lib.attention import fused_attention
from notes_lib.data import Alphabet, docs_text, split_text, windows
from notes_lib.nn import Decoder, RecurrentDecoder, TransformerBlock
from notes_lib.train import batches

LENGTHS, SEEDS = (8, 64, 256), (0, 1, 2)
BATCH, STEPS, CLIP = 32, 400, 1.0
ALPHABET = Alphabet.of(docs_text())
VOCAB, DIM = len(ALPHABET), 64
BLOCK = partial(TransformerBlock, heads=4, attend=fused_attention)
MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {  # and a rate
    "rnn": (partial(RecurrentDecoder, VOCAB, DIM, nn.RNN), 1e-2),
    "lstm": (partial(RecurrentDecoder, VOCAB, DIM, nn.LSTM), 1e-2),
    "gru": (partial(RecurrentDecoder, VOCAB, DIM, nn.GRU), 1e-2),
    "transformer": (partial(Decoder, VOCAB, DIM, 1, BLOCK), 6e-3),
}


def build() -> nn.ModuleDict:
    """All untrained models, ``build()["rnn_64"]`` for one."""
    return nn.ModuleDict({f"{name}_{T}": MODELS[name][0]() for name in MODELS for T in LENGTHS})


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """After the last character of a text, the model names the first."""
    return cross_entropy(model(x)[:, -1], x[:, 0])


@torch.no_grad()
def accuracy(model: nn.Module, tokens: Tensor, length: int) -> float:
    """Share of first characters named, over the windows that start at every 20th character."""
    x = windows(tokens, length)[::20]
    return (model(x)[:, -1].argmax(-1) == x[:, 0]).double().mean().item()


def train(name: str, tokens: Tensor, length: int, steps: int, seed: int):
    """The averaged model after so many steps on `tokens`, and the loss of every step."""
    torch.manual_seed(seed)
    make, rate = MODELS[name]
    model = make()
    losses = (loss(model, x) for x in batches(windows(tokens, length), BATCH, steps))
    return averaged(model, losses, steps, rate, f"{name} {length} {seed}", CLIP)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients through 256 steps are that small
    text, held_out = split_text(ALPHABET.encode(docs_text()))
    models, curves, found = build(), [], {}
    for key in models:
        name, T = key.split("_")
        for seed in reversed(SEEDS):
            model, losses = train(name, text, int(T), STEPS, seed)
            found.setdefault(key, []).insert(0, accuracy(model, held_out, int(T)))
            curves.append(losses)
        models[key].load_state_dict(model.state_dict())
    losses = curve([fmean(step) for step in zip(*curves, strict=True)])
    notes = dict(seed=str(SEEDS), steps=str(STEPS), losses=losses, accuracy=json.dumps(found))
    keep(__file__, models.half(), **notes)


if __name__ == "__main__":
    main()
