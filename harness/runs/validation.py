"""`Quantizer.validate` on a board: one target, every sample, both networks of a session."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data import (
    Batch,
    DataSpec,
    Preprocess,
    check_labels,
    import_function,
    label_kind,
    labels_at,
    locate_source,
    network_outputs,
)
from harness.errors import BadResult, BoardError, Crashed, Refused, Throttled, TimedOut, Unreachable, UserError
from harness.job import Job, slug
from harness.judge.agreement import agreement
from harness.judge.comparison import Comparison
from harness.judge.metrics import Labels, Metric, Outputs, own_metric, resolve_metrics
from harness.quantize.validation import MetricFunction, ValidationResult
from harness.record.figure import ARMS, Network
from harness.runs.engine import start
from harness.runs.interrupt import Interrupted
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import find_profile
from harness.runs.samples import SampleReader
from harness.runs.trial import try_metrics
from harness.store import open_store
from harness.targets.lab import Lab
from harness.targets.target import Target

#: (outputs by name, labels) → figure.
_Score = Callable[[Outputs, Labels], float]

#: Columns of `ValidationResult.Statistics` and the published metric each one shows; the second group is an FPGA's.
_COLUMNS = {
    "FramesPerSecond": "fps",
    "LearnableParameterMemory(bytes)": "learnable_memory_bytes",
    "CPU Utilization (%)": "cpu_percent",
}
_FPGA_COLUMNS = {
    "Clock (MHz)": "clock_mhz",
    "Number of Threads (Convolution)": "conv_threads",
    "Number of Threads (Fully Connected)": "fc_threads",
    "LUT Utilization (%)": "lut_percent",
    "BlockRAM Utilization (%)": "bram_percent",
    "DSP Utilization (%)": "dsp_percent",
}
#: An FPGA's speed is modelled and its resources are quoted where no board is: columns that say so.
_FPGA_SOURCES = {"Source (FramesPerSecond)": "fps", "Source (Utilization)": "lut_percent"}
#: `crashed` is also the word of an agent that went away; its message tells them apart.
_ERRORS = {kind.status: kind for kind in (Unreachable, Refused, Crashed, TimedOut, Throttled, BadResult)}


@dataclass(frozen=True, slots=True)
class ScoredBy:
    """A metric as both forms of `validate` compute it.

    Args:
        name: as published.
        spec: how a job names it; None for a plain function.
        score: (outputs by name, labels) → figure.
        metric: the same, to be tried before a board is asked.
    """

    name: str
    spec: str | None
    score: _Score
    metric: Metric


def scored_by(metric: str | MetricFunction, outputs: Sequence[str]) -> ScoredBy:
    """One metric of `validate`.

    Args:
        metric: `accuracy_top<K>` or "module:function" (of a mapping of all outputs, and the labels), as in a job; or
            a function of the first output and the labels.
        outputs: names of the network's outputs; class scores are looked for in the first.

    Raises:
        UserError: an unknown name, or a module that cannot be imported.
    """
    if isinstance(metric, str):
        (known,) = resolve_metrics([metric], lambda spec: import_function(spec, Path.cwd()), outputs[0])
        name, spec = known.name, metric
    else:
        function, name, spec = metric, getattr(metric, "__name__", "metric"), None
        known = own_metric(name, lambda found, labels: function(found[outputs[0]], labels))

    def score(found: Outputs, labels: Labels) -> float:
        return float(np.mean(known.compute(found, labels)))

    return ScoredBy(name, spec, score, known)


def validate_on(
    target: Target,
    lab: Path,
    *,
    model: Path,
    quantized: Path,
    environment: str,
    data: str | Path | DataSpec | Iterable[Batch],
    preprocess: Preprocess,
    metrics: Sequence[str | MetricFunction] | None,
    state: Mapping[str, str],
    profile: str,
    out: Path | None,
) -> ValidationResult:
    """Run both networks over all samples on one target.

    Args:
        target: where.
        lab: the file it stands in.
        model: the float network.
        quantized: its int8 form.
        environment: whose rules made it; stands in the record in place of the target's own.
        data: a DATA name, or batches as the network takes them; those are written to an .npz in the run's folder.
        preprocess: of named data.
        metrics: as `scored_by` takes them; None: accuracy_top1 where there are labels.
        state: {input: output} of a recurrent network.
        profile: quick, standard or release.
        out: the run's folder, with its own database; None: a temporary one.

    Raises:
        UserError: bad input.
        BoardError: of the class that says what happened to the board.
        Interrupted: Ctrl-C.
    """
    under_rules = replace(target, environment=environment)  # type: ignore[arg-type] # checked by the session
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantrig-validate-")))
        if out is not None:
            folder = out.absolute()
            folder.mkdir(parents=True, exist_ok=True)
        outputs = [name for name, _ in network_outputs(model)]
        if isinstance(data, str | Path | DataSpec):
            spec = _named(data)
        else:
            _spool(data, folder / "data.npz")
            spec, preprocess = DataSpec(str(folder / "data.npz")), Preprocess()
        given = None if metrics is None else [scored_by(metric, outputs) for metric in metrics]
        # Any path does: nothing is read from it, but names of modules start from its folder.
        path = Path.cwd() / "job.yaml"
        job = Job(
            slug(model.stem),
            path,
            model.absolute(),
            spec,
            preprocess,
            state=dict(state),
            metrics=(),
            quantized=quantized.absolute(),
        )
        plan = make_plan(
            job, Lab(lab, {target.name: under_rules}), None, profile=find_profile(profile), split_name="all", out=folder
        )
        scores = _with_labels(plan, given, outputs)
        # Over several outputs a job wants a postprocess step; the table here comes from the first output all the same.
        published = tuple(one.spec for one in scores if one.spec is not None) if len(outputs) == 1 else ()
        plan = replace(plan, job=replace(job, metrics=published))
        try_metrics(plan, metrics=[one.metric for one in scores])
        store = open_store(str(folder / "quantrig.db"))
        stack.callback(store.close)
        try:
            comparison = start(plan, store).comparison(target.name)
        except Interrupted:
            raise Interrupted from None  # without the hint at `quantrig resume`, which knows nothing of this database
        if comparison.status != "done":
            kind = _ERRORS.get(comparison.status, BoardError)
            raise kind(target.name, comparison.target.error or comparison.status)
        reader = SampleReader(plan.data, plan.samples, in_one=bool(state))
        kept = OutputStore(store, plan.run_id, target.name, folder)
        first, second = (_joined(kept, network, reader) for network in ARMS)
        return _result(comparison, plan, scores, first, second, outputs[0])


def _named(data: str | Path | DataSpec) -> DataSpec:
    """The data with an absolute path and a split of no consequence: every sample validates, none calibrates."""
    spec = data if isinstance(data, DataSpec) else DataSpec(str(data))
    path = locate_source(spec.source, Path.cwd())
    source = spec.source if path is None else str(path)
    return DataSpec(source, label_offset=spec.label_offset, labels=spec.labels, label_map=spec.label_map)


def _with_labels(plan: Plan, given: list[ScoredBy] | None, outputs: Sequence[str]) -> list[ScoredBy]:
    labels = plan.data.labels
    if given is None:
        given = [] if labels is None else [scored_by("accuracy_top1", outputs)]
    if given and not label_kind(plan.data):
        msg = "metrics need one label per sample; give (inputs, labels) pairs"
        raise UserError(msg)
    shape = network_outputs(plan.job.model)[0][1]
    by_class = any((one.spec or "").startswith("accuracy_top") for one in given)
    if by_class and labels is not None and shape is not None and len(shape) == 2 and shape[1] is not None:
        check_labels(labels, shape[1], ids=plan.data.ids, where=plan.data.label_source)
    names = [one.name for one in given]
    for name in names:
        if names.count(name) > 1:
            msg = f"metrics: {name} is given twice; remove or rename one"
            raise UserError(msg)
    return given


def _joined(kept: OutputStore, network: Network, reader: SampleReader) -> dict[str, NDArray[Any]]:
    parts = list(kept.read(network, list(reader.chunks)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _result(
    comparison: Comparison,
    plan: Plan,
    scores: Sequence[ScoredBy],
    first: dict[str, NDArray[Any]],
    second: dict[str, NDArray[Any]],
    scored: str,
) -> ValidationResult:
    rows = []
    truth = labels_at(plan.data, plan.samples) if scores else None
    for one in scores:
        if truth is not None:
            rows += [(one.name, arm.value, one.score(o, truth)) for arm, o in zip(ARMS, (first, second), strict=True)]
    close = agreement(first[scored], second[scored])
    sqnr_db = close.sqnr_db
    if sqnr_db is None:
        sqnr_db = float("inf") if close.max_abs_diff == 0 else float("-inf")
    return ValidationResult(
        close.n,
        pd.DataFrame(rows, columns=["Metric", "NetworkImplementation", "MetricOutput"]),
        _statistics(comparison),
        sqnr_db,
        None if close.top1_same is None else close.top1_same / close.n,
    )


def _statistics(comparison: Comparison) -> pd.DataFrame:
    fpga = comparison.target.environment == "fpga"
    columns = _COLUMNS | (_FPGA_COLUMNS if fpga else {})
    rows = [(arm.value, *(comparison.value(metric, arm) for metric in columns.values())) for arm in ARMS]
    table = pd.DataFrame(rows, columns=["NetworkImplementation", *columns])
    types = dict.fromkeys(columns, "Float64") | {"LearnableParameterMemory(bytes)": "Int64"}
    table = table.astype(types)
    for column, metric in _FPGA_SOURCES.items() if fpga else ():
        found = [comparison.figure(metric, arm) for arm in ARMS]
        known = [None if one is None or one.value is None else one.source.value for one in found]
        table[column] = pd.Series(known, dtype=object)
    return table


def _spool(batches: Iterable[Batch], path: Path) -> None:
    """Write batches as one .npz, an array at a time: memory holds one batch, the disk twice the data for a moment."""
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        kinds: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {}
        labels: list[NDArray[np.int64]] = []
        numbers: dict[str, NDArray[Any]] = {}
        count = 0
        for batch in batches:
            for name, array in batch.inputs.items():
                if not np.ndim(array):
                    numbers[name] = np.asarray(array)
                    continue
                x = np.asarray(array)[: batch.real]
                if kinds.setdefault(name, (x.shape[1:], x.dtype)) != (x.shape[1:], x.dtype):
                    msg = f"data: samples of '{name}' change from {list(kinds[name][0])} to {list(x.shape[1:])}"
                    raise UserError(f"{msg}; give one shape")
                if name not in files:
                    files[name] = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                files[name].write(np.ascontiguousarray(x).data)
            count += batch.real
            if batch.labels is not None:
                labels.append(batch.labels)
        archive = stack.enter_context(zipfile.ZipFile(path, "w"))
        for name, file in files.items():
            shape, dtype = kinds[name]
            file.seek(0)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": dtype.str, "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_2_0(member, header)
                shutil.copyfileobj(file, member)
        for name, number in numbers.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, number)
        if labels:
            with archive.open("labels.npy", "w") as member:
                np.lib.format.write_array(member, np.concatenate(labels))
