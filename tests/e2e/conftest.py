from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.whole_run import Agent, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    started: list[Agent] = []

    def start(name: str = "agent", port: int = 0, options: Sequence[str] = ()) -> Agent:
        agent = Agent(tmp_path / name, port, options)
        started.append(agent)
        return agent

    yield start
    for agent in started:
        agent.close()
