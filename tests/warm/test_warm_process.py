from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm.process import quantrig


@pytest.mark.parametrize("arguments", [("--version",), ("frobnicate",), ("run", "job.yaml"), ("runs", "--json")])
def test_a_forked_command_says_what_a_started_one_says(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "job.yaml").write_text("name: x\nmodel: nowhere.onnx\ndata: {source: nowhere.npz}\n")
    env = {**os.environ, "QUANTRIG_STORE": str(tmp_path / "q.db"), "COLUMNS": "60", "PYTHONPATH": str(tmp_path)}
    real = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=tmp_path, env={**env, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    forked = quantrig(*arguments, cwd=tmp_path, env=env)
    assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)


def test_a_command_without_end_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.yaml")  # whoever opens it waits for a writer
    with pytest.raises(subprocess.TimeoutExpired):
        quantrig("run", "job.yaml", "--dry-run", cwd=tmp_path, timeout_s=2)
