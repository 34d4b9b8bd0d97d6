"""Write a measurement, with the machine and the versions it was made on, and print it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cpuinfo
import psutil
import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOAD = psutil.getloadavg()[0]
PACKAGES = ("torch", "numpy", "diffusers", "jupyter-book", "myst-nb", "nbclient")


def git(*arguments: str) -> str | None:
    """What git answers; None for a copy of the files without their history."""
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if run.returncode else run.stdout.strip()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Of the packages that are installed; None for the others."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@cache
def circumstances() -> dict:
    """Where, when and from what a measurement was made: as it was before the first file of it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    changes = git("status", "--porcelain")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git("rev-parse", "HEAD") or os.environ.get("NOTES_COMMIT"),
        "uncommitted changes": None if changes is None else bool(changes),
        "machine": {
            "cpu": cpuinfo.get_cpu_info()["brand_raw"],
            "cores": os.cpu_count(),
            "threads used by torch": torch.get_num_threads(),
            "load before": round(LOAD, 1),
            "memory, GB": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": gpu,
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version()} | versions(PACKAGES),
    }


def record(name: str, **tables: list[dict]) -> None:
    """Write the tables to `results/<name>.json` and print them."""
    write(name, **tables)
    for rows in tables.values():
        show(rows)


def write(name: str, **tables: list[dict]) -> None:
    print(f"Wrote {save(name, **tables).relative_to(ROOT)}\n")


def save(name: str, **tables: list[dict]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(circumstances() | tables, indent=1) + "\n")
    return path


def show(rows: list[dict]) -> None:
    print(tabulate(rows, headers="keys", floatfmt=".3g"), end="\n\n")
