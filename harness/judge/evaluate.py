"""One network's outputs on one target, streamed into an `Evaluation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import BadResult, UserError
from harness.judge.metrics import Formula, Labels, Metric, NotFinite, Outputs, PerSample, Rows, join_rows
from harness.record.figure import Network

#: (sample ids, outputs by name with samples on the first axis, labels of as many samples or None)
Chunk = tuple[Sequence[str], Outputs, Labels | None]


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A metric of one network.

    Args:
        name: of the metric.
        unit: of the metric.
        value: over all samples; NaN where the metric does not exist.
        per_sample: float64[N] where the metric has one value a sample, in the order of the ids.
        rows: what each sample contributes, in the order of the ids; None for one number over the whole set.
        formula: from rows to the value.
    """

    name: str
    unit: str
    value: float
    per_sample: PerSample | None
    rows: Rows | None = None
    formula: Formula | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one network's outputs were worth.

    Args:
        network: which of the two.
        ids: sample ids in the order they came.
        results: one for each metric, in the job's order.
        scores: the output compared between the networks, samples first; None when the network has several outputs and
            none was named. Held in memory: N x C values.
    """

    network: Network
    ids: tuple[str, ...]
    results: tuple[MetricResult, ...]
    scores: NDArray[Any] | None


def evaluate(
    chunks: Iterable[Chunk],
    metrics: Sequence[Metric],
    *,
    target: str,
    network: Network,
    scores_output: str | None = None,
    keep_scores: bool = True,
) -> Evaluation:
    """Score a stream of outputs.

    A metric with rows is computed chunk by chunk; for another one all outputs are kept until the end.

    Args:
        chunks: outputs as they come back from the board (after the job's postprocessing).
        metrics: from `resolve_metrics`.
        target: named in an error.
        network: named in an error.
        scores_output: the output to compare between the networks, where there are several.
        keep_scores: hold that output in memory; False where the networks are compared chunk by chunk.

    Raises:
        BadResult: an output that is NaN or infinite (names the sample), or that lacks samples.
        UserError: no sample, missing labels, labels outside the classes.
    """
    ids: list[str] = []
    running: dict[str, list[Rows]] = {m.name: [] for m in metrics}
    whole = [m for m in metrics if m.rows is None]
    kept: dict[str, list[NDArray[Any]]] = {}
    labels_kept: list[Labels] = []
    for chunk_ids, outputs, labels in chunks:
        if not chunk_ids:
            continue
        _check(chunk_ids, outputs, target, network)
        if metrics and (labels is None or len(labels) != len(chunk_ids)):
            msg = f"{metrics[0].name} needs a label for every sample; {chunk_ids[0]!r} and others have none"
            raise UserError(msg)
        ids.extend(chunk_ids)
        made: dict[Callable[[Outputs, Labels], Rows], Rows] = {}  # metrics that share a function share its rows
        for metric in metrics:
            if metric.rows is not None and labels is not None:
                if metric.rows not in made:
                    made[metric.rows] = _rows(metric.rows, chunk_ids, outputs, labels)
                running[metric.name].append(made[metric.rows])
        for name in outputs if whole else _scores_names(outputs, scores_output) if keep_scores else ():
            kept.setdefault(name, []).append(np.asarray(outputs[name]))
        if whole and labels is not None:
            labels_kept.append(labels)
    if not ids:
        msg = f"{target}: no sample was evaluated: is the validation split empty?"
        raise UserError(msg)
    # outputs of another shape chunk by chunk matter only to a function that wants all of them
    joined = {name: _stacked(name, parts) for name, parts in kept.items() if whole or _same_shape(parts)}
    all_labels = _joined(labels_kept)
    results = tuple(
        _of_rows(m, join_rows(running[m.name]))
        if m.rows is not None
        else _result(m, _whole(m, joined, all_labels, ids, f"{network} on {target}"))
        for m in metrics
    )
    scores_names = _scores_names(joined, scores_output) if keep_scores else []
    return Evaluation(network, tuple(ids), results, joined[scores_names[0]] if scores_names else None)


def _rows(function: Callable[[Outputs, Labels], Rows], ids: Sequence[str], outputs: Outputs, labels: Labels) -> Rows:
    try:
        return function(outputs, labels)
    except UserError as error:
        where = f"sample {ids[0]!r}" if len(ids) == 1 else f"samples {ids[0]!r} to {ids[-1]!r}"
        msg = f"{where}: {error}"
        raise UserError(msg) from error


def _same_shape(parts: Sequence[NDArray[Any]]) -> bool:
    return len({part.shape[1:] for part in parts}) == 1


def _stacked(name: str, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = ", ".join(str(list(shape)) for shape in dict.fromkeys(part.shape[1:] for part in parts))
        msg = f"output {name!r}: samples of different shapes ({shapes}); a function over the whole set needs one: "
        raise UserError(f"{msg}let postprocess pad them, or use a metric that is computed chunk by chunk") from None


def _joined(parts: Sequence[Labels]) -> Labels:
    """Labels of all chunks: an array where each chunk's are one, else a list with one entry a sample."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts) if parts else np.empty(0)
    return [label for part in parts for label in part]


def _of_rows(metric: Metric, rows: Rows) -> MetricResult:
    per_sample = metric.formula.per_sample(rows)
    return MetricResult(metric.name, metric.unit, metric.formula.value(rows), per_sample, rows, metric.formula)


def _whole(metric: Metric, outputs: Outputs, labels: Labels, ids: Sequence[str], of: str) -> float | PerSample:
    try:
        return metric.compute(outputs, labels)
    except NotFinite as error:
        which = f"all {len(ids)} samples" if error.index is None else f"sample {ids[error.index]!r}"
        raise error.at(f"{which} of {of}") from error


def _result(metric: Metric, value: float | PerSample) -> MetricResult:
    if isinstance(value, float):
        return MetricResult(metric.name, metric.unit, value, None)
    return _of_rows(metric, Rows({"value": value}))


def _scores_names(outputs: Outputs, named: str | None) -> list[str]:
    if named is not None and named in outputs:
        return [named]
    return list(outputs) if len(outputs) == 1 else []


def _check(ids: Sequence[str], outputs: Outputs, target: str, network: Network) -> None:
    for name, values in outputs.items():
        array = np.asarray(values)
        if array.ndim == 0 or array.shape[0] != len(ids):
            what = f"output {name!r} of {network} has shape {array.shape} for {len(ids)} samples"
            raise BadResult(target, f"{what}: check that the network keeps samples on the first axis")
        if not np.issubdtype(array.dtype, np.inexact):
            continue
        bad = ~np.isfinite(array).reshape(len(ids), -1).all(axis=1)
        if bad.any():
            sample = ids[int(np.flatnonzero(bad)[0])]
            what = f"NaN or infinite values in output {name!r} of {network} for sample {sample!r}"
            others = f" and {int(bad.sum()) - 1} more of its batch" if bad.sum() > 1 else ""
            raise BadResult(target, f"{what}{others}: check the preprocessing and the network with `quantrig inspect`")
