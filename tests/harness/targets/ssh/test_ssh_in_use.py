"""An agent that a run uses is neither replaced nor removed meanwhile."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from harness.runs.board import board_key
from harness.runs.locks import board_alone
from harness.targets.lab import load_lab
from tests.warm import process as warm


def targets(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return warm.quantrig("targets", *words, cwd=folder)


@pytest.mark.parametrize("deed", ["provision", "unprovision"])
def test_a_board_in_use_keeps_its_agent(deed: str, tmp_path: Path, mute: int) -> None:
    lab = tmp_path / "targets.yaml"
    ssh = f"{{host: 127.0.0.1, user: pi, port: {mute}}}"
    lab.write_text(f"targets: {{pi: {{board: generic, via: {{address: '127.0.0.1:50443'}}, ssh: {ssh}}}}}")
    key = board_key(load_lab(lab).targets["pi"], lab)
    with board_alone(key, threading.Event(), purpose="run 20261121-180000-ab12"):
        refused = targets(deed, "pi", folder=tmp_path)
        looked = targets(deed, "pi", "--dry-run", folder=tmp_path)
    assert refused.returncode == 3
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: pi: in use by run 20261121-180000-ab12 (pid ")
    assert "wait for its end" in line
    # a look came as far as the board, which hangs up
    assert looked.returncode == 3
    assert "SSH" in looked.stderr
