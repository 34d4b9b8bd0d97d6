"""Train recurrent networks of one size on the text of Python's documentation.

    python training/docs_recurrent.py

The data, steps and loss of docs_transformer.py; three seeds each, about nine minutes on one core.
Writes src/notes_lib/checkpoints/docs_recurrent.safetensors: the models of the first seed, in half
precision, and beside seed, commit, date and loss curve the nats a character of every seed.
"""

import json
from functools import partial
from statistics import fmean

import torch
from _common import curve, keep
from docs_transformer import ALPHABET, SEEDS, STEPS, all_seeds
from torch import nn

from notes_lib.nn import RecurrentDecoder

MODELS = {  # width, two layers, and a rate chosen as there; about 215,000 parameters each
    "rnn": (224, partial(nn.RNN, num_layers=2), 6e-3),
    "lstm": (112, partial(nn.LSTM, num_layers=2), 1.2e-2),
    "gru": (128, partial(nn.GRU, num_layers=2), 1.2e-2),
}


def make(name: str) -> RecurrentDecoder:
    """One untrained model."""
    width, cell, _ = MODELS[name]
    return RecurrentDecoder(len(ALPHABET), width, cell)


def build() -> nn.ModuleDict:
    """All untrained models: ``build()["gru"]`` for one."""
    return nn.ModuleDict({name: make(name) for name in MODELS})


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients through many steps are that small
    models, curves, found = build(), [], {}
    for name, (*_, rate) in MODELS.items():
        model, losses, found[name] = all_seeds(partial(make, name), rate)
        models[name].load_state_dict(model.state_dict())
        curves.append(losses)
    losses = curve([fmean(step) for step in zip(*curves, strict=True)])
    notes = dict(seed=str(SEEDS), steps=str(STEPS), losses=losses, nats=json.dumps(found))
    keep(__file__, models.half(), **notes)


if __name__ == "__main__":
    main()
