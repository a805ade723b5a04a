"""A real agent of a board whose files and tools change while its blocks run: exactly those pairs are rejected.

The truth is the test's own: it knows before which pair it slowed the board down, and after which it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from harness.judge.rejected import rejected_pairs
from harness.quantize.graph import sha256_of
from harness.record.figure import Network
from harness.record.timing import BlockRecord, IdleWindow, TelemetryRecord
from harness.runs.block_watch import BlockWatch, TelemetryStream
from harness.runs.interrupt import Interrupted
from harness.runs.profile import Profile
from harness.runs.timing import Timing
from harness.targets.client import AgentClient
from harness.targets.errors_map import CallCancelled
from harness.targets.values import TimedBlock
from tests.agents.boards.conftest import Tree
from tests.agents.boards.test_jetson_board import FILES as JETSON
from tests.agents.boards.test_jetson_board import GPU, OC, RAIL
from tests.agents.boards.test_nvidia_board import smi
from tests.agents.boards.test_pi_board import ADC, vcgencmd
from tests.agents.boards.test_pi_board import FILES as PI
from tests.e2e.whole_run import tiny_network

F, Q = Network.FLOAT, Network.QUANTIZED
CPU_CLOCK = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
ZONE = "sys/class/thermal/thermal_zone0/temp"
#: Warm-up long enough for a steady clock at ten samples a second; blocks long enough for a reading or two.
PROFILE = Profile("test", 0.15, 30, 6, 8, 1.0, 1.0, 1.2, 0.2, 0.5)
Change = Callable[[], None]


class Meddling(AgentClient):
    """The host's own client; between a pair's beginning and its first block the test changes the board."""

    before_block: Change = staticmethod(lambda: None)
    inside_block: Change | None = None
    happened_s: float = 0.0

    def time_block(
        self, network_id: str, *, min_iterations: int, min_duration_s: float, max_iterations: int = 100_000
    ) -> TimedBlock:
        self.before_block()
        change, self.inside_block = self.inside_block, None
        timer = threading.Timer(min_duration_s / 2, self._happen, (change,)) if change is not None else None
        if timer is not None:
            timer.start()
        timed = super().time_block(
            network_id, min_iterations=min_iterations, min_duration_s=min_duration_s, max_iterations=max_iterations
        )
        if timer is not None:
            timer.join()
        return timed

    def _happen(self, change: Change) -> None:
        change()
        self.happened_s = time.time()


@dataclass
class Lab:
    """One agent, two loaded networks, and what a run on it leaves."""

    client: Meddling
    networks: Mapping[Network, str]
    stop: threading.Event
    said: list[str] = field(default_factory=list)
    kept: list[TelemetryRecord] = field(default_factory=list)
    missed: set[int] = field(default_factory=set)

    def watch(self, *, on_cpu: bool = True) -> BlockWatch:
        both = dict.fromkeys((F, Q), on_cpu)
        return BlockWatch(self.client, both, self.stop, interval_s=0.1, say=self.said.append, keep=self.kept.extend)

    def run(
        self,
        pairs: int,
        during: Mapping[int, Change],
        after: Mapping[int, Change] | None = None,
        *,
        inside: Mapping[int, Change] | None = None,
        on_cpu: bool = True,
        warm: bool = False,
    ) -> list[BlockRecord]:
        """Time pairs; `during[k]` changes the board as pair k begins, `after[k]` when it is over.

        After the latter a sample is waited for: none that was half taken before falls into the next pair. `inside[k]`
        is an event at one moment, half a block after the pair's first one was asked for; on a machine whose cores are
        all taken that moment may lie before the block: then it is none of the pair's, and `missed` names the pair.
        """
        blocks: list[BlockRecord] = []
        self.missed.clear()
        with self.watch(on_cpu=on_cpu) as watch:
            timing = Timing(
                self.client, self.networks, PROFILE, self.stop, lambda _: None, lambda *_: None, watch=watch
            )
            for network in self.networks if warm else ():
                timing.warm_up(network)
            for pair in range(pairs):
                self.client.before_block = during.get(pair, lambda: None)
                self.client.inside_block = (inside or {}).get(pair)
                halves = timing._pair(pair)
                blocks += halves
                if pair in (inside or {}) and not any(
                    one.started_unix_s <= self.client.happened_s <= one.started_unix_s + one.duration_s
                    for one in halves
                ):
                    self.missed.add(pair)
                if after is not None and pair in after:
                    after[pair]()
                    watch._stream.after(time.time())
        return blocks


@contextmanager
def board(kind: str, tree: Tree, folder: Path) -> Iterator[Lab]:
    """`quantrig-agent serve --board KIND --board-root TREE`, and a network on it twice."""
    command = [sys.executable, "-m", "agents", "serve", "--listen", "127.0.0.1:0", "--data", str(folder / "agent")]
    command += ["--board", kind, "--board-root", str(tree.root), "--exit-on-stdin-eof", "--ready-json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]
        client = Meddling("bench", grpc.insecure_channel(address))
        with client:
            client.await_serving(60)
            ids = {}
            for batch, network in ((1, F), (2, Q)):
                model = folder / f"{batch}.onnx"
                tiny_network(model, batch=batch)
                client.ship(model, sha256_of(model))
                ids[network] = client.prepare(sha256_of(model)).network_id
                client.load_inputs(ids[network], {"x": np.ones((batch, 3, 8, 8), np.float32)})
            yield Lab(client, ids, threading.Event())
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "board")


@pytest.fixture
def jetson(tree: Tree, tmp_path: Path) -> Iterator[Lab]:
    tree.put(JETSON)
    with board("jetson-orin-nano", tree, tmp_path) as lab:
        yield lab


def rejected(blocks: Sequence[BlockRecord]) -> dict[int, tuple[str, ...]]:
    """Of real blocks; both halves of a rejected pair carry the reasons."""
    for pair in {block.pair for block in blocks}:
        assert len({block.disturbed for block in blocks if block.pair == pair}) == 1
    return rejected_pairs(blocks)


def test_a_clock_that_drops_over_one_pair_rejects_that_pair(jetson: Lab, tree: Tree) -> None:
    """The processor's clock, since the network runs on it; the GPU's is of no interest then."""
    blocks = jetson.run(
        5,
        {1: lambda: tree.put({f"{GPU}/cur_freq": "306000000\n"}), 3: lambda: tree.put({CPU_CLOCK: "1190000\n"})},
        {3: lambda: tree.put({CPU_CLOCK: "1490000\n"})},  # 99.5 %: as good as it was
        warm=True,
    )
    found = rejected(blocks)
    assert set(found) == {3}
    assert all("79 % of the run's 1498 MHz" in reason for reason in found[3])
    assert {block.pair for block in blocks if not block.watched} == {2}
    assert any("pair 3 rejected" in line for line in jetson.said)
    # Every sample is kept once, in order; watched blocks have some inside them and unwatched ones none.
    times = [point.unix_s for point in jetson.kept]
    assert times == sorted(set(times))
    for block in blocks:
        inside = [at for at in times if block.started_unix_s < at < block.started_unix_s + block.duration_s]
        assert bool(inside) is block.watched, block.pair


@pytest.mark.slow
def test_the_gpus_clock_counts_where_the_network_runs_on_it(jetson: Lab, tree: Tree) -> None:
    slow = {1: lambda: tree.put({f"{GPU}/cur_freq": "306000000\n"})}
    blocks = jetson.run(2, slow, on_cpu=False, warm=True)
    assert set(rejected(blocks)) == {1}
    assert all("50 % of the run's 612 MHz" in reason for reason in rejected(blocks)[1])


def test_what_a_jetson_counts_over_a_pair_that_nobody_watched_rejects_it(jetson: Lab, tree: Tree) -> None:
    """Over-current in the unwatched pair 2; another power mode from pair 4 on."""
    blocks = jetson.run(
        6,
        {},
        inside={
            2: lambda: tree.put({f"{OC}/oc3_event_cnt": "39\n"}),
            4: lambda: tree.put({"var/lib/nvpmodel/status": "pmode:0000\n"}),
        },
    )
    truth = {
        2: ("instantaneous over-current (2 events)",),
        4: ("the power mode changed since the last sample",),
    }
    found = rejected(blocks)
    assert found.items() <= truth.items()
    assert truth.keys() <= found.keys() | jetson.missed


@pytest.mark.slow
def test_a_pis_new_sticky_bit_rejects_one_pair_and_an_old_one_none(tree: Tree, tmp_path: Path) -> None:
    tree.put(PI)  # bits 16 and 18 stick since before
    vcgencmd(tree, ADC)
    with board("raspberry-pi-5", tree, tmp_path) as lab:
        blocks = lab.run(
            6,
            {
                3: lambda: tree.put({"throttled": "throttled=0xd0004\n"}),  # throttled now
                4: lambda: tree.put({ZONE: "108000\n"}),  # 2 °C below its trip
            },
            {3: lambda: tree.put({"throttled": "throttled=0xd0000\n"}), 4: lambda: tree.put({ZONE: "60000\n"})},
            inside={1: lambda: tree.put({"throttled": "throttled=0xd0000\n"})},  # bit 19 came, and went: it sticks
        )
    found = rejected(blocks)
    assert {3, 4} <= set(found) <= {1, 3, 4}
    assert 1 in lab.missed or "soft temperature limit" in found[1][0]
    assert "throttled" in found[3][0]
    assert "108.0 °C" in found[4][0]
    assert all(point.total_power_mw == pytest.approx(1200) for point in lab.kept)


@pytest.mark.slow
def test_a_gpus_reasons_reject_the_pairs_that_they_touch(tree: Tree, tmp_path: Path) -> None:
    tree.tool("nvidia-smi", _reasons_from_file(tree))
    tree.put({"bits": "0x0000000000000004\n"})  # the software power cap alone is no reason
    with board("nvidia-gpu", tree, tmp_path) as lab:
        blocks = lab.run(
            5,
            {1: lambda: tree.put({"bits": "0x0000000000000080\n"})},
            {1: lambda: tree.put({"bits": "0x0000000000000001\n"})},
            on_cpu=False,
        )
    found = rejected(blocks)
    assert found[1] == ("hardware power brake slowdown",)
    # nvidia-smi prints by itself: a line of the moment before may still be the newest when the next pair begins
    assert set(found) <= {1, 2}


def _reasons_from_file(tree: Tree) -> str:
    """As the tool of the board's own tests, with the reasons of a file, read anew for every line."""
    return (
        smi("BITS", "clocks_event_reasons.active")
        .replace("while :; do echo", f'while :; do read -r BITS < "{tree.root}/bits"; echo')
        .replace(', BITS"', ', $BITS"')
    )


