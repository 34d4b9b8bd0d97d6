"""Error against the exact end of the probability-flow ODE: ours and diffusers' best, in one run.

Six problems of variance one, with exact denoisers and with imperfect ones, from sigma 80 to 0; the
error is the mean over samples of the distance to the exact end, a coordinate. For every number of
calls all competitors of `_peers` are searched over their grids and last sigmas, and the single
configuration with the least geometric mean over the problems is the one to beat. No constant of
ours was fitted on these problems. The book's digit model is compared with its own fine solution.
"""

import itertools
import json
import math
import sys
from importlib import import_module
from statistics import geometric_mean

import torch
from _peers import COMPETITORS, exponential_ratios, karras_ratios, sample_peer
from _problems import PATH, START, error_of, problems, solved
from _record import ROOT, record

from notes_lib.data import digits
from notes_lib.diffusion import (
    calibrate,
    closed_form,
    on_path,
    robust,
    sample,
)
from notes_lib.diffusion.plan import TABLES
from notes_lib.train import CHECKPOINTS, load_checkpoint

NFE = (5, 8, 10, 15, 20, 30, 50)
CALIBRATED, DIGITS = (5, 8, 10), (5, 8, 10, 15, 20)
LOWS = {nfe: (0.02, 0.03, 0.06, 0.12) for nfe in (5, 8, 10)}
LOWS |= {nfe: (0.007, 0.012, 0.02, 0.03) for nfe in (15, 20)}
LOWS |= {30: (0.004, 0.008, 0.015), 50: (0.002, 0.004, 0.008)}
RHOS = (15.0, math.inf)  # of Karras' grid; infinite: exponential
SAMPLES, SEED, STARTS = 96, 7, 256


def peer_ratios(count, low, rho):
    if rho == math.inf:
        return exponential_ratios(count, low, START)
    return karras_ratios(count, low, START, rho)


def peer_errors(suite, nfe):
    """(peer, low, rho) -> its error on every problem with so many calls."""
    table = {}
    for (name, peer), low, rho in itertools.product(COMPETITORS.items(), LOWS[nfe], RHOS):
        count = (nfe + 1) // 2 if peer.calls == 2 else nfe
        ratios = peer_ratios(count, low, rho)
        errors = [error_of(p, sample_peer(peer, p.denoise, p.start, ratios)) for p in suite]
        if all(map(math.isfinite, errors)):
            table[name, low, rho] = errors
    return table


def plan_errors(suite, plan):
    ts, solver = plan
    return [error_of(p, sample(p.denoise, PATH, p.start, ts, solver)) for p in suite]


def calibrated_errors(suite, nfe):
    """Fitted on starts of another seed than those that are reported."""
    generator, errors = torch.Generator().manual_seed(SEED + 1), []
    for p in suite:
        x = START * torch.randn(STARTS, p.start.shape[1], generator=generator)
        ts, solver = calibrate(p.denoise, PATH, nfe, x)
        errors.append(error_of(p, sample(p.denoise, PATH, p.start, ts, solver)))
    return errors


def compare(setting, suite, nfes, calibrated=()):
    """One row a method and a number of calls, and the best few of the competitors."""
    rows = []
    for nfe in nfes:
        peers = peer_errors(suite, nfe)
        best = min(peers, key=lambda key: geometric_mean(peers[key]))
        singles = {peer: min(
            (e for (name, *_), e in peers.items() if name == peer), key=geometric_mean
        ) for peer in COMPETITORS}  # fmt: skip
        ours = {"closed form": plan_errors(suite, closed_form(PATH, nfe))}
        if str(nfe) in json.loads(TABLES.read_text()):
            ours["robust table"] = plan_errors(suite, robust(PATH, nfe))
        if nfe in calibrated:
            ours["calibrated"] = calibrated_errors(suite, nfe)
        for method, errors in (ours | singles).items():
            rows.append(
                {
                    "setting": setting,
                    "nfe": nfe,
                    "method": method,
                    "error": geometric_mean(errors),
                    "ratio to best peer": geometric_mean(errors) / geometric_mean(peers[best]),
                    "best peer": f"{best[0]}, sigma_min {best[1]}, rho {best[2]}",
                }
                | {p.name: error for p, error in zip(suite, errors, strict=True)}
            )
    return rows


def digit_model():
    """The book's DDPM of digits on the path x0 + sigma eps, in units of the data's deviation."""
    sys.path.append(str(ROOT / "training"))
    model = import_module("digits_ddpm").build()
    load_checkpoint(CHECKPOINTS / "digits_ddpm.safetensors", model)
    model = model.double().requires_grad_(False)
    here, std = on_path(model, model.path, PATH), digits()[0].std().item()
    return solved(
        "digits",
        lambda x, sigma: here(std * x, std * sigma) / std,
        64,
        SAMPLES,
        torch.Generator().manual_seed(SEED),
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    record(
        "sampler_quality",
        exact=compare("exact", problems(SAMPLES, SEED), NFE, calibrated=CALIBRATED),
        imperfect=compare("imperfect", problems(SAMPLES, SEED, error=0.1), NFE),
        digits=compare("digits", [digit_model()], DIGITS),
    )


if __name__ == "__main__":
    main()
