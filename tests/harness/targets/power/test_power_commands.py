"""Power by commands: what runs, in which order, how long, and what is kept of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BoardError, TimedOut, UserError
from harness.targets.lab import parse_lab
from harness.targets.power.command import read_state
from harness.targets.power.control import open_power
from harness.targets.power.values import Power, PowerState, PowerStatus
from harness.targets.target import Target
from tests.harness.targets.power.conftest import MakePower, MakeProgram
from tests.warm import process as warm

RECORD = """
import json, sys, time
with open("calls.jsonl", "a") as file:
    file.write(json.dumps([time.monotonic(), *sys.argv[1:]]) + "\\n")
print("outlet", *sys.argv[1:])
"""


def calls(folder: Path) -> list[list[object]]:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def test_a_cycle_is_off_a_wait_and_on(power: MakePower, program: MakeProgram, tmp_path: Path) -> None:
    program("pdu", RECORD)
    control = power("{on: 'pdu 7 on', off: [pdu, '7', 'off; rm -rf /'], wait_s: 0.4}")
    assert control.cycle() == "outlet 7 off; rm -rf /\noutlet 7 on"
    (off_at, *off), (on_at, *on) = calls(tmp_path)  # in the folder of the lab file
    assert (off, on) == (["7", "off; rm -rf /"], ["7", "on"])
    assert isinstance(on_at, float)
    assert isinstance(off_at, float)
    assert 0.4 <= on_at - off_at < 60
    kept = (tmp_path / "power.log").read_text()
    assert re.search(
        r"^\S+Z pi off: done \(\d+\.\d s\)\n\S+Z   outlet 7 off; rm -rf /\n\S+Z pi on: done", kept, re.MULTILINE
    )


def test_an_own_cycle_command_is_used(power: MakePower, program: MakeProgram, tmp_path: Path) -> None:
    program("pdu", RECORD)
    control = power("{cycle: 'pdu cycle \"outlet 7\"', on: pdu, off: pdu}")
    control.cycle()
    assert [words for _, *words in calls(tmp_path)] == [["cycle", "outlet 7"]]


def test_no_shell_unless_asked(power: MakePower, tmp_path: Path) -> None:
    assert power("{on: 'echo $HOME `id` *'}").on() == "$HOME `id` *"
    assert power("{on: 'echo $((6*7)) | tr 4 5', shell: true}").on() == "52"


def test_a_stopped_cycle_still_gives_the_power_back(power: MakePower, program: MakeProgram, tmp_path: Path) -> None:
    program("pdu", RECORD)
    stop = threading.Event()
    stop.set()
    begun = time.monotonic()
    power("{on: pdu on, off: pdu off, wait_s: 60}", stop=stop).cycle()
    assert time.monotonic() - begun < 55  # and not the minute of `wait_s`
    assert [words for _, *words in calls(tmp_path)] == [["off"], ["on"]]


def test_ctrl_c_between_off_and_on_leaves_no_board_without_power(program: MakeProgram, tmp_path: Path) -> None:
    program("pdu", RECORD)
    lab = tmp_path / "targets.yaml"
    lab.write_text("targets: {pi: {board: generic, via: local, power: {on: pdu on, off: pdu off, wait_s: 60}}}")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "targets", "power", "pi", "cycle", "--lab", str(lab)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "state/quantrig/power/pi.log"
    deadline = time.monotonic() + 120
    while not (log.exists() and "pi off: done" in log.read_text()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=55)
    assert (process.returncode, errors) == (130, "")
    assert [words for _, *words in calls(tmp_path)] == [["off"], ["on"]]


FLAKY = """
import pathlib, sys
count = pathlib.Path("count")
tries = int(count.read_text()) if count.exists() else 0
count.write_text(str(tries + 1))
if tries < FAILURES:
    sys.exit("relay busy")
