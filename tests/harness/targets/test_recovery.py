"""The ladder with boards that come back at a given rung, hang, or never come back; quarantine and its release."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import BoardError, ExitCode, Offline, Quarantined, Unreachable
from harness.record.target import RecoveryStep
from harness.targets.console.events import BootStage, ConsoleEvent, EventKind
from harness.targets.console.explain import Prognosis, prognosis
from harness.targets.lab import parse_lab
from harness.targets.qemu_system.image import home
from harness.targets.qemu_system.keys import make_keys
from harness.targets.quarantine import must_be_free, quarantine, quarantined, release
from harness.targets.recovery import Limits, Means, climb
from harness.targets.recovery_emulated import with_lab_key
from harness.targets.recovery_means import recovery_limits, recovery_means
from harness.targets.target import Target

QUICK = Limits(link_s=0.2, agent_s=0.2, ssh_s=0.2, power_s=0.5, boot_s=0.3)


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notes of a test stay below its own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@dataclass
class Patient:
    """A board whose agent answers again once `cure` was done; `broken` deeds fail, `stuck` ones never return."""

    cure: str | None
    broken: frozenset[str] = frozenset()
    stuck: frozenset[str] = frozenset()
    well: bool = False
    deeds: list[str] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)
    says: Prognosis | None = None  # its console
    silent: frozenset[str] = frozenset()  # deeds that get no answer from the board

    def deed(self, name: str) -> Callable[[], str]:
        def act() -> str:
            self.deeds.append(name)
            if name in self.stuck:
                self.free.wait(60)
            if name in self.silent:
                raise Unreachable("pi", "nobody there")
            if name in self.broken:
                raise BoardError("pi", f"no {name}\nhere")
            self.well = self.well or name == self.cure
            return f"did {name}"

        return act

    def reconnect(self, limit_s: float) -> str:
        self.deeds.append("reconnect")
        if not self.well:
            raise Unreachable("pi", "nothing answers")
        return "agent answered"

    def watch(self, limit_s: float) -> str:
        return self.deed("watch console")()

    def means(self, *without: str) -> Means:
        absent = {name: f"no {name} in targets.yaml" for name in without}

        def deed(name: str) -> Callable[[], str] | None:
            return None if name in without else self.deed(name)

        return Means(
            reconnect=self.reconnect,
            quarantine=lambda reason: self.deed("quarantine")() + f" for {reason}",
            absent=absent,
            restart_agent=deed("restart agent"),
            reboot=deed("reboot"),
            power_cycle=deed("power cycle"),
            mark_boot=lambda: self.deeds.append("mark"),
            watch_boot=None if "watch console" in without else self.watch,
            prognosis=lambda: self.says,
        )


def outcomes(steps: tuple[RecoveryStep, ...]) -> list[tuple[str, str]]:
    return [(step.name, step.outcome) for step in steps]


def test_a_link_that_was_gone_for_a_moment() -> None:
    patient = Patient(None, well=True)
    ended = climb(patient.means(), "lost", limits=QUICK)
    assert ended.recovered
    assert patient.deeds == ["reconnect"]
    assert re.fullmatch(r"recovered by reconnect after \d\.\d s", ended.sentence)


@pytest.mark.parametrize(
    ("cure", "deeds"),
    [
        ("restart agent", ["reconnect", "restart agent", "reconnect"]),
        ("reboot", ["reconnect", "restart agent", "reconnect", "mark", "reboot", "watch console", "reconnect"]),
        (
            "power cycle",
            ["reconnect", "restart agent", "reconnect", "mark", "reboot", "watch console", "reconnect", "mark",
             "power cycle", "watch console", "reconnect"],
        ),
    ],
)  # fmt: skip
def test_the_rung_that_helps_is_the_last(cure: str, deeds: list[str]) -> None:
    patient = Patient(cure)
    told: list[RecoveryStep] = []
    ended = climb(patient.means(), "lost", limits=QUICK, on_step=told.append)
    assert ended.recovered
    assert patient.deeds == deeds
    assert tuple(told) == ended.steps
    assert ended.sentence.startswith(f"recovered by {cure} after ")
    assert [step.began_unix_s for step in told] == sorted(step.began_unix_s for step in told)
    assert abs(told[0].began_unix_s - time.time()) < 30


def test_what_lacks_is_skipped_with_its_reason() -> None:
    patient = Patient("power cycle")
    ended = climb(patient.means("restart agent", "reboot", "watch console"), "lost", limits=QUICK)
    assert outcomes(ended.steps) == [
        ("reconnect", "failed"),
        ("restart agent", "skipped"),
        ("reboot", "skipped"),
        ("power cycle", "done"),
        ("watch console", "skipped"),
        ("reconnect", "done"),
    ]
    assert ended.steps[1].detail == "no restart agent in targets.yaml"
    assert ended.steps[0].detail == "pi: nothing answers"


def test_a_rung_that_fails_or_hangs_leads_to_the_next() -> None:
    patient = Patient("power cycle", broken=frozenset({"restart agent"}), stuck=frozenset({"reboot"}))
    begun = time.monotonic()
    ended = climb(patient.means("watch console"), "lost", limits=QUICK)
    patient.free.set()
    assert time.monotonic() - begun < 50
    assert ended.recovered
    assert outcomes(ended.steps)[1:3] == [("restart agent", "failed"), ("reboot", "timed out")]
    assert ended.steps[1].detail == "pi: no restart agent here"
    assert ended.steps[2].seconds >= QUICK.ssh_s


def test_a_console_that_shows_no_boot_shortens_the_wait() -> None:
    waits: list[float] = []
    patient = Patient(None, broken=frozenset({"watch console"}))

    def reconnect(limit_s: float) -> str:
        waits.append(limit_s)
        raise Offline("pi", "gone")

    means = patient.means("restart agent", "reboot")
    climb(Means(reconnect, means.quarantine, {}, power_cycle=means.power_cycle, watch_boot=means.watch_boot), "lost",
          limits=Limits(link_s=0.1, boot_s=99))  # fmt: skip
    assert waits == [0.1, 0.1]
    patient.broken = frozenset()
    waits.clear()
    climb(Means(reconnect, means.quarantine, {}, power_cycle=means.power_cycle, watch_boot=means.watch_boot), "lost",
          limits=Limits(link_s=0.1, boot_s=99))  # fmt: skip
    assert waits == [0.1, 99]


def test_a_board_that_never_comes_back_is_quarantined_with_the_story() -> None:
    patient = Patient(None)
    ended = climb(patient.means("restart agent", "reboot"), "the agent stopped answering", limits=QUICK)
    assert not ended.recovered
    assert not ended.stopped
    assert ended.steps[-1].name == "quarantine"
    assert ended.steps[-1].detail == (
        "did quarantine for the agent stopped answering (tried: reconnect failed; power cycle done; "
        "watch console done; reconnect failed)"
    )
    assert re.fullmatch(r"not recovered within 0\.\d s \(reconnect: failed, power cycle: done, .*\)", ended.sentence)


DEAD = Prognosis(False, "its kernel has stopped: kernel panic: sysrq", 0.0)


def test_a_kernel_that_has_stopped_goes_to_power_at_once() -> None:
    patient = Patient("power cycle", says=DEAD)
    ended = climb(patient.means(), "lost", limits=QUICK)
    assert ended.recovered
    assert patient.deeds == ["mark", "mark", "power cycle", "watch console", "reconnect"]
    assert outcomes(ended.steps)[:3] == [
        ("reconnect", "skipped"),
        ("restart agent", "skipped"),
        ("reboot", "skipped"),
    ]
    assert {step.detail for step in ended.steps[:3]} == {DEAD.sentence}


def test_a_kernel_that_stops_on_the_way_ends_the_ssh_rungs() -> None:
    patient = Patient("power cycle", broken=frozenset({"restart agent"}))
    means = patient.means()

    def panics_meanwhile() -> str:
        patient.says = DEAD
        raise BoardError("pi", "the service did not start")

    broken = Means(patient.reconnect, means.quarantine, {}, restart_agent=panics_meanwhile, reboot=means.reboot,
                   power_cycle=means.power_cycle, prognosis=means.prognosis)  # fmt: skip
    ended = climb(broken, "lost", limits=QUICK)
    assert ended.recovered
    assert "reboot" not in patient.deeds
    assert ended.steps[2].detail == DEAD.sentence


def test_without_power_a_stopped_kernel_is_given_its_watchdog() -> None:
    patient = Patient("watch console", says=DEAD)
    ended = climb(patient.means("power cycle"), "lost", limits=QUICK)
    assert ended.recovered
    assert patient.deeds == ["mark", "watch console", "reconnect"]


def test_a_board_that_starts_by_itself_is_waited_for() -> None:
    patient = Patient("watch console", says=Prognosis(True, "it is starting: kernel started", 0.0))
    ended = climb(patient.means(), "lost", limits=QUICK)
    assert ended.recovered
    assert patient.deeds == ["mark", "watch console", "reconnect"]


def test_a_board_that_ssh_does_not_reach_is_not_rebooted_through_it() -> None:
    patient = Patient("power cycle", silent=frozenset({"restart agent"}))
    ended = climb(patient.means(), "lost", limits=QUICK)
    assert ended.recovered
    assert "reboot" not in patient.deeds
    assert ended.steps[2].outcome == "skipped"
    assert ended.steps[2].detail == "SSH did not answer just now (nobody there)"
    without_power = Patient("reboot", silent=frozenset({"restart agent"}))
    assert climb(without_power.means("power cycle"), "lost", limits=QUICK).recovered  # the only way left


def said(*kinds: EventKind) -> list[ConsoleEvent]:
    stages = {EventKind.BOOT: BootStage.KERNEL}
    return [ConsoleEvent(kind, str(kind), "…", float(at), stage=stages.get(kind)) for at, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "boots"),
    [
        ([], None),
        ([EventKind.OOPS, EventKind.OOM_KILL, EventKind.UNDER_VOLTAGE], None),
        ([EventKind.PANIC], False),
        ([EventKind.PANIC, EventKind.WATCHDOG], False),
        ([EventKind.PANIC, EventKind.RESTART], True),
        ([EventKind.PANIC, EventKind.BOOT], True),
        ([EventKind.PANIC, EventKind.BOOT, EventKind.LOGIN], None),
        ([EventKind.BOOT, EventKind.LOGIN, EventKind.PANIC], False),
        ([EventKind.LOGIN, EventKind.RESTART, EventKind.IO_ERROR], True),
    ],
)
def test_the_last_word_about_the_kernel_counts(kinds: list[EventKind], boots: bool | None) -> None:
    found = prognosis(said(*kinds))
    assert (None if found is None else found.boots) == boots


def test_a_plug_in_with_a_bug_does_not_end_the_climb() -> None:
    patient = Patient("power cycle")

    def bug() -> str:
        raise ZeroDivisionError("in a plug-in")

    means = patient.means("reboot", "watch console")
    broken = Means(patient.reconnect, means.quarantine, {}, restart_agent=bug, power_cycle=means.power_cycle)
    ended = climb(broken, "lost", limits=QUICK)
    assert ended.recovered
    assert ended.steps[1].detail == "ZeroDivisionError: in a plug-in"


def test_a_stopped_run_ends_the_climb_without_a_quarantine() -> None:
    stop = threading.Event()
    patient = Patient(None, stuck=frozenset({"restart agent"}))

    def stop_then(limit_s: float) -> str:
        threading.Timer(0.05, stop.set).start()
        raise Unreachable("pi", "nothing")

    means = patient.means()
    begun = time.monotonic()
    ended = climb(Means(stop_then, means.quarantine, {}, restart_agent=means.restart_agent), "lost",
                  limits=Limits(ssh_s=60), stop=stop)  # fmt: skip
    patient.free.set()
    assert time.monotonic() - begun < 50
    assert (ended.recovered, ended.stopped) == (False, True)
    assert "quarantine" not in patient.deeds


def test_a_power_cycle_under_way_is_finished_when_the_run_is_stopped() -> None:
    stop = threading.Event()
    finished: list[bool] = []

    def cycle() -> str:
        stop.set()  # Ctrl-C between off and on
        threading.Event().wait(0.3)
        finished.append(True)
        return "off and on"

    def nothing(limit_s: float) -> str:
        raise Unreachable("pi", "nothing")

    ended = climb(Means(nothing, str, {}, power_cycle=cycle), "lost", limits=Limits(power_s=30), stop=stop)
    assert finished == [True]
    assert ended.stopped


# -- from targets.yaml ------------------------------------------------------------------------------------------------


def target(fields: str, folder: Path, name: str = "pi") -> Target:
    text = f"targets:\n  {name}: {{board: generic, {fields}}}\n"
    return parse_lab(text, folder / "targets.yaml").targets[name]


def test_means_follow_from_the_lab_file(tmp_path: Path) -> None:
    via = "via: {address: '127.0.0.1:1'}"
    bare = recovery_means(target(via, tmp_path), work_dir=tmp_path)
    assert not bare.any
    assert set(bare.absent) == {"restart agent", "reboot", "power cycle", "watch console"}
    half = recovery_means(target(f"{via}, power: {{on: 'true'}}", tmp_path), work_dir=tmp_path)
    assert not half.any
    assert half.absent["power cycle"] == "`power:` has no `cycle`, nor both `on` and `off`"
    missing = recovery_means(target(f"{via}, power: {{tool: nosuch}}", tmp_path), work_dir=tmp_path)
    assert missing.absent["power cycle"].startswith("pi: power: no tool 'nosuch' is installed")
    full = target(
        f"{via}, ssh: {{host: pi}}, power: {{cycle: 'echo done', timeout_s: 7}}, "
        "console: {url: /dev/null, boot_timeout_s: 11}",
        tmp_path,
    )
    means = recovery_means(full, work_dir=tmp_path)
    assert means.any
    assert means.absent == {"watch console": "its console could not be opened"}
    assert means.power_cycle is not None
    assert means.power_cycle() == "done"
    assert "Z pi cycle: done" in (tmp_path / "pi/power.log").read_text()
    assert recovery_limits(full).boot_s == 11
    assert recovery_limits(full).power_s >= 7


def test_reconnecting_tries_until_the_time_is_up(tmp_path: Path) -> None:
    means = recovery_means(target("via: {address: '127.0.0.1:1'}", tmp_path), work_dir=tmp_path)
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        means.reconnect(0.3)
    assert time.monotonic() - begun < 60  # one attempt may take its own 8 s


def test_quarantine_and_release(tmp_path: Path, state_home: Path) -> None:
    board = target("via: {address: '127.0.0.1:50443'}", tmp_path)
    assert quarantined(board) is None
    assert not (state_home / "quantrig").exists()  # asking leaves nothing behind
    must_be_free(board)
    made = quarantine(board, "it\nsmokes")
    assert abs((datetime.fromisoformat(made.since) - datetime.now(UTC)).total_seconds()) < 30
    assert quarantined(board) == made
    renamed = target("via: {address: '127.0.0.1:50443'}", tmp_path, "other-name")
    with pytest.raises(Quarantined) as caught:
        must_be_free(renamed)
    assert str(caught.value) == (
        f"other-name: quarantined since {made.since}: it smokes; look at it, then: quantrig targets release other-name"
    )
    assert caught.value.exit_code == ExitCode.BOARD_FAILED
    assert quarantined(target("via: {address: '127.0.0.1:50444'}", tmp_path)) is None
    assert release(renamed)
    assert not release(board)
    must_be_free(board)


def test_boards_of_one_name_in_two_labs_are_two(tmp_path: Path) -> None:
    quarantine(target("via: local", tmp_path / "a"), "no")
    assert quarantined(target("via: local", tmp_path / "a")) is not None
    assert quarantined(target("via: local", tmp_path / "b")) is None
    assert quarantined(target("via: local", tmp_path / "a", "pj")) is None


def test_a_damaged_note_still_sets_the_board_aside(tmp_path: Path, state_home: Path) -> None:
    board = target("via: local", tmp_path)
    quarantine(board, "no")
    (note,) = (state_home / "quantrig/quarantine").iterdir()
    note.write_text("{")
    with pytest.raises(Quarantined, match=r"quarantined since an unknown time: its note .* cannot be read"):
        must_be_free(board)
    assert release(board)


def test_an_emulated_board_is_reached_with_the_labs_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    emulated = "via: {qemu: virt, address: '127.0.0.1:1', tls: x}, ssh: {host: 127.0.0.1, port: 2222}"
    board = target(emulated, tmp_path)
    assert with_lab_key(board) == board  # there is no such lab on this machine
    keys = make_keys(home() / "keys")
    found = with_lab_key(board).ssh
    assert found is not None
    assert (found.user, found.key, found.host_key, found.port) == ("root", keys.login, keys.fingerprint, 2222)
    own = target(emulated.replace("port: 2222", "port: 2222, key: mine"), tmp_path)
    assert with_lab_key(own) == own
    metal = target("via: {address: '127.0.0.1:1'}, ssh: {host: 127.0.0.1}", tmp_path)
    assert with_lab_key(metal) == metal
