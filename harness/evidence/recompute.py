"""Every figure of a run once more, from the raw data of a bundle, by the functions that made it first."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import BadResult, UserError
from harness.evidence.again import distances_again, same, with_network
from harness.judge.agreement import Agreement, AgreementCounter
from harness.judge.context import TargetContext
from harness.judge.evaluate import Evaluation, MetricResult
from harness.judge.gates_units import LSB
from harness.judge.metrics import Rows, formula_of
from harness.judge.metrics.names import built_in
from harness.judge.reference import apart_file, outputs_file, read_apart, read_reference
from harness.judge.samples import KeptSamples, read_samples
from harness.judge.summarize import target_figures
from harness.quantize import learnable_memory_bytes
from harness.record.figure import Figure, Network, Source
from harness.record.run import RunRecord
from harness.record.target import TargetRecord

_ARMS = (Network.FLOAT, Network.QUANTIZED)
_AGREEMENT = ("top1_agreement", "sqnr_db", "cosine", "max_abs_diff")
_WITH_FIGURES = ("done", "throttled")
#: What compressed arrays may expand to; a run's samples are megabytes.
MOST_ARRAY_BYTES = 2 << 30
#: (target, network, metric)
Key = tuple[str, Network, str]
#: Relative path in the run's folder → content, None where the bundle has none.
Read = Callable[[str], bytes | None]


@dataclass
class Recomputed:
    """What the raw data say.

    Args:
        figures: by key.
        reasons: why a figure cannot be had from this bundle, by key.
        kept: why a figure was computed from what the run kept of its outputs and not from the outputs, by key.
        faults: raw data that contradict each other, one line each.
    """

    figures: dict[Key, Figure] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)
    kept: dict[Key, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def recompute_run(record: RunRecord, read: Read, outputs: Mapping[str, Any]) -> Recomputed:
    """All figures of a run.

    Args:
        record: as run.json holds it; its figures are not used, its blocks, telemetry and the like are.
        read: the run's files.
        outputs: content of outputs.json: target → network → chunks.
    """
    found = Recomputed()
    float_bytes = _memory(read, record.model_digest)
    for target in record.targets:
        try:
            _target(record, target, read, outputs, float_bytes, found)
        except (UserError, BadResult, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            found.faults.append(f"{target.name}: the raw data cannot be used: {error}")
    return found


def _target(
    record: RunRecord,
    target: TargetRecord,
    read: Read,
    outputs: Mapping[str, Any],
    float_bytes: int | None,
    found: Recomputed,
) -> None:
    chunks = {network: _chunks(outputs, target.name, network) for network in _ARMS}
    metrics = [str(name) for name in _list(record.job.get("metrics"))]
    postprocess = record.job.get("postprocess") is not None
    evaluations, without = _evaluations(target, read, found)
    if evaluations is not None:
        _rows_from_outputs(target, metrics, evaluations, chunks, read, found, postprocess=postprocess)
    classified = any((known := built_in(name)) is not None and known.takes == "classes" for name in metrics)
    agree, why = _agreement(chunks, read, needs_code=postprocess and classified)
    int8_bytes = None if target.quantized is None else _memory(read, target.quantized.digest)
    units = [(name.rpartition(":")[2], "") for name in metrics]
    first, second = evaluations if evaluations is not None else (None, None)
    rows = target_figures(
        target,
        first,
        second,
        metrics=units,
        float_learnable_bytes=float_bytes,
        quantized_learnable_bytes=int8_bytes,
        agree=agree,
    )
    found.figures |= {(row.target, row.network, row.metric): row for row in rows}
    _unknown(target, without, why if agree is None else "", float_bytes, int8_bytes, found)
    if evaluations is None and target.status in _WITH_FIGURES:
        for name, _ in units:
            _say_why(found, target.name, name, "the run kept no samples: an older version made it")
    _distance(target, chunks[Network.QUANTIZED], read, found)


def _distance(target: TargetRecord, chunks: Sequence[str], read: Read, found: Recomputed) -> None:
    """How far the board is from the reference: from the outputs of both, else from the distances that the run kept."""
    key = (target.name, Network.QUANTIZED, LSB)
    content = read(apart_file(target.name))
    if content is None:
        found.reasons[key] = "the run kept no comparison with the reference"
        return
    kept = read_apart(_bounded(content))
    theirs = read(outputs_file(target.name))
    network = None if target.quantized is None else read(f"networks/{target.quantized.digest}.onnx")
    again, why = distances_again(
        kept, None if theirs is None else read_reference(_bounded(theirs)), _arrays(chunks, read), network
    )
    if again is None:
        found.kept[key] = f"from distances: {why}"
    elif not same(again, kept):
        found.faults.append(f"{target.name}: the distances kept are not those of the outputs from the reference's")
    found.figures[key] = (again or kept).figure(TargetContext.of(target))


def _unknown(
    target: TargetRecord,
    without: Sequence[str],
    no_agreement: str,
    float_bytes: int | None,
    int8_bytes: int | None,
    found: Recomputed,
) -> None:
    """Note what the bundle cannot tell."""
    for metric in without:
        _say_why(found, target.name, metric, "one number over the whole set, by the job's own function")
    if no_agreement:
        found.reasons |= {(target.name, Network.RATIO, metric): no_agreement for metric in _AGREEMENT}
    missing = "the network is not in the bundle"
    if float_bytes is None:
        found.reasons[target.name, Network.FLOAT, "learnable_memory_bytes"] = missing
    if int8_bytes is None:
        found.reasons[target.name, Network.QUANTIZED, "learnable_memory_bytes"] = missing
    if float_bytes is None or int8_bytes is None:
        found.reasons[target.name, Network.RATIO, "learnable_memory_ratio"] = missing
    for design in target.designs:
        for row in design.rows:
            if row.source in {Source.MODELLED, Source.PUBLISHED}:
                key = (target.name, design.network, row.metric)
                found.reasons[key] = f"{row.source}: taken from the record, the model is not run again"


def _say_why(found: Recomputed, target: str, metric: str, why: str) -> None:
    for network, name in ((_ARMS[0], metric), (_ARMS[1], metric), (Network.RATIO, f"{metric}_delta")):
        found.reasons[target, network, name] = why


# -- samples ----------------------------------------------------------------------------------------------------------


def _evaluations(
    target: TargetRecord, read: Read, found: Recomputed
) -> tuple[tuple[Evaluation, Evaluation] | None, tuple[str, ...]]:
    """Both networks' evaluations from kept rows, and the metrics that have none."""
    kept = {one.network: one for one in target.samples}
    if set(kept) != set(_ARMS):
        return None, ()
    made: list[Evaluation] = []
    for network in _ARMS:
        content = read(kept[network].path)
        if content is None:
            found.faults.append(f"{target.name}: {kept[network].path} is missing")
            return None, ()
        samples = read_samples(_bounded(content))
        made.append(Evaluation(network, samples.ids, tuple(_results(samples, kept[network].metrics)), None))
    if made[0].ids != made[1].ids:
        found.faults.append(f"{target.name}: the samples of the two networks are not the same")
        return None, ()
    return (made[0], made[1]), kept[Network.FLOAT].without_rows


