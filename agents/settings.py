"""Who holds the board's settings, and that they are given back whatever happens.

A host holds them for as long as one call lasts. They are given back when it ends its side, when the call ends in any
other way, when the agent stops, and at the next start of an agent that was killed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.boards.base import Board
from agents.boards.kinds import family_of
from agents.boards.sources import Sources
from agents.faults import AgentError, Fault, one_line
from agents.protocol import agent_pb2 as pb
from agents.settings_clocks import GpuClocks, JetsonClocks
from agents.settings_file import Kept, SettingsFile, Snapshot
from agents.settings_knobs import CannotSet, CpuClocks, Governor, Knob, NvpModel, Privileged

_log = logging.getLogger("quantrig.agent")
#: A name of a mode or governor; nothing longer is looked up.
_MAX_VALUE = 64
#: Giving back takes as long as the vendors' tools: a few seconds each.
_WAIT_S = 60.0


class Lease:
    """One host's hold; ended once, by whoever notices first."""

    def __init__(self) -> None:
        self.ended = False


@dataclass(frozen=True)
class State:
    """What came of one setting; fields as SettingState of the protocol."""

    name: str
    asked: str
    before: str
    now: str
    problem: str

    def to_proto(self) -> pb.SettingState:
        """The same as a message."""
        return pb.SettingState(
            name=self.name, asked=self.asked, before=self.before, now=self.now, problem=one_line(self.problem)
        )


def knobs_of(kind: str, sources: Sources, folder: Path) -> list[Knob]:
    """The settings that a kind of board may have, in the order in which they are set: a mode brings clocks of its own.

    Args:
        kind: of the board.
        sources: where its files and tools are.
        folder: for what a tool stores.
    """
    tools = Privileged(sources)
    governor = Governor(sources)
    family = family_of(kind)
    if family == "jetson":
        return [NvpModel(tools), governor, JetsonClocks(tools, folder / "jetson-clocks.conf")]
    if family == "nvidia":
        return [governor, GpuClocks(tools)]
    return [governor, CpuClocks(sources)]


