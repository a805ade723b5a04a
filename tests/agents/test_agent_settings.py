"""A board's settings: set for a call, given back whatever ends it. Real agents and hosts, really killed."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from agents.boards import find_board
from agents.boards.sources import Sources
from agents.faults import AgentError
from agents.protocol import agent_pb2 as pb
from agents.settings import Lease, SettingsDesk, State, knobs_of
from agents.settings_calls import asked_of
from agents.settings_clocks import GpuClocks, JetsonClocks
from agents.settings_file import SettingsFile
from agents.settings_knobs import CannotSet, NvpModel, Privileged
from tests.agents.conftest import ROOT, AgentProcess, StartAgent, failure, wait_for
from tests.agents.settings_boards import CPU, GPU, SettableBoard, add_sudo, gpu_machine, jetson, linux

ALL = pb.BoardSettings(power_mode="MAXN_SUPER", lock_clocks=True, governor="performance")
#: A host as a process of its own: it holds, says so, and waits to be killed.
HOST = """
import sys, threading, grpc
from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentStub
def requests():
    yield pb.HoldRequest(settings=pb.BoardSettings(power_mode="MAXN_SUPER", lock_clocks=True, governor="performance"))
    threading.Event().wait()
for event in AgentStub(grpc.insecure_channel(sys.argv[1])).HoldSettings(requests()):
    print(event.WhichOneof("event"), flush=True)
