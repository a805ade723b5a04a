"""Temperature, power and energy of a network's blocks, from the board's telemetry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.judge.rails import drawn
from harness.judge.statistics import GeometricMean, Interval, geometric_mean, mean_interval
from harness.judge.stopping import rounds
from harness.record.figure import Network
from harness.record.timing import BlockRecord, IdleWindow, TelemetryRecord

#: A curve needs two points.
_LEAST_POINTS = 2


@dataclass(frozen=True, slots=True)
class IdlePower:
    """What a board draws while it runs nothing of ours, mW, on one rail."""

    before_mw: float
    after_mw: float
    rail: str

    @property
    def mean_mw(self) -> float:
        """What is subtracted: the mean of before and after, so that a drift of the board's own draw cancels."""
        return (self.before_mw + self.after_mw) / 2


@dataclass(frozen=True, slots=True)
class BlockEnergy:
    """Power and energy of one block.

    Args:
        pair: of the block.
        power_mw: mean over its time.
        gross_mj: per sample, idle included.
        net_mj: per sample, above idle; None where idle was not measured on that rail.
        rail: which one.
    """

    pair: int
    power_mw: float
    gross_mj: float
    net_mj: float | None
    rail: str


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over blocks with Student's 95 % interval; None with one block."""

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True, slots=True)
class NetworkTelemetry:
    """What a network's blocks drew and how warm the board was; None where its telemetry does not carry it.

    Args:
        temperature_c: hottest zone seen in or right beside the blocks.
        temperature_zone: its name.
        power_w: gross.
        energy_mj: per sample, gross.
        energy_net_mj: per sample, above idle.
        rail: which rail power and energy are of.
    """

    temperature_c: float | None
    temperature_zone: str
    power_w: Mean | None
    energy_mj: Mean | None
    energy_net_mj: Mean | None
    rail: str


def network_telemetry(
    points: Sequence[TelemetryRecord],
    blocks: Sequence[BlockRecord],
    network: Network,
    idle: IdlePower | None = None,
) -> NetworkTelemetry:
    """Line telemetry up with the blocks of `network`, by the board's wall clock.

    Temperature changes slowly: the last point before and the first after a block count for it too.
    """
    ordered = _in_order(points)
    own = [block for block in blocks if block.network is network]
    zones = [
        (value, zone)
        for block in own
        for point in _beside(ordered, block)
        for zone, value in point.temperature_c.items()
        if math.isfinite(value)
    ]
    hottest = max(zones, default=None)
    found = block_energies(points, blocks, network, idle)
    net = [one.net_mj for one in found if one.net_mj is not None]
    return NetworkTelemetry(
        temperature_c=hottest[0] if hottest else None,
        temperature_zone=hottest[1] if hottest else "",
        power_w=_mean([one.power_mw / 1e3 for one in found]),
        energy_mj=_mean([one.gross_mj for one in found]),
        energy_net_mj=_mean(net),
        rail=found[0].rail if found else "",
    )


def block_energies(
    points: Sequence[TelemetryRecord], blocks: Sequence[BlockRecord], network: Network, idle: IdlePower | None = None
) -> list[BlockEnergy]:
    """Power and energy of each block of `network` that telemetry carries; none where two rails took turns as the total.

    The trapezoid over the instantaneous total of the points inside the block, the first and the last value held to its
    edges. The first point inside is left out: a vendor's tool printed it up to an interval earlier, when the other
    network ran or none. So a block needs three points inside it.
    """
    ordered = _in_order(points)
    found: list[BlockEnergy] = []
    for block in (block for block in blocks if block.network is network):
        curve = _power_between(ordered, block.started_unix_s, _end(block))[1:]
        rails = {rail for _, _, rail in curve}
        if len(curve) < _LEAST_POINTS or len(rails) != 1:
            continue
        whole = [(at, power) for at, power, _ in curve]
        energy_mj = _integral([(block.started_unix_s, whole[0][1]), *whole, (_end(block), whole[-1][1])])
        samples = block.batch_size * len(block.latency_ns)
        (rail,) = rails
        net_mj = None
        if idle is not None and idle.rail == rail:
            net_mj = (energy_mj - idle.mean_mw * block.duration_s) / samples
        found.append(BlockEnergy(block.pair, energy_mj / block.duration_s, energy_mj / samples, net_mj, rail))
    return found if len({one.rail for one in found}) == 1 else []


