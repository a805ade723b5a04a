"""Runs that have everything a page can show: gates, sweeps, telemetry, rejected pairs, settings, rescues, layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.record.figure import Figure, Network, Source
from harness.record.gates import GateResult, Outcome, Rule
from harness.record.networks import LayerSqnr
from harness.record.run import RunRecord
from harness.record.target import RecoveryStep, SettingRecord, TargetRecord
from harness.record.timing import BlockRecord, SteadyClock, TelemetryRecord

T0 = 1.79e9
HOT = "gpu throttled: HW slowdown"


def gate(target: str, name: str, outcome: Outcome, detail: str = "", source: Source = Source.MEASURED) -> GateResult:
    return GateResult(
        target, name, f"{name} at least 1.2x", outcome, name, Network.RATIO, Rule.AT_LEAST, 1.2, "x",
        1.314, 1.29, 1.34, 23, source, detail,
    )  # fmt: skip


def telemetry(seconds: int, start: float = T0) -> tuple[TelemetryRecord, ...]:
    rng = np.random.default_rng(3)
    return tuple(
        TelemetryRecord(
            unix_s=start + 0.2 * i,
            temperature_c={"soc": 41 + 0.05 * i + float(rng.normal(0, 0.3)), "gpu": 40.0},
            power_mw={"VDD_IN": 5200 + float(rng.normal(0, 200))},
            total_power_mw=5200 + 900 * float(i % 10 > 4) + float(rng.normal(0, 90)),
            total_power_rail="VDD_IN",
            throttled=False,
            clock_mhz=1510.0 - (200 if 60 < i < 90 else 0),
            ram_used_mb=2100.0,
            clocks_mhz={"cpu": 1510.0 - (200 if 60 < i < 90 else 0)},
        )
        for i in range(5 * seconds)
    )


def timed_blocks(pairs: int, float_ms: float, rejected: tuple[int, ...] = (), start: float = T0) -> list[BlockRecord]:
    rng = np.random.default_rng(11)
    made = []
    for pair in range(pairs):
        for half, (network, ms) in enumerate(((Network.FLOAT, float_ms), (Network.QUANTIZED, 0.55 * float_ms))):
            ns = tuple(int(1e6 * ms * (1 + v)) for v in rng.gamma(2, 0.03, 60))
            made.append(
                BlockRecord(
                    network, pair, ns, start + 2.0 * pair + half, 0.9, 1, 0.5, 60_000_000,
                    disturbed=(HOT,) if pair in rejected else (), watched=True,
                    clock="perf_counter: CLOCK_MONOTONIC", clock_resolution_ns=1.0, clock_tick_ns=32.0,
                )
            )  # fmt: skip
    return made


def full_run(plain: RunRecord) -> RunRecord:
    """`plain` with one board that was throttled now and then, set, lost and brought back, and judged by gates."""
    machine = replace(
        plain.targets[0],
        blocks=tuple(timed_blocks(12, 0.41, rejected=(6, 7))),
        telemetry=telemetry(26),
        steady_clocks={Network.FLOAT: SteadyClock("cpu", 1510.0), Network.QUANTIZED: SteadyClock("cpu", 1510.0)},
        settings=(SettingRecord("governor", "performance", "schedutil", "performance", None, "the board was lost"),),
        recovery=(RecoveryStep("power cycle", T0 + 11, 6.25, "done", "relay off and on, agent answered"),),
    )
    assert machine.quantized is not None
    layers = tuple(LayerSqnr(f"block{i}.conv", "Conv", 40 - 0.4 * i + 3 * (i % 3)) for i in range(30))
    machine = replace(machine, quantized=replace(machine.quantized, layers=layers, layers_samples=4))
    gates = (
        gate("this-machine", "speedup", Outcome.PASS),
        gate("this-machine", "latency_p95_speedup", Outcome.FAIL),
        gate("jetson-emulated", "speedup", Outcome.INCONCLUSIVE, "not measured: emulated; run it on a board"),
        gate("zcu102-emulated", "speedup", Outcome.PASS, source=Source.MODELLED),
    )
    return replace(plain, targets=(machine, *plain.targets[1:]), gates=gates)


def swept_run(plain: RunRecord) -> RunRecord:
    """One board at six settings, beside the emulated ones of `plain`."""
    base = plain.targets[0]
    targets: list[TargetRecord] = []
    figures: list[Figure] = []
    for number, (batch, threads) in enumerate(((1, 1), (1, 4), (4, 1), (4, 4), (16, 1), (16, 4))):
        name = f"{base.name} [batch {batch}, {threads} thread{'s' * (threads > 1)}]"
        ms = 0.41 * batch**0.8 / threads**0.6
        start = T0 + 40 * number
        blocks = tuple(timed_blocks(8, ms, start=start))
        targets.append(replace(base, name=name, entry=base.name, blocks=blocks, telemetry=telemetry(18, start)))
        for figure in (f for f in plain.figures if f.target == base.name):
            scale = {"fps": batch / ms * 1e3 / 2, "latency_p50_ms": ms}.get(figure.metric)
            if scale is None or figure.value is None:
                figures.append(replace(figure, target=name))
            else:
                value = scale * (1.8 if (figure.network == "Quantized") == (figure.metric == "fps") else 1)
                figures.append(replace(figure, target=name, value=value, ci_low=0.97 * value, ci_high=1.03 * value))
    others = [f for f in plain.figures if f.target != base.name]
    return replace(plain, targets=(*targets, *plain.targets[1:]), figures=(*figures, *others))


def many_run(plain: RunRecord, count: int = 12) -> RunRecord:
    """`count` boards with long names, each with six gates."""
    targets, figures, gates = [], [], []
    for number in range(count):
        source = plain.targets[number % len(plain.targets)]
        name = f"{source.name}-rack-{number:02d}-production-line-hall-{number % 3}-upper-shelf"
        targets.append(replace(source, name=name))
        figures += [replace(f, target=name) for f in plain.figures if f.target == source.name]
        names = ("accuracy", "speedup", "latency_p99", "memory", "energy", "agreement")
        gates += [
            gate(name, one, (Outcome.PASS, Outcome.PASS, Outcome.FAIL)[(number + i) % 3]) for i, one in enumerate(names)
        ]
    return replace(plain, targets=tuple(targets), figures=tuple(figures), gates=tuple(gates))


def failed_run(plain: RunRecord) -> RunRecord:
    """Every board lost before anything came back."""
    targets = tuple(
        replace(
            one, status="unreachable", error="nothing answers at 10.0.0.7:50051: is it on?", quantized=None,
            loadings=(), shipments=(), blocks=(), designs=(), programming=(), lowered=None, description=None,
        )
        for one in plain.targets
    )  # fmt: skip
    figures = tuple(replace(f, value=None, ci_low=None, ci_high=None, note="unreachable") for f in plain.figures)
    return replace(plain, targets=targets, figures=figures)


def empty_run(plain: RunRecord) -> RunRecord:
    """No target at all."""
    return replace(plain, targets=(), figures=(), notes=(), finished=None)