"""


class Hold:
    """One call that holds settings, and its other end."""

    def __init__(self, agent: AgentProcess, settings: pb.BoardSettings) -> None:
        self._requests: queue.SimpleQueue[pb.HoldRequest | None] = queue.SimpleQueue()
        self._requests.put(pb.HoldRequest(settings=settings))
        self.call = agent.stub.HoldSettings(iter(self._requests.get, None), timeout=60)
        self._events = iter(self.call)

    def held(self) -> dict[str, pb.SettingState]:
        event = next(self._events)
        assert event.WhichOneof("event") == "held"
        return {one.name: one for one in event.held.settings}

    def end(self) -> dict[str, pb.SettingState]:
        self._requests.put(None)
        event = next(self._events)
        assert event.WhichOneof("event") == "given_back"
        assert next(self._events, None) is None
        return {one.name: one for one in event.given_back.settings}

    def close(self) -> None:
        self._requests.put(None)
        self.call.cancel()


@contextmanager
def holding(agent: AgentProcess, settings: pb.BoardSettings = ALL) -> Iterator[Hold]:
    hold = Hold(agent, settings)
    try:
        yield hold
    finally:
        hold.close()


@pytest.fixture
def orin(tmp_path: Path) -> SettableBoard:
    return jetson(tmp_path / "board")


def serve(start_agent: StartAgent, board: SettableBoard, kind: str = "jetson-orin-nano") -> AgentProcess:
    root = str(board.root)
    return start_agent("--board", kind, "--board-root", root, data_dir=board.root.parent / "data")


def test_set_read_back_and_given_back(orin: SettableBoard, start_agent: StartAgent) -> None:
    before = orin.state()
    agent = serve(start_agent, orin)
    with holding(agent) as hold:
        held = hold.held()
        assert {name: (one.asked, one.before, one.now, one.problem) for name, one in held.items()} == {
            "power_mode": ("MAXN_SUPER", "15W", "MAXN_SUPER", ""),
            "governor": ("performance", "schedutil", "performance", ""),
            "lock_clocks": ("yes", "no", "yes", ""),
        }
        # What the kernel has now, not what the agent says: the mode's own highest clock, and no range left.
        seen = orin.state()
        assert seen["var/lib/nvpmodel/status"] == "pmode:0002\n"
        assert seen[f"{CPU.format(1)}/scaling_min_freq"] == seen[f"{CPU.format(1)}/scaling_max_freq"] == "1984000\n"
        assert seen[f"{CPU.format(0)}/scaling_governor"].strip() == "performance"
        assert seen[f"{GPU}/min_freq"] == "918000000\n"
        details = agent.stub.Describe(pb.DescribeRequest(), timeout=60).details
        assert details["clocks_locked"] == "yes"
        assert "MAXN_SUPER" in details["settings_held"]
        given_back = hold.end()
    assert {name: (one.now, one.problem) for name, one in given_back.items()} == {
        "power_mode": ("15W", ""),
        "governor": ("schedutil", ""),
        "lock_clocks": ("no", ""),
    }
    assert stripped(orin.state()) == stripped(before)
    assert not (agent.data_dir / "board-settings.json").exists()


def stripped(state: dict[str, str]) -> dict[str, str]:
    """The kernel ends what it shows with a newline, whatever was written."""
    return {name: text.strip() for name, text in state.items()}


def test_nothing_changes_before_what_was_is_on_the_disk(orin: SettableBoard, start_agent: StartAgent) -> None:
    agent = serve(start_agent, orin)
    with holding(agent) as hold:
        hold.held()
        hold.end()
    changing = [line for line in orin.called() if line.startswith(("nvpmodel -m", "jetson_clocks ["))]
    assert len(changing) >= 3
    assert all(line.endswith("[kept]") for line in changing)


def test_a_host_that_is_killed_gives_back(orin: SettableBoard, start_agent: StartAgent) -> None:
    before = stripped(orin.state())
    agent = serve(start_agent, orin)
    host = subprocess.Popen([sys.executable, "-c", HOST, agent.address], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == "held\n"
        assert stripped(orin.state()) != before
    finally:
        host.send_signal(signal.SIGKILL)
        host.wait()
    wait_for(lambda: stripped(orin.state()) == before or None, "the board as it was")
    with holding(agent) as hold:  # and the next one may
        assert not any(one.problem for one in hold.held().values())


def test_an_agent_that_is_killed_gives_back_when_it_starts_again(orin: SettableBoard, start_agent: StartAgent) -> None:
    before = stripped(orin.state())
    agent = serve(start_agent, orin)
    with holding(agent) as hold:
        hold.held()
        agent.kill()
    assert stripped(orin.state()) != before
    again = serve(start_agent, orin)  # it serves: by then everything is given back
    assert stripped(orin.state()) == before
    assert "gave back power_mode of an agent that was killed" in again.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["nvpmodel -m 2", "jetson_clocks"])
def test_killed_in_the_middle_of_setting(orin: SettableBoard, start_agent: StartAgent, tool: str) -> None:
    """The tool itself kills the agent, then does its work: the worst moment there is."""
    before = stripped(orin.state())
    agent = serve(start_agent, orin)
    orin.put("die", tool)
    with holding(agent) as hold, pytest.raises(grpc.RpcError):
        hold.held()
    agent.process.wait(60)
    wait_for(lambda: stripped(orin.state()) != before or None, "the tool's work")
    serve(start_agent, orin)
    assert stripped(orin.state()) == before


@pytest.mark.slow
def test_host_and_agent_killed_together(orin: SettableBoard, start_agent: StartAgent) -> None:
    before = stripped(orin.state())
    agent = serve(start_agent, orin)
    host = subprocess.Popen([sys.executable, "-c", HOST, agent.address], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    assert host.stdout.readline() == "held\n"
    agent.kill()
    host.kill()
    host.wait()
    serve(start_agent, orin)
    assert stripped(orin.state()) == before


@pytest.mark.slow
def test_an_agent_that_is_stopped_gives_back_first(orin: SettableBoard, start_agent: StartAgent) -> None:
    before = stripped(orin.state())
    agent = serve(start_agent, orin)
    with holding(agent) as hold:
        hold.held()
        agent.process.terminate()
        assert agent.process.wait(60) == 0
    assert stripped(orin.state()) == before


def test_one_holder_at_a_time(orin: SettableBoard, start_agent: StartAgent) -> None:
    agent = serve(start_agent, orin)
    with holding(agent) as first:
        first.held()
        with holding(agent) as second:
            code, text = failure(second.held)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "another host holds the board's settings" in text
        first.end()
    with holding(agent) as third:
        assert not any(one.problem for one in third.held().values())


def test_a_stand_in_has_no_settings(start_agent: StartAgent, orin: SettableBoard) -> None:
    agent = start_agent("--emulated", "--board", "jetson-orin-nano", "--board-root", str(orin.root))
    with holding(agent) as hold:
        assert failure(hold.held)[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert "settable" not in agent.stub.Describe(pb.DescribeRequest(), timeout=60).details


def desk_of(board: SettableBoard, kind: str = "jetson-orin-nano") -> SettingsDesk:
    """What a served call reaches, without the server; another one on the same folder is the agent's next start."""
    folder = board.root.parent / "data"
    folder.mkdir(exist_ok=True)
    sources = Sources(board.root)
    file = SettingsFile(folder / "board-settings.json")
    return SettingsDesk(find_board(kind, sources), knobs_of(kind, sources, folder), file)


