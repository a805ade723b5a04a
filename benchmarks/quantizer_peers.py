"""The whole quantizer against those of the field, on the same images, in the same run.

    python -m benchmarks.quantizer_peers --networks mobilenet --quick

Each tool runs in a process of its own with one thread: CPU seconds and peak memory of the call and of the whole
process. What it made is compared with float on the evaluation images, before the final softmax. The peers come from
their own packages in an environment of their own, which `make bench` builds from benchmarks/peers/requirements.txt.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import document, quantizer_latency, quantizer_networks
from benchmarks.figures import Effort, Goal, Result, Row
from benchmarks.peer_runs import PEERS_PYTHON, Tool, ToolFailed, Used, measure, ours
from benchmarks.peers.measuring import Task
from benchmarks.quantizer_evaluation import Comparison, Evaluator

NETWORKS = ("squeezenet", "mobilenet")
#: Where quoted figures come from: other images of the same kind, the same versions, 2 processors with VNNI.
SOURCE = "published: an earlier survey, 488 other ImageNet images"

_STATIC, _NNCF, _QUARK = (f"benchmarks.peers.{name}" for name in ("onnxruntime_static", "nncf_onnx", "quark_onnx"))
#: agreement / dB / CPU seconds.
TOOLS = (
    Tool(
        "ONNX Runtime Entropy",
        _STATIC,
        "Entropy",
        published={"mobilenet": ".707 / 11.1 / 8.5", "squeezenet": ".945 / 30.8 / 27.2"},
    ),
    Tool(
        "ONNX Runtime MinMax",
        _STATIC,
        "MinMax",
        published={"mobilenet": ".707 / 11.1 / 1.1", "squeezenet": ".945 / 30.8 / 3.6"},
    ),
    Tool(
        "ONNX Runtime Percentile",
        _STATIC,
        "Percentile",
        published={"mobilenet": ".703 / 11.1 / 6.5", "squeezenet": ".955 / 32.0 / 15.4"},
    ),
    Tool(
        "NNCF, fast bias correction",
        _NNCF,
        "fast",
        published={"mobilenet": ".758 / 12.9 / 2.9", "squeezenet": ".969 / 26.5 / 6.5"},
    ),
    Tool("NNCF, full bias correction", _NNCF, "full", published={"mobilenet": ".875 / 20.0 / 3.7"}),
    Tool(
        "AMD Quark XINT8",
        _QUARK,
        "XINT8",
        rival="fpga",
        published={"mobilenet": ".000 / - / 11.9 (N = 64)", "squeezenet": ".752 / 22.3 / 20.2 (N = 64)"},
    ),
)
#: Not run: it takes longer than everything else together.
ADAROUND = {"mobilenet": f"AMD Quark XINT8 + AdaRound .742 / 12.3 dB / 464 s (N = 64; {SOURCE})"}
#: Ours over ONNX Runtime Entropy: CPU seconds, memory.
GOALS = {"Entropy": (Goal("ratio", most=0.333), Goal("ratio", most=0.1))}
#: Variants that a goal is held against, and ours: run more than once.
REPEATED = {*GOALS, "cpu"}


@dataclass(frozen=True)
class Run:
    """All repetitions of one tool on one network.

    Args:
        tool: which.
        used: one value a repetition.
        comparison: of the last int8 file with float; None of a calibration alone.
        out: that file.
    """

    tool: Tool
    used: tuple[Used, ...]
    comparison: Comparison | None
    out: Path


def run(effort: Effort) -> Result:
    """Both networks and every tool; a try-out takes MobileNet, one peer of each package and few images."""
    networks = ("mobilenet",) if effort.is_quick else NETWORKS
    tools = tuple(tool for tool in TOOLS if not effort.is_quick or tool.variant in {"MinMax", "Entropy"})
    return compare(networks, tools, effort)


def compare(networks: Sequence[str], tools: Sequence[Tool], effort: Effort) -> Result:
    """Rows of these networks and tools.

    Args:
        networks: of `NETWORKS`.
        tools: of `TOOLS`.
        effort: a quick one calibrates with 32 images and evaluates on 64.
    """
    if reason := quantizer_networks.missing():
        return Result((), (f"the quantizer against its peers: {reason}",))
    rows: list[Row] = []
    skipped: list[str] = []
    if not PEERS_PYTHON.exists():
        quoted = "; ".join(f"{tool.name}: {_quoted(tool, networks)}" for tool in tools)
        skipped.append(f"peers of the quantizer: `make bench` installs them ({SOURCE}: {quoted})")
        tools = ()
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            found, failed = _network(name, tools, effort, Path(folder))
            rows += found
            skipped += failed
    return Result(tuple(rows), tuple(skipped))


def _quoted(tool: Tool, networks: Sequence[str]) -> str:
    return ", ".join(f"{name} {tool.published[name]}" for name in networks if name in tool.published)


def _network(name: str, tools: Sequence[Tool], effort: Effort, folder: Path) -> tuple[list[Row], list[str]]:
    network = quantizer_networks.load(name, 32 if effort.is_quick else None)
    evaluator = Evaluator(network, 64 if effort.is_quick else None)
    ((input_name, samples),) = network.calibration.items()
    np.save(folder / "samples.npy", samples)
    task = Task(network.model, folder / "samples.npy", input_name, folder / "out.onnx", "")
    repetitions = 1 if effort.is_quick else 2
    environments = dict.fromkeys(["cpu", *(tool.rival for tool in tools)])
    candidates = [replace(ours(rules), rival=rules) for rules in environments] + list(tools)
    runs, skipped = _take_turns(candidates, task, evaluator, repetitions, name)
    rows = list(_rows(name, len(samples), runs))
    rows += _calibration_rows(name, task, repetitions, len(samples)) if tools else []
    latency = {run.tool.variant: run for run in runs if run.tool.variant in {"cpu", "MinMax"}}
    if len(latency) == 2:
        mine = latency["cpu"]
        disabled = mine.used[-1].note["disabled_optimizers"]
        files = {"float": (network.model, ()), "ours": (mine.out, disabled), "peer": (latency["MinMax"].out, ())}
        rows.append(quantizer_latency.row(name, files, effort))
    return rows, skipped


def _take_turns(
    candidates: Sequence[Tool], task: Task, evaluator: Evaluator, repetitions: int, name: str
) -> tuple[list[Run], list[str]]:
    """Every tool, those of a goal as often as asked, in an order that turns around."""
    used: dict[Tool, list[Used]] = {}
    failed: dict[str, str] = {}
    for number in range(repetitions):
        for tool in candidates if number % 2 == 0 else reversed(candidates):
            if tool.name in failed or (number and tool.variant not in REPEATED):
                continue
            print(f"  {name}: {tool.name} {tool.variant}", flush=True)
            try:
                used.setdefault(tool, []).append(measure(tool, _task_of(tool, task)))
            except ToolFailed as error:
                if tool.is_ours:
                    raise
                failed[tool.name] = f"{tool.name} on {name}: {error}"
    runs = []
    for tool in candidates:
        if tool.name not in failed:
            out = _task_of(tool, task).out
            disabled = used[tool][-1].note.get("disabled_optimizers", [])
            runs.append(Run(tool, tuple(used[tool]), evaluator.compare(out, disabled), out))
    return runs, list(failed.values())


def _task_of(tool: Tool, task: Task) -> Task:
    folder = task.out.parent / f"{tool.module.rpartition('.')[2]}.{tool.variant}"
    folder.mkdir(exist_ok=True)
    return replace(task, variant=tool.variant, out=folder / "int8.onnx")


def _rows(name: str, samples: int, runs: Sequence[Run]) -> Iterator[Row]:
    """What each peer cost against ours under the same rules, and what came out."""
    mine = {run.tool.variant: run for run in runs if run.tool.is_ours}
    for rules, own in mine.items():
        peers = [run for run in runs if not run.tool.is_ours and run.tool.rival == rules]
        quoted = [ADAROUND[name]] if rules == "fpga" and name in ADAROUND else []
        told = "; ".join([*(f"{peer.tool.name} {_outcome(peer)}" for peer in peers), *quoted])
        assert own.comparison is not None
        yield Row(
            f"{name}, {rules}, N = {samples}: top-1 agreement with float",
            "",
            (own.comparison.agreement or 0.0,),
            note=f"ours {_outcome(own)}; {told}" if told else f"ours {_outcome(own)}",
        )
        for peer in peers:
            cpu, memory = GOALS.get(peer.tool.variant, (None, None))
            where = f"{name}, {rules}, N = {samples}"
            yield _pair(f"{where}: whole quantize, CPU", "s", "call_cpu_s", own, peer, cpu)
            yield _pair(f"{where}: whole quantize, memory above the start", "MB", "call_growth_mb", own, peer, memory)
            if cpu is not None:
                yield _pair(f"{where}: the whole process, CPU", "s", "process_cpu_s", own, peer, None)
                yield _pair(f"{where}: the whole process, peak memory", "MB", "process_peak_mb", own, peer, memory)


def _outcome(run: Run) -> str:
    """Agreement, SQNR and the labels' discordant pairs."""
    result = run.comparison
    assert result is not None
    return f"{result.agreement:.3f} / {result.sqnr_db:.1f} dB / b {result.b} c {result.c} n {result.n}"


