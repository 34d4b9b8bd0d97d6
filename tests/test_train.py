import pytest
import torch

from notes_lib.train import EMA, batches, fit, load_checkpoint, noam, save_checkpoint


def test_ema_is_its_closed_form():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    ema, expected = EMA(module, 0.9), 0.0
    for n in range(1, 200):
        torch.nn.init.constant_(module.weight, float(n))
        ema.update(module)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert abs(ema.module.weight.item() - expected) < 1e-9
    assert not ema.module.weight.requires_grad


def test_fit_minimises_and_yields_every_loss():
    weight = torch.nn.Parameter(torch.tensor(5.0))
    losses = list(fit(((weight - 2) ** 2 for _ in range(200)), torch.optim.SGD([weight], 0.1)))
    assert len(losses) == 200 and losses[0] == 9
    assert abs(weight.item() - 2) < 1e-6


def test_fit_stops_before_a_bad_step():
    weight = torch.nn.Parameter(torch.tensor(1.0))
    factors = (1.0, float("nan"), 1.0)
    steps = fit((factor * weight**2 for factor in factors), torch.optim.SGD([weight], 0.1))
    next(steps)
    before = weight.item()
    with pytest.raises(FloatingPointError, match="step 1"):
        next(steps)
    assert weight.item() == before


def test_batches_draw_rows_evenly():
    x = torch.arange(10)
    drawn = torch.cat(list(batches(x, 100, 200, torch.Generator().manual_seed(0))))
    counts = drawn.bincount(minlength=10)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert len(drawn) == 20_000 and chi_square < 27.9  # 0.1% point of chi-square with 9 d.o.f.


def test_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        next(batches(torch.zeros(0, 2), 4, 1))


def test_checkpoints_come_back_with_their_notes(tmp_path):
    module, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    path = tmp_path / "weights" / "net.safetensors"
    save_checkpoint(path, module, seed="0")
    assert load_checkpoint(path, other) == {"seed": "0"}
    torch.testing.assert_close(other.weight, module.weight)
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_checkpoint(path, torch.nn.Linear(3, 3))


def test_a_checkpoint_of_a_bad_decay_is_refused():
    with pytest.raises(ValueError, match="decay"):
        EMA(torch.nn.Linear(1, 1), 1.0)


@pytest.mark.equation("eq-transformer-noam")
def test_noam_climbs_in_a_line_and_falls_with_the_root():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, noam(64, 100))
    rates = []
    for _ in range(400):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    t = torch.arange(1, 401)
    torch.testing.assert_close(torch.tensor(rates[:100]), t[:100] / (8 * 100**1.5))
    torch.testing.assert_close(torch.tensor(rates[100:]), 1 / (8 * t[100:].sqrt()))
    assert max(rates) == rates[99]
    with pytest.raises(ValueError, match="warmup"):
        noam(64, 0)
