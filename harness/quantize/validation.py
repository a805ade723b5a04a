"""Float and int8 network side by side on this machine: the emulated form of `validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data import network_inputs
from harness.errors import UserError
from harness.quantize.feed import Batch, InputSpec, checked, input_specs, passes
from harness.quantize.graph import Graph, read_model
from harness.quantize.learnables import learnable_memory_bytes
from harness.quantize.lift import separate_constants
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.runtime import open_session, sqnr_db, with_outputs
from harness.quantize.score import rounded_tensors, scored_tensors
from harness.quantize.sequence import Stateful, one_by_one, zero_state

#: (outputs of the network [N, …], labels [N]) → figure.
MetricFunction = Callable[[NDArray[Any], NDArray[Any]], float]
#: What a tensor held, one array a pass of the network.
Parts = Sequence[NDArray[Any]]
_METRIC_COLUMNS = ("Metric", "NetworkImplementation", "MetricOutput")
FLOAT, INT8 = "Floating-Point", "Quantized"


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """The published result of `validate`.

    Args:
        NumSamples: how many samples.
        MetricResults: columns Metric, NetworkImplementation, MetricOutput; two rows a metric.
        Statistics: columns NetworkImplementation, FramesPerSecond (empty: not measured here),
            LearnableParameterMemory(bytes).
        sqnr_db: of the scores, before a final softmax.
        top1_agreement: share of samples on which both networks pick the same class; None without class scores.
        note: whose arithmetic the int8 figures are, and how far that claim goes; "" where the runtime's own is meant.
    """

    NumSamples: int
    MetricResults: pd.DataFrame
    Statistics: pd.DataFrame
    sqnr_db: float
    top1_agreement: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class StandIn:
    """A network that is run in place of the int8 one: the same integers, in a board's own arithmetic.

    Args:
        path: its file.
        disabled_optimizers: ONNX Runtime optimizers that must not run on it.
        note: whose arithmetic it is.
    """

    path: Path
    disabled_optimizers: tuple[str, ...]
    note: str


def top_k(k: int) -> MetricFunction:
    """Share of samples whose label is among the k highest scores."""

    def accuracy(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
        scores = outputs.reshape(len(outputs), -1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return float((best == labels.reshape(-1, 1)).any(axis=1).mean())

    return accuracy


METRICS: Mapping[str, MetricFunction] = {"accuracy_top1": top_k(1), "accuracy_top5": top_k(5)}


def validate(
    float_model: Path,
    quantized: QuantizedModel,
    data: Iterable[tuple[Batch, NDArray[Any] | None]],
    metrics: Sequence[str | MetricFunction] | None = None,
    state: Mapping[str, str] | None = None,
    stand_in: StandIn | None = None,
) -> ValidationResult:
    """Run both networks over labelled data through ONNX Runtime on this machine.

    Args:
        float_model: the float network.
        quantized: its int8 form.
        data: stream of (inputs, labels or None).
        metrics: names (accuracy_top1, accuracy_top5) or functions; None: accuracy_top1 where there are labels.
        state: {input: output} of a recurrent network, which the data then lack: samples come in the order of time, and
            each network is fed the state that it made itself.
        stand_in: run in place of the int8 network, with the same names of inputs and outputs; what is said of memory
            stays that of the int8 network. None: the int8 network runs as it is.

    Raises:
        UserError: no data, an unknown metric, or a metric without labels.
    """
    both = [read_model(Path(float_model)), read_model(quantized.path)]
    separate_constants(both[0])
    graph = Graph(both[0])
    specs = input_specs(graph)
    rounded = rounded_tensors(Graph(both[1]))
    disabled, executed = quantized.disabled_optimizers, quantized.path
    # Of the float file as it is: names of inner tensors survive in the int8 one only where nothing folded.
    known = set(Graph(both[1]).producer)
    if stand_in is not None:
        both[1], disabled, executed = read_model(stand_in.path), stand_in.disabled_optimizers, stand_in.path
        there = set(Graph(both[1]).producer)
        known = {name for name in known if rounded.get(name, name) in there}
    carried = dict(state or {})
    results = [name for name in graph.outputs if name not in carried.values()]
    scored = tuple(name for name in scored_tensors(graph) if name in known and name not in carried.values()) or tuple(
        results
    )
    shown = tuple(dict.fromkeys((results[0], *scored)))
    shown_by = (shown, tuple(rounded.get(name, name) for name in shown))
    sessions = [
        open_session(with_outputs(model, (*names, *carried.values()), only=True), str(what), disabled_optimizers=off)
        for model, names, what, off in (
            (both[0], shown_by[0], float_model, ()),
            (both[1], shown_by[1], executed, disabled),
        )
    ]
    outputs: tuple[list[list[NDArray[Any]]], ...] = ([], [])
    labels: list[NDArray[Any]] = []
    samples = 0
    first = zero_state(network_inputs(Path(float_model)), carried) if carried else {}
    arms = [Stateful(session, names, carried, first) for session, names in zip(sessions, shown_by, strict=True)]
    for batch, given in data:
        for inputs, count in _steps(batch, specs, carried):
            for collected, arm in zip(outputs, arms, strict=True):
                collected.append([value[:count] for value in arm.run(inputs, "validation data")])
            samples += count
        if given is not None:
            labels.append(np.asarray(given).reshape(-1))
    if not samples:
        msg = "validation data: no sample; give at least one"
        raise UserError(msg)
    # Per tensor one part a pass: parts of a free axis other than the batch need not be of one length.
    parts = [list(zip(*runs, strict=True)) for runs in outputs]
    truth = np.concatenate(labels) if labels else None
    reference, other = (
        np.concatenate([part.reshape(-1) for tensor in tensors[-len(scored) :] for part in tensor]) for tensors in parts
    )
    return ValidationResult(
        samples,
        _metric_table(parts[0][0], parts[1][0], truth, metrics),
        _statistics(Path(float_model), quantized.path),
        sqnr_db(reference, other),
        _agreement(parts[0][0], parts[1][0]),
        "" if stand_in is None else stand_in.note,
    )


def _steps(
    batch: Batch, specs: tuple[InputSpec, ...], state: Mapping[str, str]
) -> Iterator[tuple[Mapping[str, NDArray[Any]], int]]:
    """(inputs of one pass, number of samples); of a recurrent network without its state."""
    if not state:
        yield from passes([batch], specs, "validation data")
        return
    fed = tuple(spec for spec in specs if spec.name not in state)
    for sample in one_by_one([checked(batch, fed, "validation data")]):
        yield sample, 1


def _joined(parts: Parts) -> NDArray[Any]:
    if len({part.shape[1:] for part in parts}) > 1:
        msg = "metrics need outputs of one shape; validate with batches of one length, or with metrics=[]"
        raise UserError(msg)
    return np.concatenate(parts)


def _metric_table(
    first_parts: Parts,
    second_parts: Parts,
    labels: NDArray[Any] | None,
    metrics: Sequence[str | MetricFunction] | None,
) -> pd.DataFrame:
    chosen = metrics if metrics is not None else (["accuracy_top1"] if labels is not None else [])
    if not chosen:
        return pd.DataFrame([], columns=list(_METRIC_COLUMNS))
    first, second = _joined(first_parts), _joined(second_parts)
    rows = []
    for metric in chosen:
        if isinstance(metric, str) and metric not in METRICS:
            msg = f"metric {metric!r} is unknown; choose one of {', '.join(METRICS)}, or give a function"
            raise UserError(msg)
        if labels is None or len(labels) != len(first):
            msg = "metrics need one label per sample; give (inputs, labels) pairs"
            raise UserError(msg)
        function = METRICS[metric] if isinstance(metric, str) else metric
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        rows += [(name, FLOAT, function(first, labels)), (name, INT8, function(second, labels))]
    return pd.DataFrame(rows, columns=list(_METRIC_COLUMNS))


def _statistics(first: Path, second: Path) -> pd.DataFrame:
    rows = [(FLOAT, None, learnable_memory_bytes(first)), (INT8, None, learnable_memory_bytes(second))]
    return pd.DataFrame(
        rows, columns=["NetworkImplementation", "FramesPerSecond", "LearnableParameterMemory(bytes)"]
    ).astype({"FramesPerSecond": "Float64"})


def _agreement(first: Parts, second: Parts) -> float | None:
    same = []
    for part, other in zip(first, second, strict=True):
        flat, its = part.reshape(len(part), -1), other.reshape(len(other), -1)
        if flat.shape[1] < 2:  # one number per sample picks no class
            return None
        same.append(flat.argmax(axis=1) == its.argmax(axis=1))
    return float(np.concatenate(same).mean())
