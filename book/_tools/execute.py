"""Execute the pages whose outputs are not stored, two at a time, and store each as it finishes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pages
from fingerprint import ROOT
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from tqdm import tqdm

AT_A_TIME = 2


@dataclass(frozen=True)
class Failure:
    """A cell that raised, ran out of time or lost its kernel."""

    page: Path
    line: int
    error: Exception

    def __str__(self) -> str:
        name = self.page.relative_to(ROOT).as_posix()
        return f"\n{name}:{self.line}: {type(self.error).__name__}\n{self.error}"


@dataclass
class Executor:
    """One run over several pages that share a cache, a progress bar and the two places."""

    cache: JupyterCacheAbstract
    timeout: int
    bar: tqdm
    places: asyncio.Semaphore
    whole: asyncio.Task

    async def run(self, page: Path) -> Failure | None:
        async with self.places:
            notebook, lines = pages.read(page)
            started = []
            client = NotebookClient(
                notebook,
                timeout=self.timeout,
                record_timing=False,  # times in the cells' metadata would change the cache's keys
                extra_arguments=["--IPKernelApp.log_level=50"],
                resources={"metadata": {"path": str(page.parent)}},
                on_notebook_start=lambda notebook: stop_on_signal(self.whole),
                on_cell_start=lambda cell, cell_index: started.append(cell_index),
                on_cell_complete=lambda cell, cell_index: self.bar.update(),
            )
            start = time.perf_counter()
            try:
                await client.async_execute()
            except (CellControlSignal, DeadKernelError) as error:
                return Failure(page, lines[started[-1]] if started else 1, error)
            finally:
                stop_on_signal(self.whole)
            self.store(page, notebook, time.perf_counter() - start)
        return None

    def store(self, page: Path, notebook, seconds: float) -> None:
        bundle = CacheBundleIn(notebook, str(page), data={"execution_seconds": seconds})
        self.cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        self.bar.write(f"  {page.relative_to(ROOT).as_posix()}  {seconds:.1f} s", file=sys.stdout)


def stop_on_signal(task: asyncio.Task) -> None:
    """End the whole run on Ctrl-C.

    nbclient's own handler ends one kernel and lets the rest go on; it is set when a page starts
    and taken away when one ends.
    """
    if os.name != "nt":
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, task.cancel)


async def run_all(waiting: list[Path], cache: JupyterCacheAbstract) -> list[Failure]:
    cells = sum(cell.cell_type == "code" for page in waiting for cell in pages.read(page)[0].cells)
    with tqdm(total=cells, unit="cell", disable=None, leave=False) as bar:
        places = asyncio.Semaphore(AT_A_TIME)
        executor = Executor(cache, pages.timeout(), bar, places, asyncio.current_task())
        results = await asyncio.gather(*map(executor.run, waiting))
    return [result for result in results if result]


def is_stored(page: Path, cache: JupyterCacheAbstract) -> bool:
    try:
        cache.match_cache_notebook(pages.read(page)[0])
    except KeyError:
        return False
    return True


def execute() -> list[Failure]:
    """Bring the stored outputs of all pages up to date."""
    pages.set_environment()
    cache = pages.open_cache()
    every = pages.notebooks()
    waiting = [page for page in every if not is_stored(page, cache)]
    print(f"Executing {len(waiting)} of {len(every)} pages, {AT_A_TIME} at a time", flush=True)
    try:
        return asyncio.run(run_all(waiting, cache))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit("Stopped. The pages that had finished are kept: the next run goes on from there.")
