"""What the book's outputs depend on, as hashes over contents (never over times)."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"

# The outputs of the pages, beside their own cells.
EXECUTION = (
    "requirements.txt",
    "src/**/*",
    "training/**/*",
    "book/**/*.safetensors",
    "benchmarks/results/*.json",
)
# The site: everything that it is rendered from.
SITE = (*EXECUTION, "_*.yml", "*.md", "book/**/*", "tests/**/*.py")
# Times of the build itself: no page reads them, and they change with every measurement.
IGNORED = ("benchmarks/results/book.json",)
CACHES = {"__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".ruff_cache"}


def inputs(patterns: Iterable[str]) -> list[str]:
    """The files below the root that match, sorted, as POSIX paths."""
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    names = {path.relative_to(ROOT) for path in files}
    kept = (name.as_posix() for name in names if not CACHES.intersection(name.parts))
    return sorted(name for name in kept if name not in IGNORED)


def fingerprint(patterns: Iterable[str]) -> str:
    """One hash over the names and contents of the files and the version of Python."""
    total = hashlib.sha256(platform.python_version().encode())
    for name in inputs(patterns):
        content = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        total.update(f"{content} {name}\n".encode())
    return total.hexdigest()


def read_stamp(path: Path) -> str:
    """The hash noted there, or nothing."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write_stamp(path: Path, text: str) -> None:
    """Note a hash in one step: a kill leaves the old note, the new one, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
