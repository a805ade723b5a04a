"""Each tool's own way: real monitors and programs where they are installed, else stand-ins that behave as they do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from harness.errors import BoardError, Refused, TimedOut, Unreachable, UserError
from harness.targets.power.control import PowerControl
from harness.targets.power.uhubctl import read_listing
from harness.targets.power.values import PowerState
from tests.harness.targets.power.conftest import MakePower, MakeProgram
from tests.harness.targets.power.pdu import Pdu

# -- labgrid ----------------------------------------------------------------------------------------------------------

LABGRID = """
import os, sys
arguments = sys.argv[1:]
if {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} & set(os.environ):
    sys.exit("environment of another Python")
if arguments[:2] == ["-x", "lab:20408"]:
    arguments = arguments[2:]
flag, place, command, action = arguments
assert (flag, command) == ("-p", "power")
if place == "free":
    sys.exit("labgrid-client: error: place free is not acquired")
if place == "blind" and action == "get":
    sys.exit("NotImplementedError")
state = "state-" + place
if action == "get":
    print(f"power for place {place} is {open(state).read()}")
else:
    assert action in {"on", "off", "cycle"}
    open(state, "w").write("on" if action == "cycle" else action)
"""


def test_labgrid(power: MakePower, program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    program("labgrid-client", LABGRID)
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    control = power("{labgrid: {place: rpi5, coordinator: 'lab:20408'}}")
    for action, state in ((control.off, "off"), (control.on, "on"), (control.off, "off"), (control.cycle, "on")):
        action()
        assert control.status().state == state
    assert control.status().detail == "power for place rpi5 is on"
    assert power("{labgrid: blind}").status().state is PowerState.UNKNOWN
    with pytest.raises(BoardError, match=r"place free is not ours \(.*\); acquire it: labgrid-client -p free acquire"):
        power("{labgrid: free}").cycle()


def test_labgrid_that_is_not_installed(power: MakePower) -> None:
    with pytest.raises(
        UserError, match=r"no program labgrid-client on this host; install labgrid in an environment of"
    ):
        power("{labgrid: {place: a, client: /nowhere/labgrid-client}}").on()


# -- uhubctl ----------------------------------------------------------------------------------------------------------

HUB = """\
Current status for hub 2-1 [2109:0817 VIA Labs, Inc. USB3.0 Hub, USB 3.20, 4 ports, ppps]
  Port 2: 02a0 power 5gbps Rx.Detect
Current status for hub 1-1 [2109:2817 VIA Labs, Inc. USB2.0 Hub, USB 2.10, 4 ports, ppps]
  Port 1: 0103 power enable connect [303a:1001 Espressif power of USB JTAG]
  Port 2: {now}
"""
UHUBCTL = f"""
import sys
arguments = sys.argv[1:]
assert arguments[:4] == ["-l", "1-1", "-p", "2"]
try:
    now = open("port").read()
except OSError:
    now = "0503 power highspeed enable connect [0bda:5411 Board]"
listing = '''{HUB}'''
print(listing.replace("{{now}}", now), end="")
if arguments[4:]:
    flag, action = arguments[4:]
    assert flag == "-a"
    now = {{"off": "0000 off", "on": "0100 power"}}[action]
    open("port", "w").write(now)
    print("Sent power", action, "request")
    print(listing.replace("Current", "New").replace("{{now}}", now), end="")
