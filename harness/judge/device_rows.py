"""Rows about the device beside its times: temperature, power, energy, what watching cost, and rejected pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.judge.context import TargetContext
from harness.judge.observer_cost import observer_cost
from harness.judge.rails import drawn
from harness.judge.rejected import rejected_pairs
from harness.judge.statistics import GeometricMean
from harness.judge.telemetry import (
    IdlePower,
    Mean,
    block_energies,
    energy_ratio,
    idle_power,
    network_telemetry,
)
from harness.judge.throttling import kind_of
from harness.record.figure import Figure, Network
from harness.record.timing import BlockRecord, IdleWindow, SteadyClock, TelemetryRecord

#: (metric, unit) of each network, in the order of the table.
NETWORK_ROWS = (
    ("temperature_c", "°C"),
    ("power_w", "W"),
    ("energy_mj", "mJ"),
    ("energy_net_mj", "mJ"),
    ("observer_cost_percent", "percent"),
)
#: Of both together.
PAIRED_ROWS = (("energy_ratio", "x"), ("energy_net_ratio", "x"), ("pairs_rejected", "pairs"))

NO_TELEMETRY_NOTE = "the board's telemetry does not carry it"
_TOO_SHORT_NOTE = "too few blocks have three telemetry points inside: longer ones carry it (--profile standard)"
_NO_IDLE_NOTE = "the board's draw at rest was not measured both before and after"
_ONE_BLOCK_NOTE = "one block: no interval"


def network_device_figures(
    context: TargetContext,
    network: Network,
    blocks: Sequence[BlockRecord],
    telemetry: Sequence[TelemetryRecord],
    idle: Sequence[IdleWindow] = (),
    note: str = "",
) -> list[Figure]:
    """The rows of `NETWORK_ROWS`.

    Args:
        context: of the target.
        network: which.
        blocks: that count (`rejected.judged_blocks`), of both networks.
        telemetry: the board's samples.
        idle: when it was left alone.
        note: added to every row with a value.
    """
    at_rest = idle_power(telemetry, idle)
    seen = network_telemetry(telemetry, blocks, network, at_rest)
    zone = f"hottest zone: {seen.temperature_zone}" if seen.temperature_c is not None else NO_TELEMETRY_NOTE
    if seen.power_w is not None:
        missing = gross = f"gross, rail {seen.rail}"
    else:
        missing = gross = _TOO_SHORT_NOTE if _tells_power(telemetry) else NO_TELEMETRY_NOTE
    if seen.power_w is not None and seen.energy_net_mj is None:
        missing = _NO_IDLE_NOTE
    return [
        context.figure(
            network,
            "temperature_c",
            seen.temperature_c,
            "°C",
            notes=(zone, note if seen.temperature_c is not None else ""),
        ),
        _mean_row(context, network, "power_w", "W", seen.power_w, gross, note),
        _mean_row(context, network, "energy_mj", "mJ", seen.energy_mj, gross, note),
        _mean_row(
            context,
            network,
            "energy_net_mj",
            "mJ",
            seen.energy_net_mj,
            _net_note(at_rest) if seen.energy_net_mj is not None and at_rest is not None else missing,
            note,
        ),
        _observer_row(context, network, blocks, note),
    ]


def paired_device_figures(
    context: TargetContext,
    blocks: Sequence[BlockRecord],
    judged: Sequence[BlockRecord],
    telemetry: Sequence[TelemetryRecord],
    idle: Sequence[IdleWindow] = (),
    steady: Mapping[Network, SteadyClock] | None = None,
    note: str = "",
) -> list[Figure]:
    """The rows of `PAIRED_ROWS`.

    Args:
        context: of the target.
        blocks: all of them.
        judged: those that count.
        telemetry: the board's samples.
        idle: when it was left alone.
        steady: clocks that its blocks were held against.
        note: added to every ratio.
    """
    at_rest = idle_power(telemetry, idle)
    energies = {
        network: block_energies(telemetry, judged, network, at_rest) for network in (Network.FLOAT, Network.QUANTIZED)
    }
    rails = {one.rail for found in energies.values() for one in found}
    rail = f"rail {rails.pop()}" if len(rails) == 1 else ""
    gross = {network: {one.pair: one.gross_mj for one in found} for network, found in energies.items()}
    net = {
        network: {one.pair: one.net_mj for one in found if one.net_mj is not None}
        for network, found in energies.items()
    }
    missing = _TOO_SHORT_NOTE if _tells_power(telemetry) else NO_TELEMETRY_NOTE
    paired = gross[Network.FLOAT].keys() & gross[Network.QUANTIZED].keys()
    return [
        _ratio_row(context, "energy_ratio", gross, f"gross, {rail}", missing, note),
        _ratio_row(context, "energy_net_ratio", net, f"above idle, {rail}", _NO_IDLE_NOTE if paired else missing, note),
        _rejected_row(context, blocks, telemetry, steady or {}),
    ]


def _mean_row(
    context: TargetContext, network: Network, metric: str, unit: str, mean: Mean | None, told: str, note: str
) -> Figure:
    if mean is None:
        return context.figure(network, metric, None, unit, notes=(told,))
    ends = (mean.interval.low, mean.interval.high) if mean.interval else None
    lone = "" if ends else _ONE_BLOCK_NOTE
    return context.figure(
        network, metric, mean.value, unit, interval=ends, n=mean.n, notes=("n: blocks", told, lone, note)
    )


def _net_note(at_rest: IdlePower) -> str:
    ends = f"{at_rest.before_mw / 1e3:.3g} W before, {at_rest.after_mw / 1e3:.3g} W after"
    return f"above idle ({ends}), rail {at_rest.rail}"


def _observer_row(context: TargetContext, network: Network, blocks: Sequence[BlockRecord], note: str) -> Figure:
    cost = observer_cost(blocks, network)
    if cost is None:
        why = "fewer than two blocks with telemetry beside them, or without"
        return context.figure(network, "observer_cost_percent", None, "percent", notes=(why,))
    counted = (
        f"median latency of {cost.watched} blocks with telemetry against {cost.unwatched} without, drift taken out"
    )
    return context.figure(
        network,
        "observer_cost_percent",
        cost.percent,
        "percent",
        interval=(cost.interval.low, cost.interval.high),
        n=cost.watched + cost.unwatched,
        notes=(counted, note),
    )


def _ratio_row(
    context: TargetContext,
    metric: str,
    energies: Mapping[Network, Mapping[int, float]],
    told: str,
    missing: str,
    note: str,
) -> Figure:
    both = (energies[Network.FLOAT], energies[Network.QUANTIZED])
    ratio: GeometricMean | None = energy_ratio(*both)
    if ratio is None:
        drew_less = "a pair drew no more than the board at rest: no ratio"
        why = drew_less if both[0].keys() & both[1].keys() else missing
        return context.figure(Network.RATIO, metric, None, "x", notes=(why,))
    ends = (ratio.interval.low, ratio.interval.high) if ratio.interval else None
    return context.figure(
        Network.RATIO,
        metric,
        ratio.value,
        "x",
        interval=ends,
        n=ratio.n,
        notes=("Quantized / Floating-Point; n: pairs of blocks", told, "" if ends else "one pair: no interval", note),
    )


def _rejected_row(
    context: TargetContext,
    blocks: Sequence[BlockRecord],
    telemetry: Sequence[TelemetryRecord],
    steady: Mapping[Network, SteadyClock],
) -> Figure:
    pairs = len({block.pair for block in blocks})
    rejected = rejected_pairs(blocks)
    told = any(point.throttled is not None for point in telemetry)
    if not pairs or not (told or steady or rejected):
        why = "not timed" if not pairs else "the board tells neither whether it throttles nor a steady clock"
        return context.figure(Network.RATIO, "pairs_rejected", None, "pairs", notes=(why,))
    by_what = [name for name, known in (("the board's own word", told), ("its clock", bool(steady))) if known]
    return context.figure(
        Network.RATIO,
        "pairs_rejected",
        len(rejected),
        "pairs",
        n=pairs,
        notes=(
            f"n: pairs timed; judged by {' and '.join(by_what)}" if by_what else "n: pairs timed",
            _counted(rejected),
        ),
    )


def _counted(rejected: Mapping[int, tuple[str, ...]]) -> str:
    """Every kind of reason, in the words of its first pair, with how many pairs it rejected."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reasons in rejected.values():
        kinds = {kind_of(reason): reason for reason in reasons}
        counts.update(kinds.keys())
        for kind, reason in kinds.items():
            first.setdefault(kind, reason)
    return ", ".join(f"{first[kind]} ({count})" for kind, count in counts.most_common())


def _tells_power(telemetry: Sequence[TelemetryRecord]) -> bool:
    return any(drawn(point) is not None for point in telemetry)
