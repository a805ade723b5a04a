"""Emulated boards for tests: made once in the user's cache, skipped where a machine has not what they need."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BoardError, UserError
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.qemu_system.golden import prepare
from harness.targets.qemu_system.recipe import Recipe
from harness.targets.qemu_system.tools import find_tools
from harness.targets.target import Target

#: Each boots a board or waits for one: up to a minute on two processors.
thorough = pytest.mark.skipif(
    os.environ.get("QUANTRIG_QEMU_SYSTEM") != "1", reason="QUANTRIG_QEMU_SYSTEM=1 runs the tests that boot boards"
)


def need_lab(recipe: Recipe | None = None) -> None:
    """Make what boards start from, or skip with the reason."""
    wanted = recipe if recipe is not None else Recipe()
    try:
        find_tools("lab")
        import qemu.qmp  # noqa: F401
    except UserError as error:
        pytest.skip(str(error))
    except ImportError:
        pytest.skip("emulated boards need the package qemu.qmp")
    if shutil.which("apt-get") is None:
        pytest.skip("the boards' image is made of Debian packages, and there is no apt-get")
    try:
        prepare("lab", wanted)
    except UserError as error:
        if "package sources" in str(error) or "network" in str(error) or "pip has no wheels" in str(error):
            pytest.skip(f"no image of emulated boards: {error}")
        raise


def served(target: Target, folder: Path, work: Callable[[AgentClient], object], timeout_s: float = 120.0) -> float:
    """Try until the agent does `work`; seconds that took."""
    begun = time.monotonic()
    while True:
        try:
            with connect(target, work_dir=folder) as agent:
                work(agent)
                return time.monotonic() - begun
        except BoardError:
            if time.monotonic() - begun > timeout_s:
                raise