"""


def test_uhubctl(power: MakePower, program: MakeProgram) -> None:
    program("uhubctl", UHUBCTL)
    control = power("{uhubctl: {location: 1-1, port: 2}, wait_s: 0}")
    assert control.status().state is PowerState.ON
    assert "Sent power off request" in control.off()
    assert control.status().state is PowerState.OFF
    control.cycle()
    assert control.status().state is PowerState.ON


@pytest.mark.parametrize(
    ("hub", "port", "now", "state"),
    [
        ("1-1", 2, "0100 power", PowerState.ON),
        ("1-1", 2, "0000 off", PowerState.OFF),
        ("1-1", 2, "0000 off [1234:5678 high power camera]", PowerState.OFF),
        ("1-1", 1, "0000 off", PowerState.ON),
        ("2-1", 2, "0000 off", PowerState.ON),
        ("1-1", 3, "0100 power", PowerState.UNKNOWN),
        ("1-2", 2, "0100 power", PowerState.UNKNOWN),
    ],
)
def test_reading_a_hub(hub: str, port: int, now: str, state: PowerState) -> None:
    assert read_listing(HUB.format(now=now), hub, port).state is state


@pytest.mark.skipif(shutil.which("uhubctl") is None, reason="no uhubctl: apt install uhubctl")
def test_the_real_uhubctl_without_such_a_hub(power: MakePower) -> None:
    with pytest.raises(BoardError, match=r"pi: power: uhubctl failed \(exit status 1\): .*; run it by hand to see why"):
        power("{uhubctl: {location: 1-1, port: 2}}").off()


# -- SNMP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pdu() -> Iterator[Pdu]:
    with Pdu("1.3.6.1.4.1.318.1.1.12.3.3.1.1.4.7", community="private7") as made:
        yield made


@pytest.mark.skipif(shutil.which("snmpset") is None, reason="no net-snmp: apt install snmp")
def test_a_pdu_over_snmp(power: MakePower, pdu: Pdu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTRIG_SNMP_COMMUNITY", "private7")
    control = power(f"{{snmp: {{host: '{pdu.address}', outlet: 7}}, wait_s: 0}}")
    control.off()
    assert pdu.value == 2
    assert control.status().state is PowerState.OFF
    control.cycle()
    assert pdu.value == 1
    assert pdu.written == [2, 2, 1]
    assert control.status().state is PowerState.ON
    pdu.value = 4
    assert control.status().state is PowerState.UNKNOWN
    assert "private7" not in (tmp_path / "power.log").read_text()


SNMPSET = """
import os, sys
folder = os.environ["SNMPCONFPATH"]
open("seen", "w").write(repr(sys.argv))
print(open(folder + "/snmp.conf").read(), oct(os.stat(folder).st_mode))
"""


def test_the_community_is_on_no_command_line(
    power: MakePower, program: MakeProgram, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program("snmpset", SNMPSET)
    monkeypatch.setenv("QUANTRIG_SNMP_COMMUNITY", "secret-community")
    said = power("{snmp: {host: pdu, outlet: 1}}").on()
    assert "defCommunity ***" in said
    assert "0o40700" in said
    assert "secret" not in (tmp_path / "seen").read_text()


def test_wrong_snmp(power: MakePower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTRIG_SNMP_COMMUNITY", raising=False)
    with pytest.raises(UserError, match=r"QUANTRIG_SNMP_COMMUNITY is not set; export the PDU's write community"):
        power("{snmp: {host: pdu, outlet: 1}}").on()
    monkeypatch.setenv("QUANTRIG_SNMP_COMMUNITY", "a\nb")
    with pytest.raises(UserError, match=r"that snmp.conf cannot carry"):
        power("{snmp: {host: pdu, outlet: 1}}").on()
    with pytest.raises(UserError, match=r"unknown PDU model 'apc-rpd'; did you mean 'apc-rpdu'"):
        power("{snmp: {host: pdu, outlet: 1, model: apc-rpd}}")


# -- Tasmota ----------------------------------------------------------------------------------------------------------


class Plug(HTTPServer):
    """Tasmota's web requests: one or several relays, a password or none."""

    def __init__(self, *, password: str | None = None, names: tuple[str, ...] = ("POWER",)) -> None:
        super().__init__(("127.0.0.1", 0), _PlugHandler)
        self.password = password
        self.relays = dict.fromkeys(names, "OFF")
        self.stuck = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _PlugHandler(BaseHTTPRequestHandler):
    server: Plug

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        plug = self.server
        answer: dict[str, str]
        if plug.password is not None and (query.get("user"), query.get("password")) != ("admin", plug.password):
            answer = {"WARNING": "Need user=<username>&password=<password>"}
        else:
            command, _, value = query["cmnd"].partition(" ")
            name = command.upper()
            if name not in plug.relays:  # the first relay is POWER where it is alone, else POWER1
                name = next(iter(plug.relays)) if name in {"POWER", "POWER1"} else ""
            if not name:
                answer = {"Command": "Unknown"}
            else:
                if value and not plug.stuck:
                    plug.relays[name] = value
                answer = {name: plug.relays[name]}
        body = json.dumps(answer).encode()
        self.send_response(200 if address.path == "/cm" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


MakePlug = Callable[..., Plug]


@pytest.fixture
def plug() -> Iterator[MakePlug]:
    made: list[Plug] = []

    def make(**more: object) -> Plug:
        server = Plug(**more)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        made.append(server)
        return server

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


def test_a_plug_with_one_relay(power: MakePower, plug: MakePlug) -> None:
    device = plug()
    control = power(f"{{tasmota: {{url: '{device.url}'}}, wait_s: 0}}")
    assert control.status().state is PowerState.OFF
    control.cycle()
    assert device.relays == {"POWER": "ON"}
    assert control.status().state is PowerState.ON
    assert power(f"{{tasmota: {{url: '{device.url}', output: 1}}}}").status().state is PowerState.ON


def test_one_of_several_relays(power: MakePower, plug: MakePlug) -> None:
    device = plug(names=("POWER1", "POWER2"))
    power(f"{{tasmota: {{url: '{device.url}', output: 2}}}}").on()
    assert device.relays == {"POWER1": "OFF", "POWER2": "ON"}
    assert power(f"{{tasmota: {{url: '{device.url}', output: 3}}}}").status().state is PowerState.UNKNOWN
    with pytest.raises(BoardError, match=r"the plug did not switch on, it says: .*Unknown"):
        power(f"{{tasmota: {{url: '{device.url}', output: 3}}}}").on()


def test_a_relay_that_sticks_is_not_believed(power: MakePower, plug: MakePlug) -> None:
    device = plug()
    device.stuck = True
    with pytest.raises(BoardError, match=r"pi: power: the plug did not switch on, it says: .*OFF"):
        power(f"{{tasmota: {{url: '{device.url}'}}}}").on()


def test_a_password_comes_from_the_environment(
    power: MakePower, plug: MakePlug, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = plug(password="s&cret 1")
    control = power(f"{{tasmota: {{url: '{device.url}'}}}}")
    monkeypatch.delenv("QUANTRIG_TASMOTA_PASSWORD", raising=False)
    with pytest.raises(Refused, match=r"wants a password; export QUANTRIG_TASMOTA_PASSWORD"):
        control.on()
    monkeypatch.setenv("QUANTRIG_TASMOTA_PASSWORD", "s&cret 1")
    control.on()
    assert device.relays == {"POWER": "ON"}
    assert "cret" not in (tmp_path / "power.log").read_text()


def test_plugs_that_are_not_there_or_hang_or_are_something_else(power: MakePower, plug: MakePlug) -> None:
    with pytest.raises(Unreachable, match=r"pi: power: 127.0.0.1 cannot be reached \(.*refused.*\); check `url`"):
        power("{tasmota: {url: 'http://127.0.0.1:1'}}").on()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        with pytest.raises(TimedOut, match=r"did not answer within 0 s"):
            power(f"{{tasmota: {{url: 'http://127.0.0.1:{port}'}}, timeout_s: 0.2}}").status()
    with pytest.raises(BoardError, match=r"answered 404 Not Found; is it Tasmota"):
        power(f"{{tasmota: {{url: '{plug().url}/other'}}}}").on()


# -- QMP --------------------------------------------------------------------------------------------------------------

needs_qmp = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import qemu.qmp"], capture_output=True, check=False).returncode != 0,
    reason="no qemu.qmp: pip install 'quantrig[qmp]'",
)


GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


class Monitor:
    """QEMU's monitor as far as power needs it (docs/interop/qmp-spec): greeting, negotiation, run states."""

    def __init__(self, path: Path) -> None:
        self.state = "running"
        self.heard: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._say(connection, GREETING)
                for request in self._requests(connection):
                    self.heard.append(request["execute"])
                    answer: dict[str, object] = {"return": self._obey(request["execute"])}
                    self._say(connection, answer | {name: request[name] for name in ("id",) if name in request})

    @staticmethod
    def _requests(connection: socket.socket) -> Iterator[dict[str, str]]:
        """JSON values one after the other, with or without blanks between them."""
        pending = ""
        while data := connection.recv(4096):
            pending += data.decode()
            while pending := pending.lstrip():
                try:
                    request, end = json.JSONDecoder().raw_decode(pending)
                except ValueError:
                    break
                pending = pending[end:]
                yield request

    @staticmethod
    def _say(connection: socket.socket, answer: object) -> None:
        connection.sendall(json.dumps(answer).encode() + b"\r\n")

    def _obey(self, command: str) -> dict[str, object]:
        if command == "stop":
            self.state = "paused"
        elif command == "system_reset":
            self.state = "prelaunch"
        elif command == "cont":
            self.state = "running"
        elif command == "query-status":
            return {"status": self.state, "running": self.state == "running"}
        return {}

    def close(self) -> None:
        self._listener.close()


@needs_qmp
def test_a_machine_that_panicked_is_reset_before_it_goes_on(power: MakePower, tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "q.sock")
    control = power("{qmp: q.sock, wait_s: 0}")
    monitor.state = "guest-panicked"
    assert control.status().state is PowerState.ON
    control.on()
    assert [word for word in monitor.heard if word != "qmp_capabilities"] == [
        "query-status", "query-status", "system_reset", "cont",
    ]  # fmt: skip
    monitor.state = "colo"
    assert control.status().state is PowerState.UNKNOWN
    monitor.close()


@needs_qmp
def test_a_monitor_that_is_held_by_another_program(power: MakePower, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "q.sock"))
        silent.listen()
        with pytest.raises(
            TimedOut, match=r"the monitor q.sock did not answer within 0 s; another program may hold it"
        ):
            power("{qmp: q.sock, timeout_s: 0.3}").status()
    with pytest.raises(Unreachable, match=r"no monitor answers at none.sock"):
        power("{qmp: none.sock}").on()


