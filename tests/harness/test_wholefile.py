"""A file is there whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.wholefile import write_whole


def test_it_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    for content in (b"one", b"two"):
        write_whole(path, content, "free some space")
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_line_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(UserError, match=r"x: cannot be written \(File exists\); free some space"):
        write_whole(tmp_path / "file" / "x", b"new", "free some space")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match=r"folder: cannot be written \(Is a directory\)"):
        write_whole(tmp_path / "folder", b"new", "choose another place")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents = [bytes([n]) * 200_000 for n in range(8)]
    threads = [threading.Thread(target=write_whole, args=(path, content, "-")) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
