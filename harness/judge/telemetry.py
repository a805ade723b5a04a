"""Temperature, power and energy of a network's blocks, from the board's telemetry."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge.figure import Network
from harness.runs.record import BlockRecord


@dataclass(frozen=True, slots=True)
class TelemetryPoint:
    """One telemetry sample of a board; None (or empty) where the board cannot know.

    Args:
        unix_s: wall clock of the board, the clock of `BlockRecord.started_unix_s`.
        temperature_c: by zone.
        total_power_mw: instantaneous, of the whole board or module.
        total_power_rail: the rail's name.
    """

    unix_s: float
    temperature_c: tuple[tuple[str, float], ...] = ()
    total_power_mw: float | None = None
    total_power_rail: str | None = None


@dataclass(frozen=True, slots=True)
class NetworkTelemetry:
    """What a network's blocks drew and how warm the board was.

    Args:
        temperature_c: hottest zone seen during the blocks.
        temperature_zone: its name.
        power_w: mean over the blocks' time, gross (idle not subtracted).
        energy_mj: gross, per sample.
        rail: which rail power and energy are of.
        points: telemetry samples inside the blocks.
    """

    temperature_c: float | None
    temperature_zone: str
    power_w: float | None
    energy_mj: float | None
    rail: str
    points: int


def network_telemetry(
    points: Sequence[TelemetryPoint], blocks: Sequence[BlockRecord], network: Network
) -> NetworkTelemetry | None:
    """Line telemetry up with the blocks of `network`; None when no point falls inside them.

    Energy is the trapezoid over each block's instantaneous power, the value at the block's edges interpolated between
    its neighbours (a block whose edges have no neighbour is left out), over the samples that these blocks ran.
    """
    ordered = sorted((p for p in points if math.isfinite(p.unix_s)), key=lambda p: p.unix_s)
    own = [block for block in blocks if block.network is network]
    inside = [p for p in ordered if any(b.started_unix_s <= p.unix_s <= b.started_unix_s + b.duration_s for b in own)]
    if not inside:
        return None
    zones = [(value, zone) for p in inside for zone, value in p.temperature_c if math.isfinite(value)]
    hottest = max(zones, default=None)
    powered = [p for p in ordered if p.total_power_mw is not None and math.isfinite(p.total_power_mw)]
    rails = {p.total_power_rail or "" for p in powered}
    energy_mj = time_s = 0.0
    samples = 0
    for block in own if len(rails) == 1 else []:
        block_mj = _block_energy_mj(powered, block)
        if block_mj is not None:
            energy_mj += block_mj
            time_s += block.duration_s
            samples += block.batch_size * len(block.latency_ns)
    return NetworkTelemetry(
        temperature_c=hottest[0] if hottest else None,
        temperature_zone=hottest[1] if hottest else "",
        power_w=energy_mj / time_s / 1000 if time_s > 0 else None,
        energy_mj=energy_mj / samples if samples else None,
        rail=rails.pop() if len(rails) == 1 else "",
        points=len(inside),
    )


def _block_energy_mj(powered: Sequence[TelemetryPoint], block: BlockRecord) -> float | None:
    start, end = block.started_unix_s, block.started_unix_s + block.duration_s
    first, last = _power_at(powered, start), _power_at(powered, end)
    if first is None or last is None:
        return None
    curve = [(start, first)]
    curve += [(p.unix_s, p.total_power_mw) for p in powered if start < p.unix_s < end and p.total_power_mw is not None]
    curve.append((end, last))
    pairs = itertools.pairwise(curve)
    return sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in pairs)


def _power_at(powered: Sequence[TelemetryPoint], unix_s: float) -> float | None:
    after = bisect.bisect_left([p.unix_s for p in powered], unix_s)
    if after < len(powered) and powered[after].unix_s == unix_s:
        return powered[after].total_power_mw
    if after == 0 or after == len(powered):
        return None
    left, right = powered[after - 1], powered[after]
    if left.total_power_mw is None or right.total_power_mw is None:
        return None
    share = (unix_s - left.unix_s) / (right.unix_s - left.unix_s)
    return left.total_power_mw + share * (right.total_power_mw - left.total_power_mw)