def _pair(figure: str, unit: str, field: str, own: Run, peer: Run, goal: Goal | None) -> Row:
    return Row(
        figure,
        unit,
        tuple(getattr(used, field) for used in own.used[: len(peer.used)]),
        peer_name=peer.tool.name,
        peer=tuple(getattr(used, field) for used in peer.used),
        goal=goal,
    )


def _calibration_rows(name: str, task: Task, repetitions: int, samples: int) -> Iterator[Row]:
    """The calibrators alone: CPU as a multiple of a plain optimized pass, and how memory grows with the samples."""
    plain = [measure(ours("plain"), task_plain).call_cpu_s for task_plain in [_variant(task, "plain")] * repetitions]
    for mine, theirs in (("minmax", "MinMax"), ("histogram", "Entropy")):
        tools = (ours(f"calibrate {mine}"), Tool(f"ONNX Runtime {theirs}", _STATIC, f"calibrate {theirs}"))
        taken = [[measure(tool, _variant(task, tool.variant)) for _ in range(repetitions)] for tool in tools]
        first, second = (
            tuple(used.call_cpu_s / base for used, base in zip(side, plain, strict=True)) for side in taken
        )
        yield Row(
            f"{name}, N = {samples}: calibration ({mine}) over a plain optimized pass, CPU of the whole call",
            "x",
            first,
            peer_name=tools[1].name,
            peer=second,
        )
        few = [measure(tool, replace(_variant(task, tool.variant), count=samples // 4)) for tool in tools]
        yield Row(
            f"{name}: memory of the calibration ({mine}) above the start, N = {samples} over N = {samples // 4}",
            "x",
            (taken[0][-1].call_growth_mb / few[0].call_growth_mb,),
            peer_name=tools[1].name,
            peer=(taken[1][-1].call_growth_mb / few[1].call_growth_mb,),
        )


def _variant(task: Task, variant: str) -> Task:
    return _task_of(ours(variant), task)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizer_peers", description=__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, comma between")
    parser.add_argument("--tools", default="", help="part of their names, comma between (default: all)")
    parser.add_argument("--quick", action="store_true", help="few images, once")
    arguments = parser.parse_args()
    wanted = [part.lower() for part in arguments.tools.split(",")]
    tools = [tool for tool in TOOLS if any(part in tool.name.lower() for part in wanted)]
    result = compare(arguments.networks.split(","), tools, Effort.quick() if arguments.quick else Effort())
    for row in result.rows:
        print(document.line(row))
    for reason in result.skipped:
        print(f"not measured: {reason}")


if __name__ == "__main__":
    main()
