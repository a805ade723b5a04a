"""From what the journal holds of a run to its figures: the bridge from `runs` to `judge`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.data import labels_at
from harness.data.functions import import_function
from harness.errors import BadResult
from harness.judge.agreement import Agreement, AgreementCounter
from harness.judge.evaluate import Chunk, Evaluation, evaluate
from harness.judge.metrics import Metric, resolve_metrics
from harness.judge.samples import write_samples
from harness.judge.summarize import target_figures
from harness.quantize import learnable_memory_bytes
from harness.record.figure import ARMS, Figure, Network
from harness.record.networks import SamplesRecord
from harness.record.target import TargetRecord
from harness.runs.decoding import Decode, as_they_are, decode_of
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan
from harness.runs.samples import SampleReader
from harness.store import Store


def figures_of(
    plan: Plan, store: Store, records: Sequence[TargetRecord], reader: SampleReader
) -> tuple[tuple[Figure, ...], tuple[TargetRecord, ...]]:
    """All figures of a run.

    Returns:
        (figures, records): a record whose evidence cannot be (a NaN, an impossible latency) comes back as failed;
        the others with the digests of what their metrics were computed from.

    Raises:
        UserError: a metric or the labels cannot be used.
    """
    base = plan.job.path.parent
    metrics = resolve_metrics(plan.job.metrics, lambda spec: import_function(spec, base))
    names = [(metric.name, metric.unit) for metric in metrics]
    decode = decode_of(plan.job)
    float_bytes = learnable_memory_bytes(plan.job.model)
    figures: list[Figure] = []
    judged: list[TargetRecord] = []
    for record in records:
        outputs = OutputStore(store, plan.run_id, record.name, plan.out)
        try:
            both = _evaluations(record, plan, reader, outputs, metrics, decode)
            classified = any(metric.takes == "classes" for metric in metrics)
            agree = _agreement(reader, outputs, decode if classified else as_they_are) if all(both) else None
            rows = target_figures(
                record,
                *both,
                metrics=names,
                float_learnable_bytes=float_bytes,
                quantized_learnable_bytes=record.quantized.learnable_bytes if record.quantized else None,
                agree=agree,
            )
        except BadResult as error:
            failed = record.failed(error.status, error.message)
            rows = target_figures(failed, None, None, metrics=names)
            judged.append(failed)
        else:
            judged.append(replace(record, samples=_keep(plan, record.name, [one for one in both if one is not None])))
        figures += rows
    return tuple(figures), tuple(judged)


def _evaluations(
    record: TargetRecord,
    plan: Plan,
    reader: SampleReader,
    outputs: OutputStore,
    metrics: Sequence[Metric],
    decode: Decode,
) -> tuple[Evaluation | None, Evaluation | None]:
    if record.status not in {"done", "throttled"}:
        return None, None
    first, second = (
        evaluate(
            _chunks(plan, reader, outputs, network, decode),
            metrics,
            target=record.name,
            network=network,
            keep_scores=False,
        )
        for network in ARMS
    )
    return first, second


def _chunks(
    plan: Plan,
    reader: SampleReader,
    outputs: OutputStore,
    network: Network,
    decode: Decode,
) -> Iterator[Chunk]:
    for chunk, arrays in zip(reader.chunks, outputs.read(network, list(reader.chunks)), strict=True):
        indices = reader.indices_of(chunk)
        ids = [plan.data.ids[index] for index in indices]
        yield ids, decode(arrays), labels_at(plan.data, indices)


def _agreement(reader: SampleReader, outputs: OutputStore, decode: Decode) -> Agreement | None:
    """How closely the networks follow each other; None where they have several outputs.

    Class scores are compared as the metric takes them. Boxes after suppression or class maps have no distance: there
    the networks' own outputs are compared.
    """
    counter = AgreementCounter()
    chunks = list(reader.chunks)
    for pair in zip(*(outputs.read(network, chunks) for network in ARMS), strict=True):
        first, second = (decode(arrays) for arrays in pair)
        if len(first) != 1:
            return None
        (name,) = first
        counter.update(first[name], second[name])
    return counter.result()


def _keep(plan: Plan, target: str, evaluations: Sequence[Evaluation]) -> tuple[SamplesRecord, ...]:
    """Write what each sample contributed to the metrics, network by network."""
    labels = None if plan.data.labels is None else plan.data.labels[list(plan.samples)]
    kept = []
    for one in evaluations:
        path, digest = write_samples(plan.out, target, one, labels)
        without = tuple(result.name for result in one.results if result.rows is None)
        kept.append(SamplesRecord(one.network, path, digest, tuple(r.name for r in one.results), without))
    return tuple(kept)
