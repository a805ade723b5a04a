"""Trees of files as boards have them, with stand-ins for the vendors' tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.boards.base import Sampler
from agents.boards.sources import Sources

ROOT = Path(__file__).resolve().parents[3]
FACTS = ROOT.parent / "shared" / "facts"


@dataclass(frozen=True)
class Tree:
    """One board's files below a folder of the test's own."""

    root: Path

    @property
    def sources(self) -> Sources:
        return Sources(self.root)

    def put(self, files: dict[str, str]) -> None:
        """Each file at once, as the kernel's are: whoever reads it meanwhile sees the old text or the new."""
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_text(text)
            fresh.replace(path)

    def tool(self, name: str, script: str) -> None:
        """A stand-in executable in shell; `$@` are its arguments."""
        path = self.root / "usr" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "board")


@pytest.fixture
def closing() -> Iterator[Callable[[Sampler], Sampler]]:
    """Closes the samplers it is given at the test's end."""
    samplers: list[Sampler] = []

    def keep(sampler: Sampler) -> Sampler:
        samplers.append(sampler)
        return sampler

    yield keep
    for sampler in samplers:
        sampler.close()


def fact(name: str) -> str:
    """A file of recorded samples; the test is skipped where it is absent."""
    path = FACTS / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    return path.read_text(encoding="utf-8")
