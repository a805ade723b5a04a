"""Where "module:function" is looked for, and that looking leaves no trace."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.data import call_function, import_function
from harness.errors import UserError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_two_jobs_may_each_have_a_module_of_one_name(tmp_path: Path) -> None:
    write(tmp_path / "a", "decode.py", "def which(): return 'a'")
    write(tmp_path / "b", "decode.py", "def which(): return 'b'")
    assert [call_function("decode:which", tmp_path / name) for name in "aba"] == ["a", "b", "a"]


def test_the_jobs_folder_comes_before_installed_packages(tmp_path: Path) -> None:
    write(tmp_path, "json.py", "def dumps(): return 'mine'")
    assert call_function("json:dumps", tmp_path) == "mine"
    import json

    assert json.dumps([1]) == "[1]"
    assert import_function("json:dumps", tmp_path / "elsewhere") is json.dumps


def test_neighbours_can_be_imported_and_the_path_is_left_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, "quantrig_neighbour.py", "VALUE = 3")
    write(tmp_path, "mine.py", "import quantrig_neighbour\ndef value(): return quantrig_neighbour.VALUE")
    before = list(sys.path)
    assert call_function("mine:value", tmp_path) == 3
    assert sys.path == before
    write(tmp_path, "bad.py", "raise RuntimeError('x')")
    with pytest.raises(UserError):
        import_function("bad:f", tmp_path)
    assert sys.path == before
    assert "mine" not in sys.modules
    assert "bad" not in sys.modules


@pytest.mark.parametrize("init", [True, False])
def test_packages_beside_the_job(tmp_path: Path, init: bool) -> None:
    if init:
        write(tmp_path, "pack/__init__.py", "BASE = 2")
    write(tmp_path, "pack/part.py", "from . import other\ndef value(): return other.VALUE")
    write(tmp_path, "pack/other.py", "VALUE = 5")
    assert call_function("pack.part:value", tmp_path) == 5


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "m.py", "def v(): return 1")
    assert call_function("m:v", tmp_path) == 1
    write(tmp_path, "m.py", "def v(): return 2")
    os.utime(path, ns=(1, 1))
    assert call_function("m:v", tmp_path) == 2


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("decode", "'decode' is not of the form module:function"),
        ("os.system('x'):y", "is not of the form module:function"),
        ("quantrig_no_such:f", "module not found: no quantrig_no_such.py in"),
        ("m:valeu", "m has no 'valeu'; did you mean 'value'?"),
        ("m:X", "'X' is a int, not a function"),
        ("needs:f", "importing needs failed: ModuleNotFoundError: No module named 'quantrig_absent' (needs.py:1)"),
        ("broken:f", "importing broken failed: SyntaxError: "),
        ("raises:f", "importing raises failed: ZeroDivisionError: division by zero (raises.py:2)"),
        ("m:fails", "m:fails failed: ValueError: two lines (m.py:3)"),
    ],
)
def test_each_failure_is_one_line(tmp_path: Path, spec: str, expected: str) -> None:
    write(tmp_path, "m.py", "X = 1\ndef value(): pass\ndef fails(): raise ValueError('two\\nlines')")
    write(tmp_path, "needs.py", "import quantrig_absent")
    write(tmp_path, "broken.py", "def f(:")
    write(tmp_path, "raises.py", "\n1 / 0")
    with pytest.raises(UserError) as caught:
        call_function(spec, tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
