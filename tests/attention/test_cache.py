"""The folder of compiled kernels: what is read is what was written, under this key, whole."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from notes_lib.attention.cuda import cache


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The results that had to be made; a result counts them."""
    monkeypatch.setenv("NOTES_LIB_CACHE", str(tmp_path / "cache"))
    return []


def remember(calls, key="key", name="kernels/name"):
    def make():
        calls.append(key)
        return {"made": len(calls)}

    return cache.remembered(name, key, make)


def file():
    (path,) = cache.folder().rglob("*.json")
    return path


def test_a_result_is_made_once_for_each_key(calls):
    assert remember(calls) == remember(calls) == {"made": 1}
    assert remember(calls, "another") == {"made": 2}
    assert calls == ["key", "another"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b"made", b"mode"),
        lambda text: b"",
        lambda text: b"\xff\xfe" + text,
        lambda text: b"{}",
    ],
    ids=["cut", "changed", "empty", "not text", "not sealed"],
)
def test_a_damaged_file_is_made_anew(calls, damage):
    remember(calls)
    path = file()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert remember(calls) == {"made": 2}
    path.write_bytes(whole)
    assert remember(calls) == {"made": 1}


def test_a_file_of_another_key_is_not_taken_for_this_one(calls):
    remember(calls, "foreign")
    foreign = file()
    remember(calls)
    (own,) = set(cache.folder().rglob("*.json")) - {foreign}
    os.replace(foreign, own)
    assert remember(calls) == {"made": 3}


def test_no_reader_meets_half_a_file_and_no_part_is_left(calls, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append(paths), replace(*paths)))
    remember(calls)
    ((part, whole),) = seen
    assert Path(part).parent == whole.parent and Path(part) != whole
    assert list(cache.folder().rglob("*.*")) == [whole]

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    assert remember(calls, "another") == {"made": 2}
    assert list(cache.folder().rglob("*.*")) == [whole]


def test_a_folder_that_cannot_be_written_costs_only_time(calls, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NOTES_LIB_CACHE", str(tmp_path / "file"))
    assert remember(calls) == {"made": 1}
    assert remember(calls) == {"made": 2}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not replace a file being read")
def test_many_may_write_and_read_at_once(calls):
    path = cache.folder() / "x.json"
    cache.write(path, "key", {"n": "0"})

    def writes(digit):
        for _ in range(50):
            cache.write(path, "key", {"n": digit * 50000})

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(writes, digit) for digit in "01"]
        met = [cache.read(path, "key") for _ in range(100)]
    assert all(len(set(found["n"])) == 1 for found in met)
    assert [writer.result() for writer in writers] == [None, None]


def test_the_folder_is_the_users_cache_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTES_LIB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "notes_lib"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.folder() == Path.home() / ".cache" / "notes_lib"
    monkeypatch.setenv("NOTES_LIB_CACHE", str(tmp_path / "named"))
    assert cache.folder() == tmp_path / "named"