class SettingsDesk:
    """Sets and gives back; one holder at a time (thread-safe).

    Args:
        board: whose boot id tells whether a file is of this boot.
        knobs: its settings, in the order of setting.
        file: what is to be given back.
    """

    def __init__(self, board: Board, knobs: Sequence[Knob], file: SettingsFile) -> None:
        self._board = board
        self._knobs = {knob.name: knob for knob in knobs}
        self._file = file
        self._guard = threading.Lock()
        self._holder: Lease | None = None
        self._asked: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._left = ""

    def settable(self) -> list[str]:
        """Which settings this board has."""
        return [name for name, knob in self._knobs.items() if knob.present()]

    def details(self) -> dict[str, str]:
        """For the board's description: what can be asked for, and what is not as it should be."""
        found = {"settable": ", ".join(self.settable()) or "none"}
        if self._holder is not None:
            found["settings_held"] = ", ".join(f"{name}={value}" for name, value in self._asked.items())
        if self._left:
            found["settings_left"] = self._left
        return {name: value for name, value in found.items() if value}

    def hold(self, lease: Lease, asked: Mapping[str, str]) -> list[State]:
        """Set what is asked for; what cannot be set stays as it is and says why.

        Raises:
            AgentError: somebody else holds them, or a value that is none.
        """
        for name, value in asked.items():
            if not value or len(value) > _MAX_VALUE or not value.isprintable():
                raise AgentError(Fault.INVALID, f"{name}: {one_line(value)[:80]!r} is no value of a setting")
        if not self._guard.acquire(timeout=_WAIT_S):
            raise AgentError(Fault.REFUSED, "the board's settings are being given back: try again in a minute")
        try:
            if self._holder is not None:
                raise AgentError(Fault.REFUSED, "another host holds the board's settings: wait until its run has ended")
            if lease.ended:
                raise AgentError(Fault.TIMED_OUT, "the caller left")
            self._recover()
            return self._hold(lease, asked)
        finally:
            self._guard.release()

    def _hold(self, lease: Lease, asked: Mapping[str, str]) -> list[State]:
        chosen: dict[str, str] = {}
        problems: dict[str, str] = {}
        # What an earlier holder could not give back is still what was before.
        kept = self._file.read()
        snapshots: dict[str, Snapshot] = dict(kept.snapshots) if kept is not None else {}
        self._before = {}
        for name in asked:
            knob = self._knobs.get(name)
            if knob is None or not knob.present():
                problems[name] = "this board has no such setting: take it out of `settings` in targets.yaml"
                continue
            self._before[name] = knob.read()
            try:
                chosen[name] = knob.choose(asked[name])
                if name not in snapshots:
                    snapshots[name] = knob.snapshot()
            except CannotSet as error:
                chosen.pop(name, None)
                problems[name] = str(error)
        if snapshots:
            try:
                self._file.write(Kept(self._board.identity().boot_id, snapshots))
            except OSError as error:
                message = (
                    f"what is to be given back cannot be noted ({error.strerror}): free space in the --data folder"
                )
                raise AgentError(Fault.EXHAUSTED, message) from None
        self._holder, self._asked = lease, dict(asked)
        states = []
        for name, knob in self._knobs.items():
            if name not in asked:
                continue
            now = ""
            if name in chosen:
                try:
                    now = knob.set(chosen[name])
                except CannotSet as error:
                    problems[name] = str(error)
            problem = problems.get(name, "")
            now = now or (knob.read() if knob.present() else "")
            states.append(State(name, asked[name], self._before.get(name, ""), now, problem))
        known = {state.name for state in states}
        states += [State(name, asked[name], "", "", problems[name]) for name in asked if name not in known]
        return states

    def give_back(self, lease: Lease) -> list[State]:
        """End this hold: everything as it was before. Again by another thread: nothing is left to do."""
        lease.ended = True
        with self._guard:
            if self._holder is not lease:
                return []
            try:
                return self._recover()
            finally:
                self._holder, self._asked = None, {}

    def recover(self) -> None:
        """At the agent's start: give back what one before it held when it was killed."""
        with self._guard:
            for state in self._recover():
                _log.warning("gave back %s of an agent that was killed: now %s", state.name, state.now or "unknown")

    def close(self) -> None:
        """At the agent's end: give back what is held; a host that still holds it will notice that we are gone."""
        with self._guard:
            if self._holder is not None:
                self._holder.ended = True
                self._recover()
                self._holder = None

    def _recover(self) -> list[State]:
        """Give back all that the file names, and say what came of it; what fails stays in the file."""
        kept = self._file.read()
        if kept is None:
            self._left = ""
            return []
        boot_id = self._board.identity().boot_id
        rebooted = bool(kept.boot_id and boot_id and kept.boot_id != boot_id)
        todo = {
            name: snapshot
            for name, snapshot in kept.snapshots.items()
            if (knob := self._knobs.get(name)) is not None and knob.present() and (knob.survives_boot or not rebooted)
        }
        names = [name for name in self._knobs if name in todo]
        for name in reversed(names):
            self._knobs[name].restore(todo[name])
        # A mode that was given back last brought its own clocks with it: what it changed is put back once more.
        for name in names:
            if not self._knobs[name].back(todo[name]):
                self._knobs[name].restore(todo[name])
        states, left = [], {}
        for name in names:
            knob = self._knobs[name]
            problem = ""
            if not knob.back(todo[name]):
                left[name] = todo[name]
                problem = f"{name} is not as it was before: set it by hand, or reboot the board"
                _log.error("%s", problem)
            states.append(State(name, self._asked.get(name, ""), self._before.get(name, ""), knob.read(), problem))
        self._left = "; ".join(state.problem for state in states if state.problem)
        try:
            if left:
                self._file.write(Kept(boot_id, left))
            else:
                self._file.remove()
        except OSError as error:  # it names too much then: the next start puts back what is back already
            _log.error("the note of what was given back cannot be brought up to date: %s", error.strerror)
        return states
