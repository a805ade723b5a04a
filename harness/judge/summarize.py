"""From one target's stored evidence to the rows of the published table.

    context = TargetContext.of(target_record)
    figures = accuracy_figures(context, float_eval, quantized_eval)
    figures += timing_figures(context, target_record.blocks, target_record.loadings, target_record.telemetry)
    figures += memory_figures(context, float_bytes, quantized_bytes)

or `target_figures`, which does that and writes empty rows, with the reason, for what is missing. Every target has the
same rows, so two boards can be compared row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.judge.accuracy import AGREEMENT_ROWS, accuracy_figures
from harness.judge.agreement import Agreement
from harness.judge.context import TargetContext
from harness.judge.designs import with_designs
from harness.judge.device_rows import NETWORK_ROWS, PAIRED_ROWS, network_device_figures, paired_device_figures
from harness.judge.evaluate import Evaluation
from harness.judge.rejected import judged_blocks
from harness.judge.time_rows import RATIO_ROWS, TIME_ROWS, network_rows, ratio_rows
from harness.judge.timing import NetworkTiming, check_blocks, network_timing
from harness.record.figure import Figure, Network, Source
from harness.record.networks import Loading
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord, IdleWindow, SteadyClock, StoppingRule, TelemetryRecord

__all__ = [
    "EMULATED_TIME_NOTE",
    "TargetContext",
    "accuracy_figures",
    "empty_figures",
    "failed_figures",
    "memory_figures",
    "target_figures",
    "timing_figures",
]

EMULATED_TIME_NOTE = "an emulated board has no time"
EMULATED_DEVICE_NOTE = "an emulated board has no such reading; the stand-in's own would mislead"
DTYPE_NOTE = "counted from the dtypes of weights and biases, not from file size"
NO_BITSTREAM_NOTE = "no bitstream was loaded"

_BOTH = (Network.FLOAT, Network.QUANTIZED)
_TIME_ROWS = (*TIME_ROWS, ("load_ms", "ms"))
_DEVICE_ROWS = (
    ("peak_memory_bytes", "bytes"),
    ("cpu_percent", "percent"),
    *NETWORK_ROWS,
)
_FPGA_ROWS = (
    ("clock_mhz", "MHz"),
    ("conv_threads", ""),
    ("fc_threads", ""),
    ("lut_percent", "percent"),
    ("bram_percent", "percent"),
    ("dsp_percent", "percent"),
)

#: A board that lowered its clocks still measured something; every other failure leaves no figure to trust.
_STATUS_WITH_FIGURES = ("done", "throttled")


def target_figures(
    record: TargetRecord,
    float_eval: Evaluation | None,
    quantized_eval: Evaluation | None,
    *,
    metrics: Sequence[tuple[str, str]] = (("accuracy_top1", "fraction"),),
    float_learnable_bytes: int | None = None,
    quantized_learnable_bytes: int | None = None,
    agree: Agreement | None = None,
) -> list[Figure]:
    """All rows of one target.

    Args:
        record: what happened there.
        float_eval: None where it was not evaluated.
        quantized_eval: the same.
        metrics: (name, unit) of the job's metrics, for the empty rows of a target without evaluations.
        float_learnable_bytes: learnable memory of the float network.
        quantized_learnable_bytes: of the quantized one, counted from dtypes.
        agree: how closely the two follow each other, where it was accumulated chunk by chunk.

    Raises:
        BadResult: blocks that cannot be (see `timing.check_blocks`).
    """
    context = TargetContext.of(record)
    if record.status not in _STATUS_WITH_FIGURES:
        reason = f"{record.status}: {record.error}" if record.error else record.status
        return failed_figures(context, reason, metrics)
    throttled = f"{record.status}: {record.error}" if record.status == "throttled" else ""
    if float_eval is None or quantized_eval is None:
        figures = _empty_accuracy(context, metrics, "not evaluated")
    else:
        figures = accuracy_figures(context, float_eval, quantized_eval, agree)
    timing = timing_figures(
        context,
        record.blocks,
        record.loadings,
        record.telemetry,
        throttled,
        record.stopping,
        idle=record.idle,
        steady=record.steady_clocks,
    )
    figures += with_designs(context, timing, record.designs) if context.source is Source.EMULATED else timing
    return figures + memory_figures(context, float_learnable_bytes, quantized_learnable_bytes)


def timing_figures(
    context: TargetContext,
    blocks: Sequence[BlockRecord],
    loadings: Sequence[Loading],
    telemetry: Sequence[TelemetryRecord] = (),
    note: str = "",
    stopping: StoppingRule | None = None,
    *,
    idle: Sequence[IdleWindow] = (),
    steady: Mapping[Network, SteadyClock] | None = None,
) -> list[Figure]:
    """Rows about time and the device: fps, latency, load, memory, CPU, temperature, power, energy and the speed-up.

    A source other than `measured` has these rows too, all empty: a stand-in's time says nothing about the board.

    Args:
        context: of the target.
        blocks: timed blocks of both networks.
        loadings: how each network became ready.
        telemetry: the board's samples, if any.
        note: added to every row with a value, e.g. that the board throttled.
        stopping: by which rule the blocks were taken; None in records of older versions.
        idle: when the board was left alone.
        steady: the clocks that its blocks were held against.

    Raises:
        BadResult: blocks that cannot be.
    """
    if context.source is not Source.MEASURED:
        return _empty_timing(context, EMULATED_TIME_NOTE, EMULATED_DEVICE_NOTE)
    check_blocks(context.target, blocks)
    figures: list[Figure] = []
    counted, rejected = judged_blocks(blocks)
    note = "; ".join(part for part in (note, rejected) if part)
    for network in _BOTH:
        timing = network_timing(counted, network)
        figures += network_rows(context, network, timing, loadings, note)
        figures.append(_load_row(context, network, loadings))
        figures += _device_rows(context, network, timing)
        figures += network_device_figures(context, network, counted, telemetry, idle, note)
    figures += ratio_rows(context, counted if rejected else blocks, loadings, stopping, note)
    figures += paired_device_figures(context, blocks, counted, telemetry, idle, steady, note)
    return figures + _fpga_rows(context, NO_BITSTREAM_NOTE)


def memory_figures(context: TargetContext, float_bytes: int | None, quantized_bytes: int | None) -> list[Figure]:
    """Learnable memory of both networks and quantized / float."""
    ratio = quantized_bytes / float_bytes if float_bytes and quantized_bytes is not None else None
    notes = [DTYPE_NOTE]
    return [
        context.figure(Network.FLOAT, "learnable_memory_bytes", float_bytes, "bytes", notes=notes),
        context.figure(Network.QUANTIZED, "learnable_memory_bytes", quantized_bytes, "bytes", notes=notes),
        context.figure(Network.RATIO, "learnable_memory_ratio", ratio, "x", notes=notes),
    ]


def failed_figures(
    context: TargetContext, reason: str, metrics: Iterable[tuple[str, str]] = (("accuracy_top1", "fraction"),)
) -> list[Figure]:
    """Every row of a target that did not finish, all empty; the note is the reason ("crashed: …")."""
    figures = _empty_accuracy(context, metrics, reason) + _empty_timing(context, reason, reason)
    figures += empty_figures(context, _BOTH, [("learnable_memory_bytes", "bytes")], reason)
    return figures + empty_figures(context, [Network.RATIO], [("learnable_memory_ratio", "x")], reason)


def empty_figures(
    context: TargetContext, networks: Iterable[Network], rows: Iterable[tuple[str, str]], note: str
) -> list[Figure]:
    """Rows (metric, unit) without a value, for each network, with the reason as note."""
    listed = list(rows)
    return [
        context.figure(network, metric, None, unit, notes=(note,)) for network in networks for metric, unit in listed
    ]


def _empty_accuracy(context: TargetContext, metrics: Iterable[tuple[str, str]], note: str) -> list[Figure]:
    figures: list[Figure] = []
    for metric, unit in metrics:
        figures += empty_figures(context, _BOTH, [(metric, unit)], note)
        figures += empty_figures(context, [Network.RATIO], [(f"{metric}_delta", unit)], note)
    return figures + empty_figures(context, [Network.RATIO], AGREEMENT_ROWS, note)


def _empty_timing(context: TargetContext, time_note: str, device_note: str) -> list[Figure]:
    figures: list[Figure] = []
    for network in _BOTH:
        figures += empty_figures(context, [network], _TIME_ROWS, time_note)
        figures += empty_figures(context, [network], _DEVICE_ROWS, device_note)
    figures += empty_figures(context, [Network.RATIO], RATIO_ROWS, time_note)
    figures += empty_figures(context, [Network.RATIO], PAIRED_ROWS, device_note)
    return figures + _fpga_rows(context, NO_BITSTREAM_NOTE if context.source is Source.EMULATED else time_note)


def _fpga_rows(context: TargetContext, note: str) -> list[Figure]:
    return empty_figures(context, _BOTH, _FPGA_ROWS, note) if context.environment == "fpga" else []


def _load_row(context: TargetContext, network: Network, loadings: Sequence[Loading]) -> Figure:
    own = [item for item in loadings if item.network is network]
    fresh = [item for item in own if not item.already_loaded]
    if not fresh:
        why = "already loaded on the board: skipped" if own else "not loaded"
        return context.figure(network, "load_ms", None, "ms", notes=(why,))
    compiled = fresh[0].compile_ms
    why = "" if compiled is None else f"and {compiled:.0f} ms to compile for the board"
    return context.figure(network, "load_ms", fresh[0].load_ms, "ms", notes=(why,))


def _device_rows(context: TargetContext, network: Network, timing: NetworkTiming | None) -> list[Figure]:
    if timing is None:
        return empty_figures(context, [network], _DEVICE_ROWS[:2], "not timed")
    return [
        context.figure(
            network,
            "peak_memory_bytes",
            timing.peak_memory_bytes or None,
            "bytes",
            notes=("the network's whole process, runtime included",),
        ),
        context.figure(
            network,
            "cpu_percent",
            timing.cpu_percent,
            "percent",
            n=timing.blocks,
            notes=("100 = one logical processor",),
        ),
    ]
