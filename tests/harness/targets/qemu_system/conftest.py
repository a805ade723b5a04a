"""The lab is made once; its cache is the user's, not a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.targets.qemu_system.board import QemuBoard
from harness.targets.qemu_system.recipe import Recipe
from tests.labs.emulated import need_lab


@pytest.fixture(autouse=True)
def cache_home() -> Path:
    """Instead of a folder of the test's own, in which no image is."""
    return Path()


@pytest.fixture(scope="module")
def lab() -> None:
    """Image and snapshot."""
    need_lab(Recipe())


@pytest.fixture(scope="module")
def board(lab: None) -> Iterator[QemuBoard]:
    """One board from the snapshot, for the tests of a module; each leaves it serving."""
    with QemuBoard(Recipe(), name="lab-1") as one:
        yield one
