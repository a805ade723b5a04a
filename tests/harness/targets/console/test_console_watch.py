"""Consoles over every way of reaching one, watched by the real thread: kept, recognized, awaited, opened again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import Refused, Unreachable, UserError
from harness.targets.console.events import BootStage, ConsoleEvent, EventKind
from harness.targets.console.log import TimedLog
from harness.targets.console.watch import KEPT_LINES
from tests.harness.targets.console.lines import Board, Line, Rfc2217Server, TcpConsole, Watch, until

LOGIN = re.compile("login:")


def test_a_boot_at_the_speed_of_a_real_line(board: Board, watch: Watch) -> None:
    with watch(board.path) as seen:
        mark = seen.boot_mark()
        board.tell("boot")
        outcome = seen.await_boot(60, since=mark)
        assert outcome.reached
        assert outcome.stage is BootStage.LOGIN
        stages = [event.stage for event in seen.events]
        assert list(dict.fromkeys(stages)) == [
            BootStage.BOOT_LOADER,
            BootStage.FIRMWARE,
            BootStage.LOADING_KERNEL,
            BootStage.KERNEL,
            BootStage.USER_SPACE,
            BootStage.LOGIN,
        ]
        assert [event.kind for event in seen.events].count(EventKind.LOGIN) == 1
        seen.send(b"pi\r")  # the echo completes the prompt's line: still one prompt
        assert seen.expect(re.compile(r"login: pi$"), 60) is not None
        until(lambda: seen.lines[-1].text == "raspberrypi login: pi")
        assert [event.kind for event in seen.events].count(EventKind.LOGIN) == 1
    assert "[   OK  ] Reached target multi-user.target - Multi-User System." in [line.text for line in seen.lines]


def test_a_boot_that_panics_ends_the_wait(board: Board, watch: Watch) -> None:
    with watch(board.path) as seen:
        mark = seen.boot_mark()
        board.tell("panic")
        outcome = seen.await_boot(60, since=mark)
    assert not outcome.reached
    assert outcome.seconds < 55
    assert outcome.sentence == (
        "the boot ended in a kernel panic: VFS: Unable to mount root fs on unknown-block(179,2)"
    )
    assert outcome.failure is not None
    assert outcome.failure.uptime_s == 2.112233


def test_a_boot_that_hangs_says_how_far_it_came(board: Board, watch: Watch) -> None:
    with watch(board.path) as seen:
        board.tell("hang")
        assert seen.expect(re.compile("Linux version"), 60, since=0) is not None
        outcome = seen.await_boot(0.3, since=0)
    assert (outcome.reached, outcome.stage) == (False, BootStage.KERNEL)
    assert outcome.sentence == "no login prompt within 0 s; it came as far as: kernel"


def test_a_silent_console_and_a_stopped_wait(line: Line, watch: Watch) -> None:
    stop = threading.Event()
    stop.set()
    with watch(line.path) as seen:
        assert seen.await_boot(0.1).sentence == "no login prompt within 0 s; its console said nothing of a boot"
        begun = time.monotonic()
        assert seen.await_boot(60, stop=stop).reached is False
        assert seen.expect(LOGIN, 60, stop=stop) is None
        assert time.monotonic() - begun < 55


def test_events_are_told_at_once_and_bytes_pass_unchanged(line: Line, watch: Watch) -> None:
    told: list[ConsoleEvent] = []
    passed: list[bytes] = []
    said = b"\x00\xff\x1b[31m[    9.332211] hwmon hwmon1: Undervol"
    with watch(line.path, on_event=told.append, on_bytes=passed.append) as seen:
        line.say(said)
        until(lambda: b"".join(passed) == said)
        assert told == []
        line.say(b"tage detected!\x1b[0m\r\n")
        until(lambda: bool(told))
        assert told == list(seen.events)
        assert told[0].kind is EventKind.UNDER_VOLTAGE
        assert abs(told[0].unix_s - time.time()) < 60


def test_what_was_said_before_a_mark_is_not_awaited_again(line: Line, watch: Watch) -> None:
    with watch(line.path) as seen:
        line.say(b"ready\r\n")
        assert seen.expect(re.compile("ready"), 60) is not None
        mark = seen.mark()
        assert seen.expect(re.compile("ready"), 0.1, since=mark) is None
        line.say(b"ready again")  # not ended
        found = seen.expect(re.compile("ready"), 60, since=mark)
        assert found is not None
        assert found.text == "ready again"


def test_a_prompt_of_the_labs_own(line: Line, watch: Watch) -> None:
    with watch(line.path, prompt=r"^=> $|^ZynqMP>") as seen:
        line.say(b"raspberrypi login: ")
        assert not seen.await_boot(0.2, since=0).reached
        line.say(b"\r\nZynqMP> ")
        assert seen.await_boot(60, since=0).reached


def test_a_flood_is_kept_whole_in_the_log_and_bounded_in_memory(tcp: TcpConsole, watch: Watch, tmp_path: Path) -> None:
    count = KEPT_LINES + 500
    with watch(tcp.url) as seen:
        client = tcp.accept()
        client.sendall(b"".join(b"line %d\n" % number for number in range(count)) + b"end")
        assert seen.expect(re.compile("^end$"), 30) is not None
        assert len(seen.lines) == KEPT_LINES
        assert seen.lines[-1].text == f"line {count - 1}"
        assert seen.mark() == count
    kept = [text.partition(" ")[2] for text in (tmp_path / "console.log").read_text().splitlines()]
    assert [text for text in kept if text.startswith("line ")] == [f"line {number}" for number in range(count)]


def test_the_log_has_utc_times_with_milliseconds_and_is_private(line: Line, watch: Watch, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    with watch(line.path) as seen:
        line.say(b"hello\r\nrest")
        assert seen.expect(re.compile("^rest$"), 60) is not None
    log = tmp_path / "console.log"
    assert log.stat().st_mode & 0o777 == 0o600
    rows = [text.split(" ", 1) for text in log.read_text().splitlines()]
    assert [text for _, text in rows][1:3] == ["hello", "rest"]
    for when, _ in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", when)
        assert -0.001 <= (datetime.fromisoformat(when) - before).total_seconds() < 60


def test_a_log_that_grows_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.log"
    with TimedLog(path, max_bytes=100) as log:
        for number in range(5):
            log.write(f"number {number} {'x' * 20}", 0.0)
    old = path.with_name("c.log.old")
    assert [text.split()[2] for text in (old.read_text() + path.read_text()).splitlines()] == ["2", "3", "4"] or len(
        old.read_text().splitlines()
    ) == 1
    assert path.read_text().splitlines()[-1] == f"1970-01-01T00:00:00.000Z number 4 {'x' * 20}"


def test_a_dropped_connection_is_opened_again(tcp: TcpConsole, watch: Watch, tmp_path: Path) -> None:
    with watch(tcp.url) as seen:
        tcp.accept().sendall(b"first\nhalf a li")
        assert seen.expect(re.compile("half"), 60) is not None
        tcp.drop()
        tcp.accept().sendall(b"second\n")
        assert seen.expect(re.compile("^second$"), 60) is not None
        until(lambda: seen.connected)
        assert [line.text for line in seen.lines] == ["first", "half a li", "second"]
    kept = (tmp_path / "console.log").read_text()
    assert re.search(r"Z -- console lost \(.+\); trying again\n", kept)
    assert "Z -- console opened again\n" in kept


def test_a_panic_behind_a_prompt_of_another_read(line: Line, watch: Watch) -> None:
    with watch(line.path) as seen:
        line.say(b"raspberrypi login: ")
        assert seen.await_boot(60, since=0).reached
        line.say(b"[  353.498700] Kernel panic - not syncing: sysrq triggered crash\r\n")
        assert seen.await_event(lambda events: len(events) == 2, 60)
        assert not seen.await_event(lambda events: len(events) == 3, 0.05)
        assert [event.kind for event in seen.events] == [EventKind.LOGIN, EventKind.PANIC]


def test_what_is_sent_while_the_port_is_lost(tcp: TcpConsole, watch: Watch) -> None:
    with watch(tcp.url) as seen:
        tcp.accept()
        tcp.close()
        until(lambda: not seen.connected)
        with pytest.raises(Unreachable, match="bench: its console is lost"):
            seen.send(b"x")


def test_rfc2217_carries_both_ways_and_its_escapes(rfc2217: tuple[Rfc2217Server, Line], watch: Watch) -> None:
    server, line = rfc2217
    with watch(f"{server.url}?ign_set_control&timeout=5", on_bytes=(passed := bytearray()).extend) as seen:
        line.say(b"\xff\xffdata\r\nraspberrypi login: ")
        assert seen.await_boot(60, since=0).reached
        assert b"\xff\xffdata" in passed
        seen.send(b"pi\xff\r")
        assert line.heard(4) == b"pi\xff\r"


def test_a_terminal_server_that_is_restarted(rfc2217: tuple[Rfc2217Server, Line], watch: Watch) -> None:
    server, line = rfc2217
    with watch(f"{server.url}?ign_set_control") as seen:
        line.say(b"before\n")
        assert seen.expect(re.compile("before"), 60) is not None
        server.drop()
        until(lambda: not seen.connected)
        until(lambda: seen.connected)
        line.say(b"after\n")
        assert seen.expect(re.compile("after"), 60) is not None


@pytest.mark.skipif(shutil.which("ser2net") is None, reason="no ser2net: apt install ser2net")
def test_a_terminal_server_of_the_field(line: Line, watch: Watch, tmp_path: Path) -> None:
    port = _free_port()
    config = tmp_path / "ser2net.yaml"
    config.write_text(
        f"connection: &board\n  accepter: telnet(rfc2217),tcp,127.0.0.1,{port}\n"
        f"  connector: serialdev,{line.path},115200n81,local\n"
    )
    server = subprocess.Popen(["ser2net", "-n", "-c", str(config), "-P", str(tmp_path / "pid")])
    try:
        until(lambda: _listens(port))
        with watch(f"rfc2217://127.0.0.1:{port}?ign_set_control") as seen:
            line.say(b"U-Boot 2023.04 (x)\r\nraspberrypi login: ")
            assert seen.await_boot(60, since=0).reached
            seen.send(b"pi\r")
            assert line.heard(3) == b"pi\r"
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    hexadecimal = f":{port:04X} 00000000:0000 0A"
    return hexadecimal in Path("/proc/net/tcp").read_text()


@pytest.mark.skipif(shutil.which("socat") is None, reason="no socat: apt install socat")
def test_a_device_that_vanishes_and_comes_back(tmp_path: Path, watch: Watch) -> None:
    device = tmp_path / "ttyUSB0"

    def plug_in() -> subprocess.Popen[bytes]:
        adapter = subprocess.Popen(
            ["socat", f"pty,raw,echo=0,link={device}", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        until(device.exists)
        return adapter

    def say(adapter: subprocess.Popen[bytes], data: bytes) -> None:
        assert adapter.stdin is not None
        adapter.stdin.write(data)
        adapter.stdin.flush()

    adapter = plug_in()
    with watch(str(device)) as seen:
        say(adapter, b"before\n")
        assert seen.expect(re.compile("before"), 60) is not None
        adapter.kill()
        adapter.wait()
        until(lambda: not seen.connected)
        device.unlink(missing_ok=True)
        adapter = plug_in()
        until(lambda: seen.connected)
        say(adapter, b"after\n")
        assert seen.expect(re.compile("after"), 60) is not None
    adapter.kill()
    adapter.wait()


def test_two_readers_of_one_console(line: Line, watch: Watch, tmp_path: Path) -> None:
    alias = tmp_path / "console"
    alias.symlink_to(line.path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, line.path, str(tmp_path / "other.log")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Refused) as caught, watch(str(alias)):
        pass
    message = str(caught.value)
    assert re.fullmatch(
        rf"bench: its console \S+ is in use by run 7 \(pid {holder.pid}, \S+, since [\d:.TZ-]+\); end that first",
        message,
    )
    holder.kill()  # no chance to tidy up
    holder.communicate()
    with watch(str(alias)):
        pass


HOLD = """
import sys
from pathlib import Path
from harness.targets.console.watch import ConsoleWatch
from harness.targets.target import Console
with ConsoleWatch("other", Console(sys.argv[1]), Path(sys.argv[2]), purpose="run 7"):
    print("held", flush=True)
    sys.stdin.read()
