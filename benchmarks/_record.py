"""Write a measurement, with the machine and the versions it was made on, and print it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import cpuinfo
import psutil
import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOAD = psutil.getloadavg()[0]
PACKAGES = ("torch", "numpy", "diffusers", "jupyter-book", "myst-nb", "nbclient")


def git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def circumstances() -> dict:
    """Where, when and from what a measurement was made."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted changes": bool(git("status", "--porcelain")),
        "machine": {
            "cpu": cpuinfo.get_cpu_info()["brand_raw"],
            "cores": os.cpu_count(),
            "threads used by torch": torch.get_num_threads(),
            "load before": round(LOAD, 1),
            "memory, GB": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": gpu,
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }


def record(name: str, **tables: list[dict]) -> None:
    """Write the tables to `results/<name>.json` and print them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(circumstances() | tables, indent=1) + "\n")
    for rows in tables.values():
        print(tabulate(rows, headers="keys", floatfmt=".3g"), end="\n\n")
    print(f"Wrote {path.relative_to(ROOT)}\n")