def _results(samples: KeptSamples, order: Sequence[str]) -> Iterator[MetricResult]:
    for name in order:
        rows = samples.rows.get(name)
        if rows is None:
            continue
        formula = formula_of(name, rows)
        known = built_in(name)
        unit = "" if known is None else known.unit
        yield MetricResult(name, unit, formula.value(rows), formula.per_sample(rows), rows, formula)


def _rows_from_outputs(
    target: TargetRecord,
    metrics: Sequence[str],
    evaluations: tuple[Evaluation, Evaluation],
    chunks: Mapping[Network, Sequence[str]],
    read: Read,
    found: Recomputed,
    *,
    postprocess: bool,
) -> None:
    """Hold the kept rows of built-in metrics against the boards' raw outputs, where labels are class numbers."""
    for evaluation in evaluations:
        path = next(one.path for one in target.samples if one.network is evaluation.network)
        labels = read_samples(_bounded(read(path) or b"")).labels
        parts = [] if postprocess else list(_arrays(chunks[evaluation.network], read))
        there = bool(parts) and all(part is not None for part in parts)
        whole = (
            {name: np.concatenate([part[name] for part in parts if part]) for name in parts[0] or ()} if there else {}
        )
        for result in evaluation.results:
            known = built_in(result.name) if result.name in metrics else None
            if postprocess or known is None:
                why = "the job's own code would have to run"
            elif known.takes != "classes" or labels is None:
                why = "labels of this kind are not in the bundle"
            elif not there:
                why = "the outputs are in the bundle as digests only"
            elif known.rows is None or result.rows is None or not _same_rows(known.rows(whole, labels), result.rows):
                where = f"{target.name}: {result.name} of {evaluation.network}"
                found.faults.append(f"{where}: the samples kept are not what the raw outputs and labels give")
                continue
            else:
                continue
            for network, name in ((evaluation.network, result.name), (Network.RATIO, f"{result.name}_delta")):
                found.kept[target.name, network, name] = f"from what each sample gave: {why}"


