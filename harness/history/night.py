"""One night: run the plan's jobs, keep what came of them, find what changed, publish the page.

A board that fails does not stop the others (`harness.runs.engine`), a job that fails does not stop the next one, and a
night that is over time ends with what it has. Everything is noted as it happens, so that `--resume` goes on.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import ExitCode, QuantrigError, UserError
from harness.history.alarms import update_alarms
from harness.history.analysis import METRICS, look, runs_of, series_of
from harness.history.environment import environment
from harness.history.gates import KEY, open_gates
from harness.history.log import NightLog
from harness.history.plan import Entry, NightPlan
from harness.history.publish import publish_night
from harness.history.tonight import OUT_OF_TIME, Tonight
from harness.judge.verdict import exit_code, worst
from harness.runs.engine import Run, resume, start
from harness.runs.interrupt import Interrupted, stop_on_signals
from harness.runs.plan import make_plan
from harness.runs.profile import find_profile
from harness.store import Store
from harness.store.nights import Night, Nights

#: Outcomes of an entry that `--resume` leaves alone.
_FINISHED = ("done",)


@dataclass(frozen=True, slots=True)
class _Going:
    """A night while it runs.

    Args:
        plan: what it runs.
        store: where results go.
        nights: the nights in it.
        night: this one; its entries are noted as they end.
        log: its log.
        stop: set by a signal, or by the deadline.
        over: set by the deadline alone.
    """

    plan: NightPlan
    store: Store
    nights: Nights
    night: Night
    log: NightLog
    stop: threading.Event
    over: threading.Event

    @property
    def interrupted(self) -> bool:
        """Stopped by a person, not by the clock."""
        return self.stop.is_set() and not self.over.is_set()

    def save(self, night: Night | None = None) -> None:
        """Keep the night as it is now."""
        self.nights.save(self.night if night is None else night)


def run_night(plan: NightPlan, store: Store, *, go_on: bool = False) -> Tonight:
    """Run a night to its end, or to its deadline.

    Args:
        plan: what.
        store: where results go.
        go_on: with the last night, which was interrupted.

    Raises:
        UserError: another night of this plan is running; nothing to go on with.
        Interrupted: Ctrl-C or SIGTERM; what is finished is kept.
    """
    nights = Nights(store)
    with _alone(plan):
        night = _interrupted_night(plan, nights) if go_on else _new_night(plan)
        nights.save(night)
        folder = plan.out / night.night_id
        log = NightLog(folder / "night.log")
        try:
            return _through(_Going(plan, store, nights, night, log, threading.Event(), threading.Event()))
        finally:
            log.close()


def _through(going: _Going) -> Tonight:
    plan, nights = going.plan, going.nights
    deadline = plan.deadline(datetime.now().astimezone())
    with stop_on_signals(going.stop), _at(deadline, going.stop, going.over):
        for entry, kept in zip(plan.entries, going.night.details["entries"], strict=True):
            if kept["outcome"] in _FINISHED:
                continue
            if going.interrupted:
                break
            if going.over.is_set():
                kept |= {"outcome": OUT_OF_TIME, "code": ExitCode.INCONCLUSIVE}
            else:
                _one(going, entry, kept)
            going.save()
    if going.interrupted:
        going.save(replace(going.night, status="interrupted"))
        raise _NightInterrupted(plan.path)
    night = replace(going.night, status="done", finished=_now())
    _forget(plan, nights, going.log)
    tonight = conclude(plan, nights, night)
    going.save(night)
    publish_night(plan, nights, tonight)
    going.log.line("night", f"exit code {int(tonight.code)}")
    return tonight


class _NightInterrupted(Interrupted):
    """Like a run's, but what goes on is the night."""

    def __init__(self, path: Path) -> None:
        QuantrigError.__init__(self, f"interrupted; `quantrig nightly --resume {path}` goes on from here")


def _one(going: _Going, entry: Entry, kept: dict[str, Any]) -> None:
    """Run one entry and note what came of it."""
    log, nights = going.log, going.nights
    log.line(entry.name, "begins")
    try:
        run = _run(going, entry, kept)
    except Interrupted:
        if going.over.is_set():
            kept |= {"outcome": OUT_OF_TIME, "code": ExitCode.INCONCLUSIVE}
        else:
            kept |= {"outcome": "interrupted"}
    except QuantrigError as error:
        kept |= {"outcome": "failed", "error": str(error), "code": error.exit_code}
    except Exception as error:  # noqa: BLE001 (a job's own functions and our bugs: the other jobs must still run)
        for line in traceback.format_exc().splitlines():
            log.line(entry.name, line)
        kept |= {"outcome": "failed", "error": f"a bug: {error!r}; night.log has it", "code": ExitCode.OUR_BUG}
    else:
        for target in run.record.targets:
            nights.save_surroundings(run.record.run_id, target.name, environment(target, run.record))
        statuses = {one.name: one.error or one.status for one in run.record.targets if one.status != "done"}
        kept |= {"outcome": "done", "code": exit_code(run.record), "statuses": statuses, "error": None}
        kept[KEY] = open_gates(run.record)
    log.line(entry.name, kept["outcome"] + (f": {kept['error']}" if kept.get("error") else ""))


