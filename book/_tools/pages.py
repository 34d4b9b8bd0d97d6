"""The pages of the book: where they are, what their cells are, and their stored outputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import yaml
from fingerprint import BUILD, EXECUTION, ROOT, fingerprint, read_stamp, write_stamp
from jupyter_cache import get_cache
from jupyter_cache.base import JupyterCacheAbstract
from jupyter_cache.cache.db import NbCacheRecord, OrmBase
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from sphinx_external_toc.parsing import parse_toc_yaml

CACHE = BUILD / ".jupyter_cache"
STAMP = CACHE / "fingerprint"


def set_environment() -> None:
    """Give every kernel started from here one thread, its inline figures and no private profile."""
    profile = BUILD / ".ipython"
    profile.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", IPYTHONDIR=str(profile))
    os.environ.pop("MPLBACKEND", None)


def is_notebook(path: Path) -> bool:
    """Is this file a page with cells?"""
    return path.suffix == ".md" and is_myst_markdown_notebook(path.read_text(encoding="utf-8"))


def notebooks() -> list[Path]:
    """The pages with cells, in the order of the table of contents."""
    site_map = parse_toc_yaml(ROOT / "_toc.yml")
    paths = (ROOT / f"{name.removesuffix('.md')}.md" for name in site_map)
    return [path for path in paths if path.exists() and is_notebook(path)]


def read(path: Path) -> tuple[nbformat.NotebookNode, list[int]]:
    """A page as a notebook, and the line each cell starts at (as the site's builder reads it)."""
    text = path.read_text(encoding="utf-8")
    notebook = read_myst_markdown_notebook(text, add_source_map=True, path=path)
    return notebook, [line + 1 for line in notebook.metadata.pop("source_map")]


def timeout() -> int:
    """Seconds that one cell may take, from the book's settings."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["execute"]["timeout"]


def is_fresh() -> bool:
    """Do the stored outputs belong to the library and the data as they are now?"""
    return read_stamp(STAMP) == fingerprint(EXECUTION)


def open_cache() -> JupyterCacheAbstract:
    """The stored outputs, emptied where they are out of date and mended where a kill broke them."""
    if not is_fresh():
        if CACHE.exists():
            shutil.rmtree(CACHE)
        write_stamp(STAMP, fingerprint(EXECUTION))
    cache = get_cache(CACHE)
    OrmBase.metadata.create_all(cache.db)
    mend(cache)
    return cache


def mend(cache: JupyterCacheAbstract) -> None:
    """Drop the entries that a killed run left without a whole notebook."""
    folders = set(CACHE.glob("executed/*"))
    for record in cache.list_cache_records():
        folder = CACHE / "executed" / record.hashkey
        if is_whole(folder / "base.ipynb"):
            folders.discard(folder)
        else:
            NbCacheRecord.remove_record(record.pk, cache.db)
    for folder in folders:
        shutil.rmtree(folder)


def is_whole(path: Path) -> bool:
    """Was this notebook written to its end?"""
    try:
        nbformat.read(path, as_version=4)
    except (FileNotFoundError, ValueError):
        return False
    return True


def executed(path: Path, cache: JupyterCacheAbstract) -> nbformat.NotebookNode:
    """A page with its stored outputs; KeyError where it has none."""
    return cache.merge_match_into_notebook(read(path)[0])[1]
