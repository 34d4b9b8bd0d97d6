"""The airports: the file is the published one, and the columns are what the docstring says."""

import hashlib
from importlib.resources import files

from notes_lib.data.points import airports


def test_the_file_is_the_published_one():
    content = files("notes_lib.data").joinpath("airports.csv").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert blob == "608ba6d51fa70584c3fa1d31eb94533302553838"  # vega-datasets 3.2.1


def test_columns():
    table = airports()
    assert len(table.code) == len(set(table.code)) == len(table.latitude) == 3376
    assert table.longitude.min() == -176.6460306 and table.longitude.max() == 145.621384
    assert table.latitude.min() == 7.367222 and table.latitude.max() == 71.2854475
    assert table.state.count("HI") == 16
    assert table.name[table.code.index("HNL")] == "Honolulu International"
