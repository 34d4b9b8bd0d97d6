"""A folder of what is costly to make: written in one step, sealed, and never trusted blindly."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """NOTES_LIB_CACHE if it is set, else `notes_lib` among the user's caches."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NOTES_LIB_CACHE") or Path(user) / "notes_lib")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def remembered(name: str, key: str, make: Callable[[], dict]) -> dict:
    """What `make` returns, of JSON's types: kept on disk, and made once for each `key`.

    Args:
        name: for people who look into the folder.
        key: everything on which the result depends, or a digest of it.
    """
    path = folder() / f"{name}-{digest(key)[:32]}.json"
    found = read(path, key)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no result
            write(path, key, found)
    return found


def read(path: Path, key: str) -> dict | None:
    """What :func:`write` wrote under this key; None if there is nothing, or something else."""
    try:
        seal, _, text = path.read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return json.loads(text) if seal == digest(key + text) else None


def write(path: Path, key: str, found: dict) -> None:
    """Put the file there in one step: a reader meets all of it or none."""
    text = json.dumps(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
        part.write(f"{digest(key + text)}\n{text}")
    try:
        os.replace(part.name, path)
    except OSError:
        os.unlink(part.name)
        raise
