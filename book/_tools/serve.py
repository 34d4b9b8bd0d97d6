"""Preview the site and render it again whenever a source changes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from build import PREVIEW
from fingerprint import ROOT
from livereload import Server


def preview() -> None:
    """Render in a process of its own, so that a change of an extension or of the library counts."""
    subprocess.run([sys.executable, Path(__file__).with_name("build.py"), "--preview"], check=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    preview()
    server = Server()
    for source in ("book/", "src/", "_config.yml", "_toc.yml"):
        server.watch(str(ROOT / source), preview)
    server.serve(root=PREVIEW / "html", port=port)