def held_by(desk: SettingsDesk, lease: Lease, **asked: str) -> dict[str, State]:
    return {state.name: state for state in desk.hold(lease, asked)}


def test_what_is_not_permitted_stays_and_says_what_to_do(orin: SettableBoard) -> None:
    before = stripped(orin.state())
    orin.put("denied", "")
    desk, lease = desk_of(orin), Lease()
    held = held_by(desk, lease, power_mode="MAXN_SUPER", lock_clocks="yes")
    assert "nvpmodel did not set it" in held["power_mode"].problem
    assert "Run this script" in held["lock_clocks"].problem
    assert stripped(orin.state()) == before
    assert (held["power_mode"].now, held["lock_clocks"].now) == ("15W", "no")
    desk.give_back(lease)
    assert stripped(orin.state()) == before


def test_a_mode_that_needs_a_reboot_is_named_and_the_rest_is_set(orin: SettableBoard) -> None:
    before = stripped(orin.state())
    desk, lease = desk_of(orin), Lease()
    held = held_by(desk, lease, power_mode="7W", governor="performance")
    assert "needs a reboot" in held["power_mode"].problem
    assert "sudo nvpmodel -m 3" in held["power_mode"].problem
    assert (held["governor"].now, held["governor"].problem) == ("performance", "")
    desk.give_back(lease)
    assert stripped(orin.state()) == before


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("power_mode", "TURBO", "15W (0), 25W (1), MAXN_SUPER (2), 7W (3)"),
        ("power_mode", "2; reboot", "no mode '2; reboot'"),
        ("power_mode", "-1", "no mode '-1'"),
        ("governor", "../x", "performance, powersave, schedutil"),
        ("bitstream", "x", "no such setting"),
    ],
)
def test_only_what_the_board_offers(orin: SettableBoard, name: str, value: str, words: str) -> None:
    before = orin.state()
    desk, lease = desk_of(orin), Lease()
    assert words in held_by(desk, lease, **{name: value})[name].problem
    desk.give_back(lease)
    assert orin.state() == before
    assert not [line for line in orin.called() if line.startswith("nvpmodel -m")]


def test_what_could_not_be_given_back_is_tried_again_and_stays_what_was_before(orin: SettableBoard) -> None:
    before = stripped(orin.state())
    desk, lease = desk_of(orin), Lease()
    held_by(desk, lease, power_mode="MAXN_SUPER", lock_clocks="yes")
    orin.put("denied", "")  # permission is taken away in the middle of the run
    problems = [state.problem for state in desk.give_back(lease)]
    assert len(problems) == 2
    assert all("not as it was before" in problem for problem in problems)
    assert "power_mode" in desk.details()["settings_left"]
    (orin.root / "denied").unlink()
    second = desk_of(orin)
    lease = Lease()
    second.recover()
    assert stripped(orin.state()) == before
    assert "settings_left" not in second.details()


def test_after_a_power_cut_only_what_a_reboot_keeps_is_given_back(orin: SettableBoard) -> None:
    held_by(desk_of(orin), Lease(), power_mode="MAXN_SUPER", lock_clocks="yes", governor="performance")
    # The board boots: the kernel's values are fresh, those of the mode that nvpmodel kept; somebody likes powersave.
    orin.boot("boot-2")
    orin.cores("powersave", 1_984_000)
    orin.put(f"{GPU}/min_freq", "306000000\n")
    done = len(orin.called())
    desk_of(orin).recover()
    assert stripped(orin.state())["var/lib/nvpmodel/status"] == "pmode:0000"
    assert not [line for line in orin.called()[done:] if line.startswith("jetson_clocks --restore")]
    assert not (orin.root.parent / "data" / "board-settings.json").exists()


