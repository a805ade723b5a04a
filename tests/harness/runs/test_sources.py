"""Which files a job's own functions come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness.data.functions import import_function
from harness.job import parse_job
from harness.record.run import FunctionRecord, RunRecord, SourceFile
from harness.runs.judging import edited
from harness.runs.sources import function_files, function_records


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(spec: str, base: Path) -> set[str]:
    found = function_files(spec, base)
    assert len(set(found)) == len(found)
    return {path.relative_to(base.resolve()).as_posix() for path in found}


def test_a_module_and_what_it_imports_beside_the_job(tmp_path: Path) -> None:
    write(
        tmp_path,
        own1="import json, numpy\nfrom shared1 import helper\ndef f(o, l):\n    import late1\n    return 1.0\n",
        shared1="import deep1\ndef helper():\n    return 1\n",
        deep1="X = 1\n",
        late1="X = 1\n",
        unrelated1="X = 1\n",
    )
    assert names("own1:f", tmp_path) == {"own1.py", "shared1.py", "deep1.py", "late1.py"}


def test_a_package_with_relative_imports(tmp_path: Path) -> None:
    (tmp_path / "pack1" / "inner").mkdir(parents=True)
    (tmp_path / "pack1" / "__init__.py").write_text("")
    (tmp_path / "pack1" / "scores.py").write_text("from .inner.maths import add\nfrom . import consts\nf = add\n")
    (tmp_path / "pack1" / "consts.py").write_text("A = 1\n")
    (tmp_path / "pack1" / "inner" / "__init__.py").write_text("")
    (tmp_path / "pack1" / "inner" / "maths.py").write_text("from ..consts import A\ndef add(o, l):\n    return A\n")
    (tmp_path / "pack1" / "other.py").write_text("")
    assert names("pack1.scores:f", tmp_path) == {
        "pack1/__init__.py",
        "pack1/scores.py",
        "pack1/consts.py",
        "pack1/inner/__init__.py",
        "pack1/inner/maths.py",
    }


def test_a_function_of_an_installed_package_is_its_file(tmp_path: Path) -> None:
    (path,) = function_files("statistics:fmean", tmp_path)
    assert path.name == "statistics.py"


def test_a_wrapped_function_is_found_where_it_is_written(tmp_path: Path) -> None:
    write(
        tmp_path,
        own2="from wrap2 import quiet\n@quiet\ndef f(o, l):\n    return 1.0\n",
        wrap2=(
            "import functools\ndef quiet(g):\n    @functools.wraps(g)\n    def inner(*a):\n        return g(*a)\n"
            "    return inner\n"
        ),
    )
    assert names("own2:f", tmp_path) == {"own2.py", "wrap2.py"}


@pytest.mark.parametrize("edited", ["own3.py", "help3.py"])
def test_records_have_the_digests_of_the_files_as_they_are(tmp_path: Path, edited: str) -> None:
    write(
        tmp_path,
        own3="import help3\ndef f(o, l):\n    return 1.0\ndef decode(o):\n    return o\n",
        help3="X = 1\n",
    )
    text = (
        "name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz}\nmetrics: [accuracy_top1, 'own3:f']\n"
        "postprocess: own3:decode\n"
    )
    job = parse_job(text, tmp_path / "job.yaml", there=False)
    import_function("own3:f", tmp_path)
    before = function_records(job)
    assert [one.spec for one in before] == ["own3:f", "own3:decode"]
    assert set(before[0].files) == {
        SourceFile(name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()) for name in ("own3.py", "help3.py")
    }
    path = tmp_path / edited
    path.write_text(path.read_text() + "# later\n")
    assert function_records(job) != before


def test_a_file_that_changed_while_the_run_went_on_is_a_note() -> None:
    then = (FunctionRecord("own:f", (SourceFile("own.py", "a" * 64), SourceFile("help.py", "b" * 64))),)
    now = (FunctionRecord("own:f", (SourceFile("own.py", "a" * 64), SourceFile("help.py", "c" * 64))),)
    record = RunRecord("r-1", "j", {}, "", "quick", "validation", 1, 1, "", None, {}, (), functions=now)
    (note,) = edited(then, record)
    assert note.startswith("help.py changed while the run went on")
    assert "quantrig resume r-1" in note
    assert edited(now, record) == ()
