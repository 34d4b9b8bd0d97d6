"""What can be checked on the site's files without a browser."""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from lxml import etree

ATOM = "{http://www.w3.org/2005/Atom}"
SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "lxml")


@pytest.fixture(scope="session")
def anchors(site) -> dict[Path, set[str]]:
    """The ids of every page."""
    found = {}
    for path in site.rglob("*.html"):
        tags = soup(path).find_all(True)
        found[path.resolve()] = {
            tag[name] for tag in tags for name in ("id", "name") if tag.get(name)
        }
    return found


def internal(reference: str) -> bool:
    parts = urlsplit(reference)
    return not parts.scheme and not parts.netloc


def test_links_lead_somewhere(site, anchors, page, config):
    """Every internal link and source exists, and so does the anchor it names."""
    prefix = config["sphinx"]["config"]["notfound_urls_prefix"]
    path = site / page
    tree = soup(path)
    references = [tag["href"] for tag in tree.find_all(href=True)]
    references += [tag["src"] for tag in tree.find_all(src=True)]
    broken = []
    for reference in filter(internal, references):
        parts = urlsplit(reference)
        target = path if not parts.path else path.parent / unquote(parts.path)
        if parts.path.startswith(prefix):
            target = site / unquote(parts.path).removeprefix(prefix)
        target = target.resolve()
        if not target.is_file():
            broken.append(reference)
        elif parts.fragment and target.suffix == ".html":
            if unquote(parts.fragment) not in anchors[target] | {"", "top"}:
                broken.append(reference)
    assert not broken


def test_ids_are_unique(site, page):
    ids = [tag["id"] for tag in soup(site / page).find_all(id=True)]
    assert sorted(ids) == sorted(set(ids))


def test_figures_have_captions_and_descriptions(site, page):
    """Whatever code drew stands in a numbered figure with a caption, and says what one sees."""
    tree = soup(site / page)
    for drawn in tree.select(".cell_output img, .cell_output svg, figure img, figure .scrub svg"):
        if drawn.find_parent("svg"):
            continue
        figure = drawn.find_parent("figure")
        assert figure is not None, f"not in a figure: {str(drawn)[:200]}"
        caption = figure.find("figcaption")
        assert caption is not None and len(caption.get_text().strip()) > 20, str(drawn)[:200]
        assert caption.select_one(".caption-number"), f"no number: {caption.get_text()}"
        description = drawn.get("alt") or drawn.get("aria-label") or ""
        assert len(description) > 20, f"no description: {str(drawn)[:200]}"


def test_page_says_what_it_is(site, page):
    tree = soup(site / page)
    assert tree.html["lang"] == "en"
    assert tree.title.get_text().strip()
    if page.startswith("book/"):
        assert tree.find("meta", attrs={"name": "description"})["content"].strip()
        for name in ("og:title", "og:description", "og:image", "og:url"):
            assert tree.find("meta", property=name)["content"].strip(), name


def test_social_cards_exist(site, page, config):
    base = config["html"]["baseurl"]
    for tag in soup(site / page).find_all("meta", property="og:image"):
        assert tag["content"].startswith(base)
        assert (site / tag["content"].removeprefix(base)).is_file()


def notebooks(site: Path) -> list[Path]:
    return sorted((site / "_sources").rglob("*.ipynb"))


def test_notebooks_on_offer_carry_their_outputs(site):
    """Each executed page offers a valid notebook that installs the library and has outputs."""
    sources = [
        path
        for path in sorted((site / "_sources").rglob("*.md"))
        if "\nkernelspec:" in path.read_text(encoding="utf-8")[:1000]
    ]
    assert {p.with_suffix("") for p in notebooks(site)} == {p.with_suffix("") for p in sources}
    for path in notebooks(site):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert "pip install" in code[0].source
        outputs = [output for cell in code for output in cell.outputs]
        assert outputs, path
        assert not any(output.output_type == "error" for output in outputs)


def test_launch_links_name_files_that_exist(site, page, config):
    repository = urlsplit(config["repository"]["url"]).path
    branch = config["repository"]["branch"]
    for tag in soup(site / page).find_all("a", href=True):
        if "colab.research.google.com" in tag["href"]:
            _, _, source = tag["href"].partition(f"github{repository}/blob/gh-pages/")
            assert (site / source).is_file() and source.endswith(".ipynb")
        if "mybinder.org" in tag["href"]:
            _, _, source = tag["href"].partition(f"{repository}/{branch}?urlpath=lab/tree/")
            assert (site.parents[1] / source).is_file()


def test_feeds(site, config):
    """Atom feeds: a self link, absolute addresses that exist, every note once, newest first."""
    base = config["html"]["baseurl"]
    feeds = sorted((site / "notes").rglob("atom.xml"))
    assert site / "notes" / "atom.xml" in feeds
    for path in feeds:
        feed = etree.parse(path).getroot()
        own = feed.find(f"{ATOM}link[@rel='self']").get("href")
        assert own == base + path.relative_to(site).as_posix()
        links = [e.find(f"{ATOM}link").get("href") for e in feed.findall(f"{ATOM}entry")]
        assert links and len(set(links)) == len(links)
        for link in links:
            assert link.startswith(base) and (site / link.removeprefix(base)).is_file()
        dates = [e.find(f"{ATOM}published").text for e in feed.findall(f"{ATOM}entry")]
        assert dates == sorted(dates, reverse=True)


def test_every_chapter_is_in_the_notes_index(site):
    tree = soup(site / "notes.html")
    listed = {tag["href"] for tag in tree.select(".note-title a")}
    toc = soup(site / "book" / "index.html").select(".map a.node")
    assert listed == {(Path("book") / tag["href"]).as_posix() for tag in toc}


def test_sitemap_lists_the_pages(site, config):
    base = config["html"]["baseurl"]
    root = etree.parse(site / "sitemap.xml").getroot()
    listed = [entry.text for entry in root.iter(f"{SITEMAP}loc")]
    assert len(listed) == len(set(listed))
    for url in listed:
        assert url.startswith(base) and (site / url.removeprefix(base)).is_file(), url
    for path in (site / "book").rglob("*.html"):
        assert base + path.relative_to(site).as_posix() in listed


def test_front_door_and_404(site, config):
    door = soup(site / "index.html")
    assert door.find("link", rel="canonical")["href"].startswith(config["html"]["baseurl"])
    assert (site / door.find("a")["href"]).is_file()
    lost = soup(site / "404.html")
    prefix = config["sphinx"]["config"]["notfound_urls_prefix"]
    sheets = [tag["href"] for tag in lost.find_all("link", rel="stylesheet")]
    assert sheets and all(sheet.startswith(prefix) for sheet in sheets)


def test_search_index_knows_the_chapters(site):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    assert "book/index" in index["docnames"] and index["terms"]