def test_a_lease_that_ended_early_sets_nothing(orin: SettableBoard) -> None:
    before = orin.state()
    desk, lease = desk_of(orin), Lease()
    assert desk.give_back(lease) == []
    with pytest.raises(AgentError):
        desk.hold(lease, {"governor": "performance"})
    assert orin.state() == before


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"before": 3}', '{"before": {"governor": {"etc/passwd": "x"}}}'),
        '{"before": {"governor": {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "\\u00e9"}}}',
    ],
)
def test_a_damaged_file_does_not_stop_an_agent(orin: SettableBoard, text: str) -> None:
    before = orin.state()
    desk_of(orin)
    (orin.root.parent / "data" / "board-settings.json").write_text(text)
    orin.put("etc/passwd", "root")
    desk = desk_of(orin)
    desk.recover()
    assert orin.state() == before
    assert (orin.root / "etc/passwd").read_text() == "root"  # no path of the file is ever written to
    assert not held_by(desk, Lease(), governor="performance")["governor"].problem


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (pb.BoardSettings(), "no setting is asked for"),
        (pb.BoardSettings(lock_clocks=False), "asks for nothing"),
        (pb.BoardSettings.FromString(bytes([9 << 3 | 2, 6]) + b"reboot"), "a field that this agent does not know"),
    ],
)
def test_what_is_no_setting_is_refused(settings: pb.BoardSettings, words: str) -> None:
    with pytest.raises(AgentError, match=words):
        asked_of(iter([pb.HoldRequest(settings=settings)]))


@pytest.mark.parametrize("value", ["", "x" * 65, "a\nb", "\x1b[31m"])
def test_what_is_no_value_is_refused(orin: SettableBoard, value: str) -> None:
    with pytest.raises(AgentError, match="is no value of a setting"):
        desk_of(orin).hold(Lease(), {"governor": value})


@pytest.mark.parametrize("kind", ["generic", "raspberry-pi-5", "zcu104"])
def test_any_linux_by_cpufreq(tmp_path: Path, kind: str) -> None:
    board = linux(tmp_path / "board")
    before = stripped(board.state())
    held = held_by(desk_of(board, kind), Lease(), power_mode="MAXN", lock_clocks="yes", governor="performance")
    assert held["power_mode"].problem.startswith("this board has no such setting")
    assert (held["lock_clocks"].now, held["governor"].now) == ("yes", "performance")
    assert stripped(board.state())[f"{CPU.format(1)}/scaling_min_freq"] == "2400000"
    desk_of(board, kind).recover()
    assert stripped(board.state()) == before


def test_a_gpu_is_locked_at_its_base_clock_and_freed(tmp_path: Path) -> None:
    board = gpu_machine(tmp_path / "board")
    before = stripped(board.state())
    desk, lease = desk_of(board, "nvidia-gpu"), Lease()
    assert held_by(desk, lease, lock_clocks="yes")["lock_clocks"].now == "yes"
    assert board.state()["gpu-state"] == "persistence=Enabled\nlocked=tdp\n"
    assert [state.problem for state in desk.give_back(lease)] == [""]
    assert stripped(board.state()) == before
    board.put("no-lock", "")  # a card that cannot: nvidia-smi says so with exit status 0
    lease = Lease()
    said = held_by(desk, lease, lock_clocks="yes")["lock_clocks"].problem
    assert "Setting locked GPU clocks is not supported" in said
    desk.give_back(lease)
    assert stripped(board.state()) == before


class TestAnotherUserThanRoot:
    """The same tools through sudo, whose rules decide: here with rules, and without."""

    def test_with_rules(self, orin: SettableBoard, tmp_path: Path) -> None:
        orin.put("denied", "")
        store = tmp_path / "store"
        add_sudo(orin, "nvpmodel -m 2", "jetson_clocks", f"jetson_clocks --store {store}")
        tools = Privileged(Sources(orin.root), euid=1000)
        mode = NvpModel(tools)
        assert mode.set(mode.choose("MAXN_SUPER")) == "MAXN_SUPER"
        clocks = JetsonClocks(tools, store)
        clocks.snapshot()
        assert clocks.set("yes") == "yes"

    def test_without(self, orin: SettableBoard, tmp_path: Path) -> None:
        before = orin.state()
        orin.put("denied", "")
        add_sudo(orin)
        tools = Privileged(Sources(orin.root), euid=0x7FFF_FFFE)
        with pytest.raises(CannotSet, match=r"ALL=\(root\) NOPASSWD: \S+/usr/sbin/nvpmodel -m \[0-9\]"):
            NvpModel(tools).set("2")
        with pytest.raises(CannotSet, match=r"a password is required.*NOPASSWD: .*jetson_clocks --store"):
            JetsonClocks(tools, tmp_path / "store").snapshot()
        assert orin.state() == before

    def test_a_gpu_without_rules(self, tmp_path: Path) -> None:
        board = gpu_machine(tmp_path / "board")
        board.put("denied", "")
        with pytest.raises(CannotSet, match=r"does not have permission to change clocks.*-lgc tdp"):
            GpuClocks(Privileged(Sources(board.root), euid=1000)).set("yes")
