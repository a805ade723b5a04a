"""The board in the state that its target asks for while it is timed; what it was before, and is again, on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from harness.errors import BoardError, Refused
from harness.record.target import SettingRecord
from harness.targets.board_hold import Held, SettingState
from harness.targets.client import AgentClient
from harness.targets.errors_map import CallCancelled
from harness.targets.target import Target
from harness.targets.values import BoardInfo

#: Called with the settings as they stand and the sentences that belong under the table.
Keep = Callable[[tuple[SettingRecord, ...], tuple[str, ...]], None]


@contextmanager
def board_as_asked(client: AgentClient, target: Target, info: BoardInfo, keep: Keep) -> Iterator[None]:
    """Hold the target's `settings` while the block runs; nothing happens for a target without them.

    Args:
        client: of its agent.
        target: an entry of the lab file.
        info: what the board said of itself.
        keep: called when they are set and when they are given back.

    Raises:
        Refused: they are required and not as asked.
    """
    wishes = target.settings
    if wishes is None:
        yield
        return
    stack = ExitStack()
    held: Held | None = None
    problem = _too_old(target, info)
    if not problem:
        try:
            held = stack.enter_context(client.hold_settings(wishes))
        except Refused as error:
            problem = error.message
    if held is None:
        records = tuple(SettingRecord(name, value, "", "", None, problem) for name, value in wishes.asked().items())
    else:
        records = tuple(SettingRecord(s.name, s.asked, s.before, s.now, None, s.problem) for s in held.states)
    finished = False
    try:
        with stack:
            _insist(target, records, keep)
            yield
            finished = True
    except BoardError as error:
        if not finished or isinstance(error, CallCancelled):
            raise
        # The work is done and kept; that the agent did not live to say what it gave back is a sentence of its own.
    finally:
        if held is not None:
            keep(_ended(records, held.given_back), _notes_of_end(held.given_back))


def _too_old(target: Target, info: BoardInfo) -> str:
    if "settable" in info.details:
        return ""
    return (
        f"its agent {info.agent_version} cannot set anything on the board: upgrade it with "
        f"`quantrig targets provision {target.name}`"
    )


def _insist(target: Target, records: Sequence[SettingRecord], keep: Keep) -> None:
    """Keep what came of it; fail where the target requires it and it is not so."""
    wrong = [f"{one.name} {one.asked}: {one.problem}" for one in records if one.problem]
    keep(tuple(records), tuple(f"not as asked: {sentence}" for sentence in wrong))
    if wrong and target.settings is not None and target.settings.required:
        raise Refused(target.name, f"its settings are required and not as asked: {'; '.join(wrong)}")


def _ended(records: Sequence[SettingRecord], given_back: Sequence[SettingState] | None) -> tuple[SettingRecord, ...]:
    now = {state.name: state.now for state in given_back or ()}
    # What could not be set was never changed: the board had nothing of it to give back.
    same = {one.name: one.during for one in records if one.problem and given_back is not None}
    return tuple(replace(one, after=now.get(one.name, same.get(one.name))) for one in records)


def _notes_of_end(given_back: Sequence[SettingState] | None) -> tuple[str, ...]:
    if given_back is None:
        return (
            "the board's settings: its agent was not heard giving them back; it does so when it notices, or at its "
            "next start",
        )
    return tuple(f"not given back: {state.problem}" for state in given_back if state.problem)