"""


TAKE = """
import serial, sys
taken = serial.Serial(sys.argv[1], exclusive=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_program_on_the_device_is_named(line: Line, watch: Watch) -> None:
    other = subprocess.Popen([sys.executable, "-c", TAKE, line.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        with (
            pytest.raises(Refused, match=rf"in use by .*python\S* \(pid {other.pid}\).*; end it first"),
            watch(line.path),
        ):
            pass
    finally:
        other.kill()
        other.communicate()


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("/dev/ttyNONE0", Unreachable, "does not exist; plug the adapter in"),
        ("socket://127.0.0.1:1", Unreachable, r"cannot be opened \(.*refused.*\); check `console: url`"),
        ("spy:///dev/tty0", UserError, "unknown way 'spy://'; write a device's path, or one of rfc2217://, socket://"),
        ("COM3", UserError, "neither a path such as /dev/ttyUSB0 nor a URL"),
        ("socket://nowhere", UserError, "no host and port in it; write socket://HOST:PORT"),
        ("rfc2217://h:http", UserError, "no host and port in it"),
    ],
)
def test_consoles_that_cannot_be(url: str, kind: type[Exception], said: str, watch: Watch) -> None:
    with pytest.raises(kind, match=said) as caught, watch(url):
        pass
    assert "\n" not in str(caught.value)


def test_a_lab_file_with_consoles_does_not_load_pyserial(tmp_path: Path) -> None:
    program = "import sys, json, harness.targets.lab as l; print(json.dumps('serial' in sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) is False
