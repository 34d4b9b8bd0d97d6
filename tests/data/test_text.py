"""The text is the one that the chapters were written with, and windows are windows."""

import hashlib
import sys

import pytest
import torch

from notes_lib.data import Alphabet, docs_text, split_text, windows

PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "…": "...", "°": " degrees"}
)


def test_the_text_is_the_one_that_was_shipped():
    text = docs_text()
    assert text.isascii() and (len(text), len(set(text))) == (199_889, 94)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "72daf85c3ac581c2e522a25ac467dcf38f44b529b8103dc20e6629988ac5fb28"


def test_no_paragraph_occurs_twice():
    paragraphs = [" ".join(p.split()) for p in docs_text().strip().split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs)) > 1000


@pytest.mark.skipif(
    sys.version_info[:3] != (3, 11, 7), reason="the documentation of CPython 3.11.7"
)
def test_the_text_can_be_made_again():
    from pydoc_data.topics import topics

    seen, kept = {""}, []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        for paragraph in topics[name].translate(PLAIN).strip().split("\n\n"):
            words = " ".join(paragraph.split())
            table = any(line.lstrip()[:1] in {"+", "|"} for line in paragraph.splitlines())
            if words not in seen and not table and paragraph.isascii():
                seen.add(words)
                kept.append(paragraph.strip("\n"))
    whole = "\n\n".join(kept)
    assert whole.startswith(docs_text()[:-1] + "\n\n")


def test_letters_and_numbers_are_inverse():
    alphabet = Alphabet.of("banana bread")
    assert alphabet.letters == " abdenr" and len(alphabet) == 7
    assert alphabet.encode("bad").tolist() == [2, 1, 3]
    assert alphabet.decode(alphabet.encode("a red band")) == "a red band"
    text = docs_text()
    assert Alphabet.of(text).decode(Alphabet.of(text).encode(text)) == text


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Alphabet("aba"), "differ"),
        (lambda: Alphabet("ab").encode("abcd"), "'cd'"),
        (lambda: split_text(torch.arange(9), 1.0), "held_out"),
        (lambda: windows(torch.arange(9), 10), r"1 \.\. 9"),
        (lambda: windows(torch.arange(9), 0), r"1 \.\. 9"),
    ],
)
def test_nonsense_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_the_held_out_part_is_the_end():
    train, test = split_text(torch.arange(200), 0.1)
    assert train.tolist() == list(range(180)) and test.tolist() == list(range(180, 200))


def test_windows_are_all_runs_of_neighbours():
    rows = windows(torch.arange(9), 4)
    assert torch.equal(rows, torch.arange(6)[:, None] + torch.arange(4))
