"""Times of a fresh clone: installation, the first build, each page, and the builds after it.

The last commit is cloned into a folder of its own, with an environment of its own, so nothing
here profits from what is already built. pip's download cache is used where it is warm.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _record import ROOT, git, record
from jupyter_cache import get_cache


def seconds(*command: str | Path, cwd: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - start, 2)


def steps(clone: Path) -> list[dict]:
    """What a newcomer does, and then an author, in order."""
    python = clone / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    tool, stamp = clone / "book/_tools/build.py", clone / "_build/site.fingerprint"
    install = seconds(sys.executable, "book/_tools/install.py", cwd=clone)
    first = seconds(python, tool, cwd=clone)
    idle = median(seconds(python, tool, cwd=clone) for _ in range(3))
    stamp.unlink()
    render = seconds(python, tool, cwd=clone)
    return [
        {"step": "installation", "seconds": install},
        {"step": "first build (execute and render)", "seconds": first},
        {"step": "build, nothing changed (median of 3)", "seconds": idle},
        {"step": "build, text changed (render only)", "seconds": render},
    ]


def page_times(clone: Path) -> list[dict]:
    """Execution of each page, from the records of the first build (two pages at a time)."""
    records = get_cache(clone / "_build/.jupyter_cache").list_cache_records()
    rows = [
        {
            "page": Path(r.uri).relative_to(clone / "book").as_posix(),
            "seconds": round(r.data["execution_seconds"], 2),
        }
        for r in records
    ]
    return sorted(rows, key=lambda row: row["page"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=ROOT / "_build") as folder:
        clone = Path(folder).resolve() / "clone"
        git("clone", "--quiet", str(ROOT), str(clone))
        times = steps(clone)
        pages = page_times(clone)
    total = {"page": "all pages", "seconds": round(sum(row["seconds"] for row in pages), 2)}
    record("book", builds=times, pages=[*pages, total])
