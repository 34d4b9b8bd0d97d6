"""What a reader's browser sees: nothing from elsewhere, no error, no barrier, in light and dark."""

import gzip
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest

MEGABYTE = 1_000_000
COMPRESSED = {".html", ".css", ".js", ".svg", ".json", ".xml"}

# What axe-core does not look at, each with the reason.
SKIPPED_RULES = {"empty-table-header": "pandas leaves the header above a table's index empty"}
SKIPPED_PARTS = {
    ".citation-list": "docutils gives a bibliography roles that ARIA has since dropped"
}

OVERFLOWING = """() => {
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return wide > 0 ? wide : 0;
}"""
CUT_FORMULAS = """() => [...document.querySelectorAll('.formula')]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.closest('[id]').id)"""
FONTS_READY = "() => document.fonts.ready.then(() => true)"
# Most of a page, and nothing new for axe-core, which takes a quarter of the time without them: the
# glyphs of formulas (assistive technology reads the MathML beside them), and of the words of code
# and of signatures all but the first of each kind.
WITHOUT_REPETITION = """() => {
  document.querySelectorAll('.katex-html').forEach(e => e.remove());
  const seen = new Set();
  for (const word of document.querySelectorAll('pre span, dt span')) {
    const look = word.closest('div, dt').className + ' ' + word.className;
    if (seen.has(look)) word.replaceWith(...word.childNodes);
    seen.add(look);
  }
}"""


@pytest.fixture(scope="session")
def axe():
    axe_playwright_python = pytest.importorskip("axe_playwright_python.sync_playwright")
    return axe_playwright_python.Axe()


class Visit:
    """One page in a fresh window, with everything it asked for and complained about."""

    def __init__(self, browser, url: str, *, width: int = 1280):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, reduced_motion="reduce"
        )
        self.window = self.context.new_page()
        self.complaints, self.foreign, self.bytes = [], [], {}
        self.window.on("console", self._console)
        self.window.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.window.on("request", self._request)
        self.window.on("response", self._response)
        self.window.goto(url, wait_until="load")
        self.window.evaluate(FONTS_READY)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _request(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1":
            self.foreign.append(request.url)

    def _response(self, response):
        parts = urlsplit(response.url)
        if parts.scheme == "http" and response.ok:
            body = response.body()
            text = PurePosixPath(parts.path).suffix in COMPRESSED
            self.bytes[parts.path] = len(gzip.compress(body)) if text else len(body)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.context.close()


def violations(axe, window, **options) -> list[str]:
    options |= {"resultTypes": ["violations"]}
    options |= {"rules": {rule: {"enabled": False} for rule in SKIPPED_RULES}}
    context = {"exclude": [[part] for part in SKIPPED_PARTS]}
    found = axe.run(window, context, options).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


def test_page(browser, axe, address, template):
    """No foreign request, no complaint, not too heavy, no sideways scrolling, no barrier.

    On a phone a long formula may scroll inside its line; on a desk all are seen whole.
    """
    with Visit(browser, f"{address}/{template}") as visit:
        assert not visit.foreign
        assert not visit.complaints
        assert sum(visit.bytes.values()) < 1.5 * MEGABYTE
        assert not visit.window.evaluate(OVERFLOWING)
        assert not visit.window.evaluate(CUT_FORMULAS)
        visit.window.set_viewport_size({"width": 390, "height": 844})
        assert not visit.window.evaluate(OVERFLOWING)

        visit.window.set_viewport_size({"width": 1280, "height": 900})
        visit.window.evaluate(WITHOUT_REPETITION)
        assert not violations(axe, visit.window)
        visit.window.emulate_media(color_scheme="dark")
        visit.window.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        assert not violations(axe, visit.window, runOnly=["color-contrast"])


def test_figures_follow_the_toggle(browser, address):
    """A reader whose system is light and whose page is dark sees dark figures."""
    with Visit(browser, f"{address}/book/index.html") as visit:
        visit.window.evaluate("localStorage.setItem('mode', 'dark')")
        visit.window.evaluate("localStorage.setItem('theme', 'dark')")
        visit.window.reload()
        scheme = "getComputedStyle(document.documentElement).colorScheme"
        assert visit.window.evaluate(scheme) == "dark"


@pytest.mark.parametrize("page_file", ["book/index.html", "notes.html", "book/ledger.html"])
def test_opens_from_the_disk(browser, site, page_file):
    with Visit(browser, (site / page_file).as_uri()) as visit:
        assert not visit.foreign
        assert not visit.complaints
        assert visit.window.locator("article h1").is_visible()


def test_search_finds_a_page(browser, address):
    with Visit(browser, f"{address}/search.html?q=notation") as visit:
        visit.window.wait_for_selector("ul.search li a")
        hrefs = [a.get_attribute("href") for a in visit.window.locator("ul.search li a").all()]
        assert any("book/notation" in href for href in hrefs)


def test_map_leads_to_chapters_and_follows_a_path(browser, address):
    with Visit(browser, f"{address}/book/index.html") as visit:
        visit.window.locator("#path-theory").check()
        visit.window.wait_for_timeout(300)
        opacity = "e => getComputedStyle(e).opacity"
        assert float(visit.window.locator(".map .node.n-mmbench").evaluate(opacity)) < 0.5
        assert float(visit.window.locator(".map .node.n-ddpm").evaluate(opacity)) == 1
        visit.window.locator(".map a.node").first.focus()
        with visit.window.expect_navigation():
            visit.window.keyboard.press("Enter")
        assert visit.window.locator("aside.glance").is_visible()


def test_map_is_a_list_on_a_phone(browser, address):
    with Visit(browser, f"{address}/book/index.html", width=390) as visit:
        assert not visit.window.locator(".map").is_visible()
        assert visit.window.locator(".map-list li.node").count() == 50
