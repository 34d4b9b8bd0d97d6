"""Real text: an extract of the documentation of Python, character by character."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor


@cache
def docs_text() -> str:
    """199,889 characters of English technical prose, 94 different ones, plain ASCII.

    The longest topics of ``pydoc_data.topics`` of CPython 3.11.7 (reference manual and built-in
    types), one after the other. Changed against the source: typographic quotes and dashes became
    ASCII; tables and every paragraph that had occurred before were left out, so that a held-out
    part is not a repetition.

    Copyright (c) 2001-2023 Python Software Foundation; all rights reserved. PSF License Agreement,
    kept beside the text in ``docs.LICENSE.txt``.
    """
    return Path(__file__).with_name("docs.txt").read_text(encoding="ascii")


@dataclass(frozen=True)
class Alphabet:
    """Characters as numbers, in the order of `letters`.

    Raises:
        ValueError: a letter twice; in use, a character that is not a letter.
    """

    letters: str

    def __post_init__(self) -> None:
        if len(set(self.letters)) < len(self.letters):
            raise ValueError(f"letters must differ, got {self.letters!r}")

    @classmethod
    def of(cls, text: str) -> "Alphabet":
        """All characters of `text`, sorted."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.letters)

    def encode(self, text: str) -> Int[Tensor, " n"]:
        """The number of each character."""
        numbers = {letter: i for i, letter in enumerate(self.letters)}
        if strange := set(text) - set(numbers):
            raise ValueError(f"not in the alphabet: {''.join(sorted(strange))!r}")
        return torch.tensor([numbers[letter] for letter in text], dtype=torch.long)

    def decode(self, tokens: Int[Tensor, " n"]) -> str:
        """The text that :meth:`encode` would turn into `tokens`."""
        return "".join(self.letters[i] for i in tokens.tolist())


def split_text(
    tokens: Int[Tensor, " n"], held_out: float = 0.1
) -> tuple[Int[Tensor, " k"], Int[Tensor, " m"]]:
    """The text without its end, to train on, and its end, a share `held_out` in (0, 1)."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie in (0, 1), got {held_out}")
    cut = round(len(tokens) * (1 - held_out))
    return tokens[:cut], tokens[cut:]


def windows(tokens: Int[Tensor, " n"], length: int) -> Int[Tensor, "windows length"]:
    """Every run of `length` neighbours, as rows that share their memory.

    ``batches(windows(tokens, 129), 32, steps)`` draws texts for a language model: it reads the
    first 128 characters of a row and is asked for the last 128.
    """
    if not 0 < length <= len(tokens):
        raise ValueError(f"length must lie in 1 .. {len(tokens)}, got {length}")
    return tokens.unfold(0, length, 1)
