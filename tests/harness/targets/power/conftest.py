"""Targets with power, and stand-in programs that behave as the real ones do."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.targets.lab import parse_lab
from harness.targets.power.control import PowerControl, open_power
from harness.targets.target import Target

MakePower = Callable[..., PowerControl]
MakeProgram = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of a test stay below its own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def target(tmp_path: Path) -> Callable[[str], Target]:
    """`target("{on: …}")`: a target with that `power:`."""

    def make(power: str) -> Target:
        text = f"targets:\n  pi: {{board: generic, via: local, power: {power}}}\n"
        return parse_lab(text, tmp_path / "targets.yaml").targets["pi"]

    return make


@pytest.fixture
def power(target: Callable[[str], Target], tmp_path: Path) -> MakePower:
    """`power("{on: …}")`: its control, with a log in `power.log`."""
    return lambda text, **more: open_power(target(text), log=tmp_path / "power.log", **more)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """`program(name, python)`: an executable on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def make(name: str, python: str) -> Path:
        path = folder / name
        path.write_text(f"#!{sys.executable} -IS\n{python}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make