def _answers(control: PowerControl) -> bool:
    try:
        control.status()
    except Unreachable:  # the socket is not there yet, or nobody listens on it yet
        return False
    return True


@needs_qmp
@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="no qemu-system-aarch64")
def test_a_real_machine(power: MakePower, tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    machine = subprocess.Popen(
        ["qemu-system-aarch64", "-M", "virt", "-nodefaults", "-display", "none", "-m", "64",
         "-qmp", f"unix:{path},server=on,wait=off"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        control = power("{qmp: q.sock, wait_s: 0.1}")
        while not _answers(control):
            assert machine.poll() is None
            threading.Event().wait(0.01)
        assert control.status().state is PowerState.ON
        control.off()
        assert control.status().state is PowerState.OFF
        control.on()
        assert control.status().state is PowerState.ON
        control.cycle()
        assert control.status().state is PowerState.ON
    finally:
        machine.kill()
        machine.wait()
    with pytest.raises(Unreachable, match=r"no monitor answers at q.sock"):
        control.status()


# -- plug-ins ---------------------------------------------------------------------------------------------------------

PLUGIN = """
from harness.targets.power.values import Action, PowerState, PowerStatus

class Lamp:
    abilities = frozenset({Action.ON, Action.STATUS})
    def __init__(self, context):
        self.color = context.power.options["color"]
    def switch(self, action, timeout_s):
        return f"{self.color} {action} within {timeout_s:.0f} s"
    def status(self, timeout_s):
        return PowerStatus(PowerState.ON, self.color)
"""


def test_an_installed_package_brings_a_way(power: MakePower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "lamp_power-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamp-power\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantrig.power]\nlamp = lamp_power:Lamp\n")
    (info.parent / "lamp_power.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(info.parent))
    control = power("{tool: lamp, options: {color: green}, timeout_s: 9}")
    assert control.on() == "green on within 9 s"
    assert control.status().detail == "green"
    assert not control.can_cycle
    with pytest.raises(UserError, match=r"pi: power: no tool 'lmp' is installed; did you mean 'lamp'"):
        power("{tool: lmp}")


def test_the_log_in_the_state_folder_is_private(program: MakeProgram, state_home: Path, tmp_path: Path) -> None:
    from harness.targets.lab import parse_lab
    from harness.targets.power.control import open_power

    text = "targets: {pi: {board: generic, via: local, power: {on: echo on}}}"
    open_power(parse_lab(text, tmp_path / "t.yaml").targets["pi"]).on()
    log = state_home / "quantrig/power/pi.log"
    assert re.search(r"Z pi on: done .*\n\S+Z   on\n$", log.read_text())
    assert log.stat().st_mode & 0o777 == 0o600
    assert os.stat(log.parent).st_mode & 0o777 == 0o700
