"""Fit the grids and weights of notes_lib.diffusion.robust on an ensemble of known flows.

    python training/fit_sampler_tables.py [5 8 ...]
    python training/fit_sampler_tables.py --leave-out [5 8 ...]

The first writes src/notes_lib/diffusion/sampler_tables.json; the second prints, for every family,
the error of a table fitted without it, over the closed form's.

The ensemble: five families of densities, three draws of the parameters for the exact denoiser and
for each of two imperfect ones. The loss is the mean of the log error, plus a ridge that pulls
the weights to the closed form. No problem of benchmarks/sampler_quality.py is in it.
"""

import itertools
import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from _problems import PATH, error_of, perturbed, quick_denoiser, solved, standardised  # noqa: E402

from notes_lib.core import GaussianMixture  # noqa: E402
from notes_lib.diffusion import closed_form, sample, tuned  # noqa: E402
from notes_lib.diffusion.calibrate import Flow, fit  # noqa: E402

OUT = ROOT / "src" / "notes_lib" / "diffusion" / "sampler_tables.json"
NFE, SEED, DRAWS, COUNT, ITERATIONS, RIDGE = (5, 8, 10, 15, 20), 11, 3, 32, 300, 3e-3


def few_peaks(g: torch.Generator) -> GaussianMixture:
    return standardised(torch.randn(3, 1, generator=g), 0.05 + 0.4 * torch.rand(3, 1, generator=g))


def many_peaks(g: torch.Generator) -> GaussianMixture:
    return standardised(2 * torch.randn(9, 2, generator=g), 0.1 + torch.rand(9, 2, generator=g) / 2)


def spiral(g: torch.Generator) -> GaussianMixture:
    angle = 2 + 4 * torch.rand(14, generator=g).sort().values
    means = torch.stack([angle * angle.cos(), angle * angle.sin()], 1)
    return standardised(means, 0.2 + torch.rand(14, 1, generator=g).expand(14, 2) / 2)


def subspaces(g: torch.Generator) -> GaussianMixture:
    kept = torch.rand(7, 32, generator=g) < 0.25
    floor = 0.03 + 0.1 * torch.rand(1, generator=g)
    return standardised(torch.randn(7, 32, generator=g) / 2, floor + kept * 1.0)


def spectrum(g: torch.Generator) -> GaussianMixture:
    decay = 0.3 + 0.8 * torch.rand(1, generator=g)
    return standardised(torch.zeros(1, 96), (torch.arange(1, 97) ** -decay)[None])


FAMILIES = (few_peaks, many_peaks, spiral, subspaces, spectrum)


def flows(family, seed: int) -> list:
    """Solved problems of one family: exact denoisers, and imperfect ones."""
    g, made = torch.Generator().manual_seed(seed), []
    for size in (0.0, 0.05, 0.15) * DRAWS:
        mixture = family(g)
        denoise, dim = quick_denoiser(mixture), mixture.means.shape[1]
        if size:
            denoise = perturbed(denoise, dim, size, g)
        made.append(solved(f"{family.__name__}, {size}", denoise, dim, COUNT, g))
    return made


def fitted(problems: list, nfe: int) -> tuple[list[float], list[list[float]]]:
    made = [Flow(p.denoise, PATH, p.start, p.end) for p in problems]
    return fit(made, nfe, iterations=ITERATIONS, ridge=RIDGE)


def gain(problems: list, nfe: int, table: tuple) -> float:
    """Geometric mean of the ratio of the table's error to the closed form's."""
    ratios = []
    for p in problems:
        ends: list[Tensor] = [
            sample(p.denoise, PATH, p.start, *plan)
            for plan in (tuned(PATH, *table), closed_form(PATH, nfe))
        ]
        ratios.append(math.log(error_of(p, ends[0]) / error_of(p, ends[1])))
    return math.exp(sum(ratios) / len(ratios))


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    counts = [int(a) for a in sys.argv[1:] if a.isdigit()] or NFE
    ensemble = {family: flows(family, SEED + i) for i, family in enumerate(FAMILIES)}
    if "--leave-out" in sys.argv:
        for nfe, left in itertools.product(counts, FAMILIES):
            rest = [p for family, ps in ensemble.items() if family is not left for p in ps]
            print(nfe, left.__name__, gain(ensemble[left], nfe, fitted(rest, nfe)), flush=True)
        return
    every = [p for problems in ensemble.values() for p in problems]
    for nfe in counts:
        ratios, weights = fitted(every, nfe)
        tables = json.loads(OUT.read_text()) if OUT.exists() else {}
        tables[str(nfe)] = {"ratios": ratios, "weights": weights}
        print(nfe, "to the closed form:", gain(every, nfe, (ratios, weights)), flush=True)
        OUT.write_text(json.dumps(dict(sorted(tables.items(), key=lambda t: int(t[0])))) + "\n")


if __name__ == "__main__":
    main()
