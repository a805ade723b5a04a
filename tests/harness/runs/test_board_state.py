"""`board_as_asked` with real agents: what is kept of settings, and what a run does when it does not get them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.errors import Crashed, Refused
from harness.record.target import SettingRecord
from harness.runs.board_state import board_as_asked
from harness.targets.board_settings import Settings
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.errors_map import CallCancelled
from harness.targets.target import Target, Via
from tests.agents.conftest import AgentProcess, wait_for
from tests.agents.settings_boards import SettableBoard, linux

WISHES = Settings(lock_clocks=True, governor="performance")


@dataclass
class Place:
    """A board, its agent, a host's client, and what a run would keep."""

    board: SettableBoard
    agent: AgentProcess
    client: AgentClient
    folder: Path
    kept: list[tuple[SettingRecord, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def target(self, settings: Settings | None) -> Target:
        return Target("far", "generic", "cpu", Via("address", self.agent.address), self.folder, settings=settings)

    def keep(self, settings: tuple[SettingRecord, ...], notes: tuple[str, ...]) -> None:
        self.kept.append(settings)
        self.notes.extend(notes)

    def state(self) -> dict[str, str]:
        return {name: text.strip() for name, text in self.board.state().items()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    board = linux(tmp_path / "board")
    with ExitStack() as stack:
        agent = AgentProcess(tmp_path / "data", "--board-root", str(board.root))
        stack.callback(agent.kill)
        target = Target("far", "generic", "cpu", Via("address", agent.address), tmp_path)
        client = stack.enter_context(connect(target, work_dir=tmp_path))
        yield Place(board, agent, client, tmp_path)


def test_before_during_and_after_are_kept(place: Place) -> None:
    before = place.state()
    with board_as_asked(place.client, place.target(WISHES), place.client.describe(), place.keep):
        assert place.state() != before
        (held,) = place.kept
        assert {(one.name, one.before, one.during, one.after) for one in held} == {
            ("lock_clocks", "no", "yes", None),
            ("governor", "powersave", "performance", None),
        }
    assert place.state() == before
    assert {(one.name, one.after) for one in place.kept[-1]} == {("lock_clocks", "no"), ("governor", "powersave")}
    assert place.notes == []
    with board_as_asked(place.client, place.target(None), place.client.describe(), place.keep):
        assert place.state() == before
    assert len(place.kept) == 2


def test_not_as_asked_is_a_note_or_where_it_is_required_an_error(place: Place) -> None:
    before = place.state()
    info = place.client.describe()
    with board_as_asked(place.client, place.target(Settings(governor="ondemand")), info, place.keep):
        assert place.state() == before
    (note,) = place.notes
    assert note.startswith("not as asked: governor ondemand: cpufreq has no governor 'ondemand' here")
    assert [(one.before, one.during, one.after) for one in place.kept[-1]] == [("powersave",) * 3]
    wishes = Settings(governor="ondemand", lock_clocks=True, required=True)
    entered = False
    with pytest.raises(Refused, match="its settings are required and not as asked: governor ondemand"):  # noqa: SIM117
        with board_as_asked(place.client, place.target(wishes), info, place.keep):
            entered = True
    assert not entered
    assert place.state() == before  # the clocks were locked by then


def test_what_fails_inside_is_what_is_raised_and_the_board_is_given_back(place: Place) -> None:
    before = place.state()
    with pytest.raises(Crashed, match="the network's process died"):  # noqa: SIM117
        with board_as_asked(place.client, place.target(WISHES), place.client.describe(), place.keep):
            raise Crashed("far", "the network's process died")
    assert place.state() == before
    assert {one.after for one in place.kept[-1]} == {"no", "powersave"}


def test_a_stopped_run_gives_back_too(place: Place) -> None:
    before = place.state()

    def stopped() -> None:
        with board_as_asked(place.client, place.target(WISHES), place.client.describe(), place.keep):
            place.client.cancel()  # as Ctrl-C does it, from another thread
            raise CallCancelled("far")

    with pytest.raises(CallCancelled):
        stopped()
    wait_for(lambda: place.state() == before or None, "the board as it was")


def test_an_agent_that_dies_at_the_end_costs_a_note_not_the_run(place: Place) -> None:
    with board_as_asked(place.client, place.target(WISHES), place.client.describe(), place.keep):
        place.agent.process.kill()
        place.agent.process.wait()
    (note,) = place.notes
    assert "was not heard giving them back" in note
    assert {one.after for one in place.kept[-1]} == {None}


def test_settings_that_another_host_holds(place: Place) -> None:
    target = place.target(WISHES)
    info = place.client.describe()
    with (
        connect(target, work_dir=place.folder) as other,
        other.hold_settings(WISHES),
        board_as_asked(place.client, target, info, place.keep),
    ):
        assert all("another host holds the board's settings" in note for note in place.notes)
        assert len(place.notes) == 2