def idle_power(points: Sequence[TelemetryRecord], windows: Sequence[IdleWindow]) -> IdlePower | None:
    """The board's draw at rest, from both sides of its blocks; None unless both were measured, on one rail.

    Of several windows on one side (a resumed run) the mean.
    """
    ordered = _in_order(points)
    sides: dict[str, list[float]] = {"before": [], "after": []}
    rails: set[str] = set()
    for window in windows:
        curve = _power_between(ordered, window.started_unix_s, window.started_unix_s + window.duration_s)
        if len(curve) < _LEAST_POINTS or curve[-1][0] <= curve[0][0]:
            continue
        rails |= {rail for _, _, rail in curve}
        whole = [(at, power) for at, power, _ in curve]
        sides.setdefault(window.when, []).append(_integral(whole) / (whole[-1][0] - whole[0][0]))
    if len(rails) != 1 or not sides["before"] or not sides["after"]:
        return None
    before, after = (math.fsum(sides[when]) / len(sides[when]) for when in ("before", "after"))
    return IdlePower(before, after, rails.pop())


def energy_ratio(float_energies: Mapping[int, float], quantized_energies: Mapping[int, float]) -> GeometricMean | None:
    """Quantized over float, from the pairs whose halves both have an energy; t on the logarithm, over ABBA rounds.

    With a single round, over its pairs. `n` counts pairs.

    Args:
        float_energies: pair → energy per sample, mJ.
        quantized_energies: the same.

    Returns:
        None without a common pair, or where an energy is not positive (net of an idle that drew more).
    """
    common = sorted(float_energies.keys() & quantized_energies.keys())
    both = [(float_energies[pair], quantized_energies[pair]) for pair in common]
    if not both or any(first <= 0 or second <= 0 for first, second in both):
        return None
    ratios = {pair: second / first for pair, (first, second) in zip(common, both, strict=True)}
    by_round = [math.exp(one) for one in rounds({pair: math.log(ratio) for pair, ratio in ratios.items()})]
    if len(by_round) < 2:
        return geometric_mean(list(ratios.values()))
    return replace(geometric_mean(by_round), n=2 * len(by_round))


def _mean(values: Sequence[float]) -> Mean | None:
    return Mean(math.fsum(values) / len(values), mean_interval(values), len(values)) if values else None


def _in_order(points: Sequence[TelemetryRecord]) -> list[TelemetryRecord]:
    return sorted((p for p in points if math.isfinite(p.unix_s)), key=lambda p: p.unix_s)


def _end(block: BlockRecord) -> float:
    return block.started_unix_s + block.duration_s


def _beside(ordered: Sequence[TelemetryRecord], block: BlockRecord) -> list[TelemetryRecord]:
    before = [p for p in ordered if p.unix_s < block.started_unix_s][-1:]
    inside = [p for p in ordered if block.started_unix_s <= p.unix_s <= _end(block)]
    after = [p for p in ordered if p.unix_s > _end(block)][:1]
    return before + inside + after


def _power_between(
    ordered: Sequence[TelemetryRecord], began_s: float, ended_s: float
) -> list[tuple[float, float, str]]:
    """(time, power in mW, rail) of the points in that stretch; see `rails.drawn`."""
    return [(p.unix_s, *known) for p in ordered if began_s <= p.unix_s <= ended_s and (known := drawn(p)) is not None]


def _integral(curve: Sequence[tuple[float, float]]) -> float:
    """Energy in mJ: mW x s, by the trapezoid."""
    return math.fsum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in itertools.pairwise(curve))