print("on now")
"""


def test_switching_on_is_tried_twice(power: MakePower, program: MakeProgram) -> None:
    program("flaky", FLAKY.replace("FAILURES", "1"))
    assert power("{on: flaky, off: 'true', wait_s: 0}").cycle() == "on now"


def test_a_board_left_without_power_is_said_so(power: MakePower, program: MakeProgram) -> None:
    program("flaky", FLAKY.replace("FAILURES", "9"))
    with pytest.raises(BoardError) as caught:
        power("{on: flaky, off: 'true', wait_s: 0}").cycle()
    assert str(caught.value) == (
        "pi: power: flaky failed (exit status 1): relay busy; run it by hand to see why; "
        "the board is without power: quantrig targets power pi on"
    )


STUCK = """
import subprocess
print("dialling", flush=True)
child = subprocess.Popen(["sleep", "600"])
open("pid", "w").write(str(child.pid))
child.wait()
"""


def test_a_command_that_hangs_is_ended_with_its_children(
    power: MakePower, program: MakeProgram, tmp_path: Path
) -> None:
    program("stuck", STUCK)
    begun = time.monotonic()
    with pytest.raises(
        TimedOut, match=r"^pi: power: stuck did not end within 4 s \(it said: dialling\); check the switch"
    ):
        power("{on: stuck, timeout_s: 4}").on()
    assert time.monotonic() - begun < 60  # and not ten minutes
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while _alive(pid):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_daemon_that_keeps_the_output_open_holds_nobody_up(power: MakePower) -> None:
    begun = time.monotonic()
    assert power("{on: 'sleep 100 & echo done', shell: true}").on() == "done"
    assert time.monotonic() - begun < 60


def test_secrets_of_the_environment_are_used_and_never_kept(
    power: MakePower, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PDU_PASSWORD", "hunter2 x")
    control = power(
        "{on: 'echo ${PDU_PASSWORD} to http://admin:pw1@pdu/on', off: 'sh -c \"echo ${PDU_PASSWORD} >&2; exit 3\"'}"
    )
    assert control.on() == "*** to http://***@pdu/on"
    with pytest.raises(BoardError) as caught:
        control.off()
    kept = (tmp_path / "power.log").read_text() + str(caught.value)
    assert "***" in kept
    assert "hunter2" not in kept
    assert "pw1" not in kept
    monkeypatch.delenv("PDU_PASSWORD")
    with pytest.raises(UserError, match=r"pi: power: \$\{PDU_PASSWORD\} is not set in the environment; export it"):
        control.on()


def test_a_chatty_command_is_cut_and_cleaned(power: MakePower, tmp_path: Path) -> None:
    said = power("{on: 'head -c 1000000 /dev/zero; printf \"\\\\033[31mred\\\\nend\"', shell: true}").on()
    assert len(said) < 20_000
    assert said.endswith("end")
    assert "\x1b" not in said
    assert "\x00" not in said


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("on", PowerState.ON),
        ("Outlet 7: OFF", PowerState.OFF),
        ("1", PowerState.ON),
        ("relay is down", PowerState.OFF),
        ("on or off?", PowerState.UNKNOWN),
        ("connection refused", PowerState.UNKNOWN),  # 'on' is only a part of a word there
        ("", PowerState.UNKNOWN),
    ],
)
def test_reading_a_state(said: str, state: PowerState) -> None:
    assert read_state(said).state is state


def test_status(power: MakePower) -> None:
    assert power("{status: 'echo outlet 7 is on'}").status() == PowerStatus(PowerState.ON, "outlet 7 is on")
    failed = power("{status: 'echo on; exit 1', shell: true}").status()
    assert failed.state is PowerState.UNKNOWN
    assert failed.detail == "the status command failed (exit status 1): on"
    assert power("{on: 'true'}").status() == PowerStatus(
        PowerState.UNKNOWN, "there is no way to ask: add `status` to `power:`"
    )


def test_what_cannot_be_done(power: MakePower, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pi: power: no way to switch off; add `off` to `power:`"):
        power("{on: 'true'}").off()
    with pytest.raises(UserError, match="pi: power: cannot cycle without `cycle`, or `on` and `off`; add them"):
        power("{on: 'true'}").cycle()
    with pytest.raises(UserError, match="pi: power: no program nosuch on this host; install it or give its path"):
        power("{on: nosuch on}").on()
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match=r"pi: power: plain cannot be run \(Permission denied\)"):
        power("{on: ./plain}").on()
    bare = parse_lab("targets: {pi: {board: generic, via: local}}", tmp_path / "t.yaml").targets["pi"]
    with pytest.raises(UserError, match="pi: no way to switch its power; add `power:`"):
        open_power(bare)


@pytest.mark.parametrize(
    ("power_text", "said"),
    [
        (
            "{on: 'pdu on && sleep 3'}",
            "t.yaml:2: pi: '&&' means something to a shell only; add `shell: true` beside it",
        ),
        ("{on: 'pdu \"on'}", "t.yaml:2: pi: No closing quotation in this command"),
        ("{on: ''}", "t.yaml:2: targets.pi.power.on: the command is empty"),
        ("{on: []}", "t.yaml:2: targets.pi.power.on: the command is empty"),
        ("{on: [a], shell: true}", "t.yaml:2: pi: a list of words needs no shell"),
        (
            "{}",
            "t.yaml:2: pi: `power` needs exactly one way to switch, not none: commands (on, off, cycle, status), qmp",
        ),
        ("{on: a, qmp: b}", "t.yaml:2: pi: `power` needs exactly one way to switch, not qmp and commands"),
        ("{on: a, options: {}}", "t.yaml:2: pi: `options` belong to `tool`"),
        ("{onn: a}", "t.yaml:2: unknown field 'onn' in targets.pi.power; did you mean 'on'?"),
        ("{uhubctl: {location: '1-1; id', port: 2}}", "t.yaml:2: targets.pi.power.uhubctl.location"),
        ("{tasmota: {url: 'file:///etc/passwd'}}", "t.yaml:2: targets.pi.power.tasmota.url"),
        ("{on: a, wait_s: -1}", "t.yaml:2: targets.pi.power.wait_s"),
    ],
)
def test_mistakes_in_the_lab_file(power_text: str, said: str) -> None:
    text = f"targets:\n  pi: {{board: generic, via: local, power: {power_text}}}\n"
    with pytest.raises(UserError) as caught:
        parse_lab(text, Path("t.yaml"))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_entries_of_the_lab_file(target: Callable[[str], Target], tmp_path: Path) -> None:
    assert target("{cycle: 'pdu-cli cycle 7'}").power == Power(cycle="pdu-cli cycle 7")
    assert target("{qmp: run/q.sock, wait_s: 1}").power == Power(
        method="qmp", options={"socket": str(tmp_path / "run/q.sock")}, wait_s=1.0
    )
    labgrid = target("{labgrid: rpi5}").power
    assert labgrid is not None
    assert labgrid.options == {"place": "rpi5", "coordinator": None, "client": "labgrid-client"}


def test_the_command(tmp_path: Path, program: MakeProgram) -> None:
    program("pdu", "import sys, pathlib\nstate = pathlib.Path('relay')\n"
            "if sys.argv[1] == 'get': print('outlet is', state.read_text() if state.exists() else '?')\n"
            "else: state.write_text(sys.argv[1])\n")  # fmt: skip
    lab = tmp_path / "targets.yaml"
    lab.write_text(
        "targets: {pi: {board: generic, via: local, power: {on: pdu on, off: pdu off, status: pdu get, wait_s: 0}}}"
    )

    def quantrig(*words: str) -> tuple[int, str, str]:
        done = warm.quantrig("targets", "power", "pi", *words, "--lab", str(lab))
        return done.returncode, done.stdout, done.stderr

    code, said, _ = quantrig("status")
    assert (code, said) == (4, "pi: unknown (neither on nor off in what it said: 'outlet is ?')\n")
    assert quantrig("off")[:2] == (0, "pi: power off: done\n")
    code, said, _ = quantrig("status", "--json")
    assert (code, json.loads(said)) == (0, {"target": "pi", "state": "off", "detail": "outlet is off"})
    code, _, wrong = quantrig("of")
    assert (code, wrong) == (2, "error: unknown action 'of'; did you mean 'off'?\n")


HOLDER = """
import sys, threading
from pathlib import Path
from harness.runs.board import board_key
from harness.runs.locks import board_alone
from harness.targets.lab import load_lab
lab = load_lab(Path(sys.argv[1]))
with board_alone(board_key(lab.targets["pi"], lab.path), threading.Event(), purpose="run 20261121-180000-ab12"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_power_of_a_board_in_use_is_taken_by_force_only(program: MakeProgram, tmp_path: Path) -> None:
    program("pdu", RECORD)
    lab = tmp_path / "targets.yaml"
    lab.write_text("targets: {pi: {board: generic, via: local, power: {on: pdu on, off: pdu off, status: echo on}}}")

    def power(*words: str) -> subprocess.CompletedProcess[str]:
        return warm.quantrig("targets", "power", "pi", *words, "--lab", str(lab), cwd=tmp_path)

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lab)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = power("off")
        assert refused.returncode == 3
        assert refused.stderr.strip().splitlines() == [
            f"error: pi: in use by run 20261121-180000-ab12 (pid {holder.pid}); wait for its end, or take the power "
            "all the same with --force"
        ]
        assert power("status").returncode == 0
        assert power("on").returncode == 0
        assert power("off", "--force").returncode == 0
    finally:
        holder.communicate()
    assert power("off").returncode == 0
    assert [words for _, *words in calls(tmp_path)] == [["on"], ["off"], ["off"]]
