"""The scripts behind the committed checkpoints still train, and the checkpoints say how."""

import json
from importlib import import_module
from pathlib import Path
from statistics import fmean

import pytest
import torch

from notes_lib.core import Empirical
from notes_lib.data import digits, docs_text, split_text, stratified_split
from notes_lib.train import CHECKPOINTS, load_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture
def x_train():
    torch.set_default_dtype(torch.float32)
    return stratified_split(*digits())[0]


@pytest.mark.parametrize("path", sorted(CHECKPOINTS.glob("*.safetensors")), ids=lambda p: p.stem)
def test_a_checkpoint_is_small_and_tells_its_story(path, x_train):
    model = import_module(path.stem).build()
    notes = load_checkpoint(path, model)
    assert path.stat().st_size < 2e6
    assert (ROOT / notes["script"]).exists()
    assert {"seed", "steps", "commit", "date", "torch"} <= set(notes)
    losses = json.loads(notes["losses"])
    assert losses[-1] < losses[1] < losses[0]


def test_a_short_run_learns_and_the_checkpoint_learnt_more(x_train):
    """120 steps of the script bring the loss down, and the checkpoint is lower still."""
    training = import_module("digits_ddpm")
    _, losses = training.train(x_train, steps=120, seed=1)
    assert losses[0] == pytest.approx(1, abs=0.1)  # a network that says zero
    model = training.build()
    load_checkpoint(CHECKPOINTS / "digits_ddpm.safetensors", model)
    with torch.no_grad():
        trained = model.loss(
            x_train, torch.randint(1, training.T + 1, (len(x_train),)) / training.T
        )
    assert trained < fmean(losses[-20:]) < 0.3


def test_the_bits_in_the_notes_of_digits_iddpm_can_be_measured_again(x_train):
    """The kept model needs the bits that the script wrote down, and fewer than its pair."""
    training = import_module("digits_iddpm")
    model = training.build()
    notes = load_checkpoint(CHECKPOINTS / "digits_iddpm.safetensors", model)
    x_test = stratified_split(*digits())[1]
    pairs = json.loads(notes["bits"])
    found = training.needed_bits(model, x_test, learnt=True).value
    assert found == pytest.approx(pairs["hybrid"][0], abs=1e-3)
    assert found < training.needed_bits(model, x_test, learnt=False).value
    _, losses = training.train(x_train, 60, 1, training.hybrid)
    assert fmean(losses[-10:]) < 0.5 * losses[0]


def test_clipped_gradients_have_the_length_asked_for():
    common = import_module("_common")
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    common.shorten(optimizer, net, 0.5)
    before = torch.cat([p.detach().flatten() for p in net.parameters()])
    (100 * net(torch.ones(1, 3)).sum()).backward()
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert (after - before).norm() == pytest.approx(0.5)


def test_the_accuracies_in_the_notes_of_recall_can_be_measured_again(x_train):
    """At T = 64 attention finds the first character, a plain RNN and an LSTM do not."""
    training = import_module("recall")
    models = training.build()
    found = json.loads(load_checkpoint(CHECKPOINTS / "recall.safetensors", models)["accuracy"])
    text, held_out = split_text(training.ALPHABET.encode(docs_text()))
    for name in training.MODELS:
        again = training.accuracy(models[f"{name}_64"], held_out, 64)
        assert again == pytest.approx(found[f"{name}_64"][0], abs=0.01)
    assert min(found["transformer_64"]) > 0.95
    assert max(found["rnn_64"] + found["lstm_64"]) < 0.4
    _, losses = training.train("transformer", text, 8, 60, 1)
    assert fmean(losses[-10:]) < 0.6 * losses[0]


def test_the_nats_in_the_notes_of_the_language_models_can_be_measured_again(x_train):
    """And a recurrent network of the same size foretells the text better than the Transformer."""
    training, recurrent = import_module("docs_transformer"), import_module("docs_recurrent")
    text, held_out = split_text(training.ALPHABET.encode(docs_text()))
    model, models = training.build(), recurrent.build()
    ours = json.loads(load_checkpoint(CHECKPOINTS / "docs_transformer.safetensors", model)["nats"])
    theirs = json.loads(load_checkpoint(CHECKPOINTS / "docs_recurrent.safetensors", models)["nats"])
    assert training.nats(model, held_out).mean().item() == pytest.approx(ours[0], abs=1e-3)
    for name, found in theirs.items():
        assert training.nats(models[name], held_out).mean().item() == pytest.approx(
            found[0], abs=0.01
        )
    assert max(theirs["gru"]) < min(ours)
    _, losses = training.train(training.build, text, steps=30, seed=1)
    assert losses[-1] < 0.9 * losses[0]


def test_the_models_of_digits_cfg_know_both_laws(x_train):
    """Told the class, each is near the exact denoiser of it; told nothing, near that of all."""
    training = import_module("digits_cfg")
    models, (_, _, y_train, _) = training.build(), stratified_split(*digits())
    load_checkpoint(CHECKPOINTS / "digits_cfg.safetensors", models)
    path, seven = models[0].path, y_train == 7
    laws = [Empirical(x).denoiser(path) for x in (x_train[seven], x_train)]
    x0, t = x_train[seven], torch.tensor(0.5)
    x = path.perturb(x0, torch.randn_like(x0), t.expand(len(x0)))
    for model in models.requires_grad_(False):
        told = [model(x, t, label=torch.full((len(x),), label)) for label in (7, 10)]
        off = torch.tensor([[(a - law(x, t)).norm() for law in laws] for a in told])
        assert off[0, 0] < 0.5 * off[0, 1] and off[1, 1] < 0.5 * off[1, 0]


def test_a_short_run_of_digits_cfg_learns_its_label_and_the_null(x_train):
    """Trained on nothing but "threes", it moves the embeddings of 3 and of no label alone."""
    training = import_module("digits_cfg")
    threes = torch.full((len(x_train),), 3)
    model, losses = training.train(x_train, threes, steps=60, seed=1)
    assert fmean(losses[-10:]) < 0.5 * losses[0]
    torch.manual_seed(1)
    moved = model.net.embedding.table.weight != training.build_one().net.embedding.table.weight
    assert moved.any(1).nonzero().flatten().tolist() == [3, 10]
