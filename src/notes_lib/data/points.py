"""Real points on the globe: 3,376 airports of the United States and its territories."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Airports:
    """One row an airport, in the order of the file; `state` is ``"NA"`` where none is given."""

    code: list[str]
    name: list[str]
    state: list[str]
    latitude: Float[Tensor, " n"]
    longitude: Float[Tensor, " n"]


@cache
def airports() -> Airports:
    """The table ``airports.csv`` of Vega datasets, byte for byte, angles in degrees and float64.

    Latitudes span 7.37 to 71.29, longitudes -176.65 to 145.62 (east is positive). Degrees are no
    distances: project before measuring. The rows are as published, errors included: code ``ROP``
    stands in Thailand, though it is the code of Rota in the Northern Mariana Islands.

    Source and licence: U.S. government data (https://catalog.data.gov/dataset/airports-5e97a), not
    subject to copyright, as shipped in ``vega-datasets`` 3.2.1, whose manifest names that source.
    """
    with Path(__file__).with_name("airports.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> list[str]:
        return [row[name] for row in rows]

    def degrees(name: str) -> Float[Tensor, " n"]:
        return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)

    return Airports(
        column("iata"), column("name"), column("state"), degrees("latitude"), degrees("longitude")
    )
