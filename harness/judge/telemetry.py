"""Temperature, power and energy of a network's blocks, from the board's telemetry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge.figure import Network
from harness.record import BlockRecord, TelemetryRecord


@dataclass(frozen=True, slots=True)
class NetworkTelemetry:
    """What a network's blocks drew and how warm the board was; None where its telemetry does not carry it.

    Args:
        temperature_c: hottest zone seen in or right beside the blocks.
        temperature_zone: its name.
        power_w: mean over the blocks' time, gross (idle not subtracted).
        energy_mj: gross, per sample.
        rail: which rail power and energy are of.
        blocks_with_power: how many blocks they rest on.
    """

    temperature_c: float | None
    temperature_zone: str
    power_w: float | None
    energy_mj: float | None
    rail: str
    blocks_with_power: int


def network_telemetry(
    points: Sequence[TelemetryRecord], blocks: Sequence[BlockRecord], network: Network
) -> NetworkTelemetry:
    """Line telemetry up with the blocks of `network`, by the board's wall clock.

    Temperature changes slowly: the last point before and the first after a block count for it too. Power does not:
    only blocks with at least two points inside count (a point between blocks is an idle board's), integrated by the
    trapezoid, the first and last value held to the block's edges.
    """
    ordered = sorted((p for p in points if math.isfinite(p.unix_s)), key=lambda p: p.unix_s)
    own = [block for block in blocks if block.network is network]
    zones = [
        (value, zone)
        for block in own
        for point in _beside(ordered, block)
        for zone, value in point.temperature_c.items()
        if math.isfinite(value)
    ]
    hottest = max(zones, default=None)
    rails: set[str] = set()
    energy_mj = time_s = 0.0
    samples = counted = 0
    for block in own:
        curve = _power_inside(ordered, block)
        if len(curve) < 2:
            continue
        rails |= {rail for _, _, rail in curve}
        energy_mj += _integral([(at, power) for at, power, _ in curve], block)
        time_s += block.duration_s
        samples += block.batch_size * len(block.latency_ns)
        counted += 1
    known = len(rails) == 1 and time_s > 0
    return NetworkTelemetry(
        temperature_c=hottest[0] if hottest else None,
        temperature_zone=hottest[1] if hottest else "",
        power_w=energy_mj / time_s / 1000 if known else None,
        energy_mj=energy_mj / samples if known else None,
        rail=rails.pop() if known else "",
        blocks_with_power=counted if known else 0,
    )


def _end(block: BlockRecord) -> float:
    return block.started_unix_s + block.duration_s


def _beside(ordered: Sequence[TelemetryRecord], block: BlockRecord) -> list[TelemetryRecord]:
    before = [p for p in ordered if p.unix_s < block.started_unix_s][-1:]
    inside = [p for p in ordered if block.started_unix_s <= p.unix_s <= _end(block)]
    after = [p for p in ordered if p.unix_s > _end(block)][:1]
    return before + inside + after


def _power_inside(ordered: Sequence[TelemetryRecord], block: BlockRecord) -> list[tuple[float, float, str]]:
    """(time, total power in mW, rail) of the points inside the block."""
    return [
        (p.unix_s, p.total_power_mw, p.total_power_rail or "unnamed")
        for p in ordered
        if block.started_unix_s <= p.unix_s <= _end(block)
        and p.total_power_mw is not None
        and math.isfinite(p.total_power_mw)
    ]


def _integral(curve: list[tuple[float, float]], block: BlockRecord) -> float:
    """Energy in mJ: mW x s."""
    whole = [(block.started_unix_s, curve[0][1]), *curve, (_end(block), curve[-1][1])]
    return sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in itertools.pairwise(whole))
