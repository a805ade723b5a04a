"""The size from which a network counts as large, lowered; and one that is above it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.data import network_files
from tests.harness.quantize.large.networks import LOWERED, network, save_external


@pytest.fixture(name="external")
def _external(tmp_path: Path, builder: Callable[..., Any]) -> Path:
    (tmp_path / "float").mkdir()
    return save_external(network(builder), tmp_path / "float" / "net.onnx")


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of 3 MB are large ones."""
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", LOWERED)


@pytest.fixture
def no_single_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single file ends at 2 MB, and a large network begins at 1."""
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", 1 << 20)
    monkeypatch.setattr(network_files, "MAX_SINGLE_FILE_BYTES", 2 << 20)
