"""The code that figures were computed by is the code in the bundle."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.evidence.entries import source_entry
from harness.evidence.gather import Gathered, gather_run
from harness.record.run import FunctionRecord, SourceFile
from harness.report.runjson import load
from harness.store import open_store
from tests.harness.evidence.release import RUN, Release

TEXT = b"def f(outputs, labels):\n    return 1.0\n"


@pytest.fixture
def folder(release: Release, tmp_path: Path) -> Path:
    shutil.copytree(release.folder, tmp_path / "copy")
    return tmp_path / "copy"


def gathered(folder: Path, *files: SourceFile) -> Gathered:
    record = load((folder / "run" / "run.json").read_text())
    job = {**record.job, "path": str(folder / "job.yaml"), "metrics": ["accuracy_top1", "own:f"]}
    record = replace(record, job=job, functions=(FunctionRecord("own:f", files),) if files else ())
    store = open_store(str(folder / "q.db"))
    try:
        return gather_run(record, folder / "run", store, outputs=False)
    finally:
        store.close()


def test_the_source_that_was_judged_by_is_bundled(folder: Path) -> None:
    (folder / "own.py").write_bytes(TEXT)
    found = gathered(folder, SourceFile("own.py", hashlib.sha256(TEXT).hexdigest()))
    assert found.contents[f"runs/{RUN}/functions/own.py"] == TEXT


def test_a_source_that_changed_since_is_refused(folder: Path) -> None:
    (folder / "own.py").write_bytes(TEXT + b"# better\n")
    with pytest.raises(UserError, match=rf"own\.py: run {RUN} was judged by another text.*quantrig resume {RUN}"):
        gathered(folder, SourceFile("own.py", hashlib.sha256(TEXT).hexdigest()))


def test_a_source_that_is_gone_is_said_to_be(folder: Path) -> None:
    found = gathered(folder, SourceFile("own.py", hashlib.sha256(TEXT).hexdigest()))
    assert "is gone" in found.absent["functions/own.py"]


def test_a_run_of_an_older_version_bundles_what_is_there_now(folder: Path) -> None:
    (folder / "own.py").write_bytes(TEXT)
    assert gathered(folder).contents[f"runs/{RUN}/functions/own.py"] == TEXT


@pytest.mark.parametrize("path", ["/usr/lib/own.py", "../own.py", "a/b/c/d/e/f/own.py", f"{'x' * 100}.py"])
def test_sources_from_elsewhere_have_a_name_that_fits(path: str) -> None:
    assert source_entry(SourceFile(path, "ab" * 32)).startswith(f"functions/elsewhere/{'ab' * 8}-")
