"""Energy by hand, by numpy's trapezoid, and of a simulated board whose tool tells late."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from harness.judge.context import TargetContext
from harness.judge.device_rows import NETWORK_ROWS, PAIRED_ROWS, network_device_figures, paired_device_figures
from harness.judge.rails import drawn
from harness.judge.telemetry import IdlePower, block_energies, energy_ratio, idle_power, network_telemetry
from harness.record.figure import Figure, Network, Source
from harness.record.timing import BlockRecord, IdleWindow, SteadyClock, TelemetryRecord

F, Q, R = Network.FLOAT, Network.QUANTIZED, Network.RATIO
CONTEXT = TargetContext("bench", "jetson-orin-nano", "gpu", Source.MEASURED)


def block(network: Network, pair: int, started_s: float, duration_s: float = 1.0, count: int = 100) -> BlockRecord:
    latency_ns = (round(duration_s * 1e9 / count * 0.99),) * count
    return BlockRecord(network, pair, latency_ns, started_s, duration_s, 1, 0.1, 1, watched=True)


def point(unix_s: float, power_mw: float | None, temperature: float = 40.0, rail: str = "VDD_IN") -> TelemetryRecord:
    known = power_mw is not None
    return TelemetryRecord(unix_s, {"soc": temperature}, {}, power_mw, rail if known else None, False, None, None)


def test_energy_is_the_integral_of_power_over_the_block() -> None:
    points = [
        point(99.9, 50.0),
        point(100.1, 9e9),  # printed when the board did something else
        point(100.2, 1000.0),
        point(100.5, 4000.0, 55.0),
        point(101.0, 2000.0),
        point(101.1, 9e9),
    ]
    seen = network_telemetry(points, [block(F, 0, 100.0)], F)
    # 0.2 s at 1,000 mW, then a trapezoid up to 4,000 mW and one down to 2,000 mW, for 100 samples
    expected_mj = 0.2 * 1000 + np.trapezoid([1000.0, 4000.0, 2000.0], [100.2, 100.5, 101.0])
    assert seen.energy_mj is not None
    assert seen.energy_mj.value == pytest.approx(expected_mj / 100)
    assert seen.power_w is not None
    assert seen.power_w.value == pytest.approx(expected_mj / 1000)
    assert (seen.power_w.interval, seen.power_w.n) == (None, 1)
    assert seen.energy_net_mj is None
    assert (seen.temperature_c, seen.temperature_zone, seen.rail) == (55.0, "soc", "VDD_IN")


def test_power_between_blocks_is_an_idle_boards_and_does_not_count() -> None:
    timed = block(F, 0, 100.0)
    seen = network_telemetry([point(99.0, 500.0), point(102.0, 600.0, 61.0)], [timed], F)
    assert (seen.power_w, seen.energy_mj, seen.rail) == (None, None, "")
    assert seen.temperature_c == 61.0
    assert network_telemetry([], [timed], F).temperature_c is None
    # two points inside are one too few, two rails are no total
    assert block_energies([point(100.1, 5.0), point(100.5, 5.0)], [timed], F) == []
    mixed = [point(100.1, 5.0), point(100.3, 5.0), point(100.5, 5.0, rail="VIN"), point(100.7, 5.0)]
    assert block_energies(mixed, [timed], F) == []


def test_a_pc_without_a_total_is_told_by_its_packages_and_named_so() -> None:
    def pc(unix_s: float, package_mw: float, **more: float) -> TelemetryRecord:
        rails = {"package-0": package_mw, "package-1": 1000.0, "package-0/core": 7e9, "dram": 5e9, **more}
        return TelemetryRecord(unix_s, {}, rails, None, None, None, None, None)

    points = [pc(100.1 + 0.2 * k, 4000.0) for k in range(5)]
    (one,) = block_energies(points, [block(F, 0, 100.0)], F)
    assert one.power_mw == pytest.approx(5000.0)
    assert one.rail == "package-0+package-1 (RAPL, processor only)"
    assert drawn(TelemetryRecord(0.0, {}, {"core": 1.0}, None, None, None, None, None)) is None
    assert drawn(point(0.0, math.nan)) is None
    assert drawn(point(0.0, 3.0, rail="psys")) == (3.0, "psys")


def test_net_is_above_the_idle_of_both_sides() -> None:
    windows = [IdleWindow("before", 0.0, 10.0), IdleWindow("after", 200.0, 10.0)]
    ramp = [point(t, 100.0 * t) for t in (0.0, 1.0, 4.0, 10.0)]  # mean of a straight line: 500 mW
    flat = [point(t, 700.0) for t in (200.0, 203.0, 210.0)]
    inside = [point(100.1 + 0.2 * k, 2600.0) for k in range(5)]
    idle = idle_power([*ramp, *inside, *flat], windows)
    assert idle is not None
    assert [idle.before_mw, idle.after_mw] == pytest.approx([500.0, 700.0])
    assert idle.rail == "VDD_IN"
    (one,) = block_energies([*ramp, *inside, *flat], [block(F, 3, 100.0)], F, idle)
    assert one.gross_mj == pytest.approx(26.0)
    assert one.net_mj == pytest.approx(20.0)
    assert one.pair == 3
    assert idle_power([*ramp, *flat], windows[:1]) is None
    assert idle_power([*ramp, *(point(t, 7.0, rail="VIN") for t in (200.0, 210.0))], windows) is None
    (other,) = block_energies(inside, [block(F, 0, 100.0)], F, IdlePower(1.0, 1.0, "VIN"))
    assert other.net_mj is None


class Board:
    """3 W idle, 9 W in float blocks, 6 W in int8 blocks; its tool tells what it read `lag_s` before."""

    def __init__(self, pairs: int, lag_s: float, noise: float = 0.0) -> None:
        rng = np.random.default_rng(5)
        self.blocks: list[BlockRecord] = []
        self.windows = [IdleWindow("before", 1.0, 4.0)]
        at_s = 6.0
        for pair in range(pairs):
            for network in (F, Q) if pair % 2 == 0 else (Q, F):
                self.blocks.append(block(network, pair, at_s, 1.0, 50 if network is F else 100))
                at_s += 1.1
        self.windows.append(IdleWindow("after", at_s + 1, 4.0))
        times = np.arange(0.0, at_s + 6, 0.2)
        watts = [self.watts(float(t) - lag_s) * math.exp(noise * rng.standard_normal()) for t in times]
        self.points = [point(float(t), 1e3 * w) for t, w in zip(times, watts, strict=True)]

    def watts(self, at_s: float) -> float:
        for one in self.blocks:
            if one.started_unix_s <= at_s <= one.started_unix_s + one.duration_s:
                return 9.0 if one.network is F else 6.0
        return 3.0

    def figures(self, blocks: Sequence[BlockRecord] | None = None, note: str = "") -> dict[tuple[Network, str], Figure]:
        counted = self.blocks if blocks is None else blocks
        rows = [
            row
            for network in (F, Q)
            for row in network_device_figures(CONTEXT, network, counted, self.points, self.windows, note)
        ]
        rows += paired_device_figures(CONTEXT, self.blocks, counted, self.points, self.windows, {}, note)
        return {(row.network, row.metric): row for row in rows}


def near(figure: Figure, truth: float, tolerance: float) -> None:
    assert figure.value == pytest.approx(truth, rel=tolerance), figure
    assert figure.source is Source.MEASURED


@pytest.mark.parametrize("lag_s", [0.0, 0.15])
def test_a_tool_that_tells_late_does_not_mix_the_networks(lag_s: float) -> None:
    table = Board(8, lag_s).figures()
    near(table[F, "power_w"], 9.0, 1e-9)
    near(table[Q, "power_w"], 6.0, 1e-9)
    near(table[F, "energy_mj"], 9000 / 50, 1e-9)  # 9 W for 1 s over 50 inferences
    near(table[Q, "energy_mj"], 6000 / 100, 1e-9)
    near(table[F, "energy_net_mj"], 6000 / 50, 1e-9)
    near(table[Q, "energy_net_mj"], 3000 / 100, 1e-9)
    near(table[R, "energy_ratio"], 1 / 3, 1e-9)
    near(table[R, "energy_net_ratio"], 1 / 4, 1e-9)
    assert table[F, "energy_net_mj"].note == "n: blocks; above idle (3 W before, 3 W after), rail VDD_IN"
    assert table[F, "energy_mj"].n == 8


def test_intervals_are_over_blocks_and_pairs() -> None:
    table = Board(12, 0.0, noise=0.05).figures()
    energies = block_energies(Board(12, 0.0, noise=0.05).points, Board(12, 0.0).blocks, F)
    values = np.array([one.gross_mj for one in energies])
    half = 2.2009851601 * values.std(ddof=1) / math.sqrt(12)  # t(.975, 11) of a printed table
    row = table[F, "energy_mj"]
    assert row.ci_low == pytest.approx(values.mean() - half)
    assert row.ci_high == pytest.approx(values.mean() + half)
    ratio = table[R, "energy_ratio"]
    assert ratio.ci_low is not None
    assert ratio.ci_high is not None
    assert ratio.ci_low < 1 / 3 < ratio.ci_high
    assert ratio.n == 12


def test_what_is_missing_is_empty_with_its_reason() -> None:
    def value(change: Callable[[Board], None], *row: object) -> tuple[float | None, str]:
        board = Board(4, 0.0)
        change(board)
        figure = board.figures()[row]  # type: ignore[index]
        return figure.value, figure.note

    def no_rail(board: Board) -> None:
        board.points = [point(p.unix_s, None) for p in board.points]

    def no_idle_after(board: Board) -> None:
        board.windows = board.windows[:1]

    def seldom(board: Board) -> None:
        board.points = [p for k, p in enumerate(board.points) if k % 3 == 0]

    def idles_high(board: Board) -> None:
        board.points = [point(p.unix_s, 8000.0 if p.total_power_mw == 3000 else p.total_power_mw) for p in board.points]

    assert value(no_rail, F, "power_w") == (None, "the board's telemetry does not carry it")
    assert value(no_rail, R, "energy_ratio")[0] is None
    assert value(no_idle_after, F, "energy_mj")[0] is not None
    assert value(no_idle_after, F, "energy_net_mj")[0] is None
    assert "both before and after" in value(no_idle_after, R, "energy_net_ratio")[1]
    assert value(no_idle_after, R, "energy_ratio")[0] is not None
    assert "three telemetry points" in value(seldom, F, "energy_mj")[1]
    assert value(idles_high, Q, "energy_net_mj")[0] == pytest.approx(-2000 / 100)  # told as it is
    assert "no more than the board at rest" in value(idles_high, R, "energy_net_ratio")[1]
    assert "three telemetry points" in value(seldom, R, "energy_net_ratio")[1]


def test_rejected_pairs_are_counted_with_their_reasons() -> None:
    from dataclasses import replace

    board = Board(8, 0.0)
    bad = {2: ("clock at 600 MHz",), 5: ("clock at 580 MHz", "under-voltage")}
    board.blocks = [replace(one, disturbed=bad.get(one.pair, ())) for one in board.blocks]
    counted = [one for one in board.blocks if one.pair not in bad]
    row = board.figures(counted)[R, "pairs_rejected"]
    assert (row.value, row.n, row.unit) == (2, 8, "pairs")
    assert row.note == "n: pairs timed; judged by the board's own word; clock at 600 MHz (2), under-voltage (1)"
    assert board.figures(counted)[R, "energy_ratio"].n == 6
    mute = [replace(p, throttled=None) for p in board.points]
    clean = [replace(one, disturbed=()) for one in board.blocks]
    (*_, unknown) = paired_device_figures(CONTEXT, clean, clean, mute)
    assert (unknown.value, unknown.n) == (None, None)
    (*_, by_clock) = paired_device_figures(CONTEXT, clean, clean, mute, (), {F: SteadyClock("", 1.0)})
    assert (by_clock.value, by_clock.n) == (0, 8)


def test_the_rows_are_those_that_other_targets_leave_empty() -> None:
    table = Board(4, 0.0).figures()
    assert [metric for network, metric in table if network is F] == [metric for metric, _ in NETWORK_ROWS]
    assert [metric for network, metric in table if network is R] == [metric for metric, _ in PAIRED_ROWS]
    assert all(table[F, metric].unit == unit for metric, unit in NETWORK_ROWS)


def test_a_ratio_needs_a_pair_with_both_halves() -> None:
    assert energy_ratio({0: 2.0}, {1: 1.0}) is None
    one = energy_ratio({0: 2.0, 1: 5.0}, {0: 1.0})
    assert one is not None
    assert (one.value, one.interval, one.n) == (0.5, None, 1)