def _same_rows(first: Rows, second: Rows) -> bool:
    return set(first.columns) == set(second.columns) and all(
        np.array_equal(first[name], second[name]) for name in first.columns
    )


# -- outputs ----------------------------------------------------------------------------------------------------------


def _chunks(outputs: Mapping[str, Any], target: str, network: Network) -> list[str]:
    listed = outputs.get(target, {}).get(network.value, [])
    return [str(one["path"]) for one in sorted(listed, key=lambda one: int(one["chunk"]))]


def _arrays(paths: Sequence[str], read: Read) -> Iterator[dict[str, NDArray[Any]] | None]:
    """The outputs chunk by chunk, as `harness.runs.outputs` wrote them; None where one is not in the bundle."""
    for path in paths:
        content = read(path)
        if content is None:
            yield None
            continue
        with np.load(io.BytesIO(_bounded(content)), allow_pickle=False) as arrays:
            names = arrays["arr_0"]
            yield {str(name): arrays[f"arr_{i + 1}"] for i, name in enumerate(names)}


def _agreement(
    chunks: Mapping[Network, Sequence[str]], read: Read, *, needs_code: bool
) -> tuple[Agreement | None, str]:
    """(agreement, "") or (None, why it cannot be had)."""
    if needs_code:
        return None, "the job's postprocess function would have to run"
    if not chunks[Network.FLOAT] or len(chunks[Network.FLOAT]) != len(chunks[Network.QUANTIZED]):
        return None, "no outputs were kept"
    counter = AgreementCounter()
    for first, second in zip(*(_arrays(chunks[network], read) for network in _ARMS), strict=True):
        if first is None or second is None:
            return None, "the outputs are in the bundle as digests only"
        if len(first) != 1:
            return None, "several outputs: not compared"
        (name,) = first
        counter.update(first[name], second[name])
    return counter.result(), ""


def _bounded(content: bytes) -> bytes:
    """The same, of arrays that do not expand beyond reason.

    Raises:
        ValueError: they would.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > MOST_ARRAY_BYTES:
        msg = f"arrays of {size:,} bytes in {len(content):,}: refused"
        raise ValueError(msg)
    return content


# -- networks ---------------------------------------------------------------------------------------------------------


def _memory(read: Read, digest: str) -> int | None:
    """Learnable memory of a network in the bundle; None where it is not there whole."""
    content = read(f"networks/{digest}.onnx")
    if content is None:
        return None
    return with_network(content, learnable_memory_bytes)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
