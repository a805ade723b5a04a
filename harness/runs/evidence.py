"""From what the journal holds of a run to its figures: the bridge from `runs` to `judge`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from harness.data.functions import import_function, plugin_error
from harness.errors import BadResult, UserError
from harness.judge.evaluate import Chunk, Evaluation, evaluate
from harness.judge.figure import Figure, Network
from harness.judge.metrics import Metric, resolve_metrics
from harness.judge.summarize import target_figures
from harness.quantize import learnable_memory_bytes
from harness.record import TargetRecord
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan
from harness.runs.samples import Array, SampleReader
from harness.store import Store

_ARMS = (Network.FLOAT, Network.QUANTIZED)


def figures_of(
    plan: Plan, store: Store, records: Sequence[TargetRecord], reader: SampleReader
) -> tuple[tuple[Figure, ...], tuple[TargetRecord, ...]]:
    """All figures of a run.

    Returns:
        (figures, records): a record whose evidence cannot be (a NaN, an impossible latency) comes back as failed.

    Raises:
        UserError: a metric or the labels cannot be used.
    """
    base = plan.job.path.parent
    metrics = resolve_metrics(plan.job.metrics, lambda spec: import_function(spec, base))
    names = [(metric.name, metric.unit) for metric in metrics]
    decode = _postprocess(plan)
    float_bytes = learnable_memory_bytes(plan.job.model)
    figures: list[Figure] = []
    judged: list[TargetRecord] = []
    for record in records:
        outputs = OutputStore(store, plan.run_id, record.name, plan.out)
        try:
            both = _evaluations(record, plan, reader, outputs, metrics, decode)
            rows = target_figures(
                record,
                *both,
                metrics=names,
                float_learnable_bytes=float_bytes,
                quantized_learnable_bytes=record.quantized.learnable_bytes if record.quantized else None,
            )
        except BadResult as error:
            failed = record.failed(error.status, error.message)
            rows = target_figures(failed, None, None, metrics=names)
            judged.append(failed)
        else:
            judged.append(record)
        figures += rows
    return tuple(figures), tuple(judged)


def _evaluations(
    record: TargetRecord,
    plan: Plan,
    reader: SampleReader,
    outputs: OutputStore,
    metrics: Sequence[Metric],
    decode: Callable[[dict[str, Array]], dict[str, Array]],
) -> tuple[Evaluation | None, Evaluation | None]:
    if record.status not in {"done", "throttled"}:
        return None, None
    first, second = (
        evaluate(_chunks(plan, reader, outputs, network, decode), metrics, target=record.name, network=network)
        for network in _ARMS
    )
    return first, second


def _chunks(
    plan: Plan,
    reader: SampleReader,
    outputs: OutputStore,
    network: Network,
    decode: Callable[[dict[str, Array]], dict[str, Array]],
) -> Iterator[Chunk]:
    labels = plan.data.labels
    for chunk, arrays in zip(reader.chunks, outputs.read(network, list(reader.chunks)), strict=True):
        indices = reader.indices_of(chunk)
        ids = [plan.data.ids[index] for index in indices]
        yield ids, decode(arrays), None if labels is None else np.asarray(labels)[list(indices)]


def _postprocess(plan: Plan) -> Callable[[dict[str, Array]], dict[str, Array]]:
    spec = plan.job.postprocess
    if spec is None:
        return lambda outputs: outputs
    function = import_function(spec, plan.job.path.parent)

    def decode(outputs: dict[str, Array]) -> dict[str, Array]:
        try:
            result: Any = function(outputs)
        except Exception as error:
            raise plugin_error(spec, error) from error
        if isinstance(result, dict):
            return result
        if isinstance(result, np.ndarray):
            return {"output": result}
        message = f"{spec}: returned a {type(result).__name__}; return an array or a dict of arrays by name"
        raise UserError(message)

    return decode