def _run(going: _Going, entry: Entry, kept: dict[str, Any]) -> Run:
    if entry.job is None:
        raise UserError(entry.problem)
    if kept.get("run_id") and _begun(going.store, kept["run_id"]):
        return resume(kept["run_id"], going.store, going.log, going.stop)
    made = make_plan(
        entry.job,
        going.plan.lab,
        entry.targets,
        profile=find_profile(entry.profile),
        split_name=entry.split,
        out=going.plan.out / going.night.night_id / kept["folder"],
    )
    kept["run_id"] = made.run_id  # before it begins: a night that dies in its middle goes on with that very run
    going.save()
    return start(made, going.store, going.log, going.stop)


def _begun(store: Store, run_id: str) -> bool:
    """Whether the run got as far as the store before its night died."""
    try:
        store.run(run_id)
    except UserError:
        return False
    return True


def conclude(plan: NightPlan, nights: Nights, night: Night) -> Tonight:
    """Find what changed up to this night and bring the alarms to it; the night itself is not saved."""
    before = [one for one in nights.nights(plan.name, plan.look_back) if one.night_id != night.night_id]
    insight = look(series_of(nights, [night, *before], plan.metrics), nights)
    told = update_alarms(nights, plan.name, night.night_id, _now(), insight.stories)
    codes = [ExitCode(entry.get("code", ExitCode.GOOD)) for entry in night.details["entries"]]
    new = [one.change for one in told if one.alarm.state == "new" and one.change.worse]
    if ("regression" in plan.fail_on and any(not one.of_machine for one in new)) or (
        "machine" in plan.fail_on and any(one.of_machine for one in new)
    ):
        codes.append(ExitCode.GATE_FAILED)
    if "inconclusive" not in plan.fail_on:
        codes = [code for code in codes if code is not ExitCode.INCONCLUSIVE]
    code = worst(codes)
    night.details[METRICS] = _metrics(plan)  # a night that goes on ends with the plan as it is now
    night.details["code"] = int(code)
    night.details["new"] = sum(one.alarm.state == "new" for one in told)
    return Tonight(night, insight, tuple(told), code, plan.out / night.night_id, before[0] if before else None)


def _forget(plan: NightPlan, nights: Nights, log: NightLog) -> None:
    """Raw blocks that are older than the user keeps them."""
    if plan.keep_blocks is None:
        return
    old = nights.nights(plan.name)[plan.keep_blocks :]
    if gone := nights.forget_blocks([run for night in old for run in runs_of(night)]):
        log.line("store", f"{gone} raw blocks older than {plan.keep_blocks} nights dropped")


def _new_night(plan: NightPlan) -> Night:
    now = datetime.now(UTC)
    names: dict[str, int] = {}
    entries: list[dict[str, Any]] = []
    for entry in plan.entries:
        names[entry.name] = names.get(entry.name, 0) + 1
        folder = entry.name if names[entry.name] == 1 else f"{entry.name}-{names[entry.name]}"
        entries.append(
            {
                "job": entry.name, "path": str(entry.path), "targets": list(entry.targets), "profile": entry.profile,
                "folder": folder, "run_id": None, "outcome": "pending", "error": None, "statuses": {},
            }
        )  # fmt: skip
    night_id = f"{now:%Y%m%d-%H%M%S}-{plan.name}"
    details = {"plan_path": str(plan.path), "out": str(plan.out), METRICS: _metrics(plan), "entries": entries}
    return Night(night_id, plan.name, "running", now.isoformat(timespec="seconds"), None, details)


def _metrics(plan: NightPlan) -> list[str] | None:
    return None if plan.metrics is None else list(plan.metrics)


def _interrupted_night(plan: NightPlan, nights: Nights) -> Night:
    last = next(iter(nights.nights(plan.name, 1)), None)
    if last is None:
        raise UserError(f"{plan.path}: no night of '{plan.name}' to go on with; leave --resume out")
    entries = last.details["entries"]
    if all(entry["outcome"] in _FINISHED for entry in entries):
        raise UserError(f"night {last.night_id} is complete; leave --resume out for a new one")
    known = [(entry["path"], entry["targets"], entry["profile"]) for entry in entries]
    today = [(str(one.path), list(one.targets), one.profile) for one in plan.entries]
    if known != today:
        raise UserError(f"{plan.path} changed since night {last.night_id}; leave --resume out for a new one")
    return replace(last, status="running", finished=None)


@contextmanager
def _alone(plan: NightPlan) -> Iterator[None]:
    """Two nights of one plan never overlap; the kernel gives the lock back when a night dies."""
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(plan.out / ".night.lock", timeout=0)
    except OSError as error:
        raise UserError(f"{plan.out}: nights cannot be kept there ({error.strerror}); set `out`") from error
    try:
        lock.acquire()
    except Timeout:
        message = f"a night of '{plan.name}' is still running ({plan.out}); it has a deadline with `until` or `budget`"
        raise UserError(message) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _at(deadline: datetime | None, stop: threading.Event, over: threading.Event) -> Iterator[None]:
    """Stop the run in flight when the deadline comes; `over` says that it was the clock and not a person."""
    if deadline is None:
        yield
        return

    def ring() -> None:
        if not stop.is_set():
            over.set()
            stop.set()

    seconds = (deadline - datetime.now(UTC)).total_seconds()
    timer = threading.Timer(max(seconds, 0.0), ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
