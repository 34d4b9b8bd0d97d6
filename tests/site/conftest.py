"""The built site, a server on the loopback interface, and a headless browser.

Without a site or a browser these tests are skipped with the reason; with CI set they fail.
"""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def pages() -> list[str]:
    """Every page of the site but the front door, which only leads on to the front page."""
    found = (path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    return sorted(page for page in found if page != "index.html" and "_static" not in page)


def templates(pages: list[str]) -> list[str]:
    """The pages without the listings of the library's sources but one: they are all alike."""
    listings = [page for page in pages if page.startswith("_modules/notes_lib/")]
    return [page for page in pages if page not in listings[1:]]


def pytest_generate_tests(metafunc):
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", pages())
    if "template" in metafunc.fixturenames:
        metafunc.parametrize("template", templates(pages()))


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").exists():
        missing("there is no _build/html: run `make book` first")
    return SITE


@pytest.fixture(scope="session")
def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


class Handler(SimpleHTTPRequestHandler):
    """Serves the site below the path it is published at, where its 404 page looks for files."""

    def translate_path(self, path):
        return super().translate_path(path.removeprefix("/notes-that-run"))

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/notes-that-run"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: it is in requirements-peers.txt")
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        executable = str(own) if own.exists() else found
        if executable is None:
            missing("no Chromium: install one, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()
