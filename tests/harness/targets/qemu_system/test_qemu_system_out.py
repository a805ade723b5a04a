"""`quantrig lab up` looks where its lab file goes before it makes images and boots boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.board_lab import up
from harness.errors import UserError


@pytest.mark.parametrize("name", ["missing/lab.yaml", "plain/lab.yaml"])
def test_a_folder_that_is_none_is_told_before_any_board_starts(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").write_text("a file, no folder")
    with pytest.raises(UserError, match=rf"^--out {tmp_path}/{name}: no folder {tmp_path}/\w+ that can be written to"):
        up(boards=1, board="raspberry-pi-4", machine="virt", out=tmp_path / name)


def test_a_lab_file_that_is_there_stays(tmp_path: Path) -> None:
    mine = tmp_path / "emulated.yaml"
    mine.write_text("targets: {}")
    with pytest.raises(UserError, match="exists; remove it"):
        up(boards=1, board="raspberry-pi-4", machine="virt", out=mine)
    assert mine.read_text() == "targets: {}"
