"""Print the book: one long HTML page, then headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from build import alone, execute_all, remove, render
from fingerprint import BUILD

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-pdf-header-footer",
    "--generate-pdf-document-outline",
    "--virtual-time-budget=20000",
    "--log-level=3",
)
FOLDER = BUILD / "print"
TARGET = BUILD / "notes-that-run.pdf"


def find_browser() -> str:
    for name in (os.environ.get("CHROME", ""), *NAMES, MAC):
        if path := shutil.which(name):
            return path
    sys.exit(
        "Printing needs Chromium or Chrome, which is not on the PATH. Install one (Debian, Ubuntu: "
        "apt install chromium; macOS: brew install --cask google-chrome), or give its path: "
        "make pdf CHROME=/path/to/chrome."
    )


def print_book() -> None:
    browser = find_browser()
    if execute_all():
        sys.exit("Pages failed (above).")
    remove(FOLDER)
    if not render(FOLDER, "singlehtml", strict=False):
        sys.exit("The book could not be rendered on one page (above).")
    # Chromium refuses to run as root inside its own sandbox.
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    # Sphinx writes the long page into book/ but its paths for the folder above.
    page = shutil.copy(FOLDER / "singlehtml/book/index.html", FOLDER / "singlehtml/index.html")
    command = [browser, *FLAGS, *sandbox, f"--print-to-pdf={TARGET}", page.as_uri()]
    subprocess.run(command, check=True)
    print(f"Wrote {TARGET}")


if __name__ == "__main__":
    with alone():
        print_book()