def test_idle_is_a_window_of_the_boards_own_clock(jetson: Lab, tree: Tree) -> None:
    tree.put({f"{RAIL}/curr1_input": "500\n"})
    with jetson.watch() as watch:
        window = watch.idle("before", 0.6)
    assert isinstance(window, IdleWindow)
    assert 0.2 <= window.duration_s <= 30
    inside = [p for p in jetson.kept if window.started_unix_s <= p.unix_s <= window.started_unix_s + window.duration_s]
    assert len(inside) >= 3
    assert {point.total_power_mw for point in inside} == {5016 * 500 / 1e3}


def test_a_board_without_a_rail_is_not_left_idle(tree: Tree, tmp_path: Path) -> None:
    tree.put({name: text for name, text in JETSON.items() if "i2c" not in name})
    with board("jetson-orin-nano", tree, tmp_path) as lab:
        with lab.watch() as watch:
            assert watch.idle("before", 3600) is None
        # and a run that is stopped while its board idles or rests ends at once
        tree.put(JETSON)
        lab.stop.set()
        with pytest.raises((Interrupted, CallCancelled)), lab.watch() as watch:
            watch.idle("after", 3600)


def test_a_stream_that_breaks_is_told_and_one_that_was_stopped_is_not(jetson: Lab) -> None:
    stream = TelemetryStream(jetson.client, 0.1)
    stream.start()
    assert stream.after(0.0)
    jetson.client.cancel()
    with pytest.raises(CallCancelled):
        stream.after(1e12)
    again = TelemetryStream(jetson.client, 0.1)
    again.start()
    assert again.after(0.0)
    again.stop()
    jetson.client.cancel()
    assert again.points()
