"""The job's metrics tried on a few samples before a board is asked: what would go wrong at the end is told now.

The float network runs on this host. A value for one sample is that sample's own, so NaN there is refused at once; a
number over a whole set may need more samples than a few (both classes present, say), so those are given first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.data import labels_at, network_outputs
from harness.data.batch import cut
from harness.data.functions import import_function
from harness.errors import BadResult, UserError
from harness.job import Job
from harness.judge.evaluate import Chunk, evaluate
from harness.judge.metrics import Metric, NotFinite, Raised, resolve_metrics
from harness.quantize.graph import read_model
from harness.quantize.runtime import open_session, run_session
from harness.quantize.sequence import Stateful
from harness.record.figure import Network
from harness.runs.decoding import decode_of
from harness.runs.plan import Plan
from harness.runs.samples import Array, feeds, join

#: Samples of the first try, of the second and of the last.
STAGES = (8, 64, 512)
#: Samples that are decoded at a time.
_TOGETHER = 8
#: Decoded outputs held for functions of a whole set, bytes; a larger try is left to the run.
_MOST_BYTES = 256 << 20
#: How the host is called in an error.
_HERE = "this host"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Args:
        right_or_wrong: names of the metrics that gave nothing but 0 and 1, a value a sample.
        notes: one line for each metric that may fail at the end, which these samples cannot tell.
    """

    right_or_wrong: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


class _Untold(Exception):
    """The host cannot run the network, or its outputs are no numbers: boards will say what is so."""


def _silent(tried: int, of: int) -> None:
    """Nobody is told."""


def try_metrics(
    plan: Plan, progress: Callable[[int, int], None] = _silent, metrics: Sequence[Metric] | None = None
) -> Trial:
    """Score a few samples with every metric of the job, through its postprocessing.

    `accuracy_top<K>` of one output, samples x classes, is not tried: `make_plan` has held labels against classes.

    Args:
        plan: of the run.
        progress: told of samples done, and of how many, before each few; what it raises ends the trial.
        metrics: in place of the job's.

    Raises:
        UserError: a metric or the postprocessing fails, or gives NaN or an infinite value; it names function, sample
            and value.
    """
    job = plan.job
    if metrics is None:
        metrics = resolve_metrics(job.metrics, lambda spec: import_function(spec, job.base))
    where = f"{job.path}: " if job.path.is_file() else ""
    ranked = frozenset(metric.name for metric in metrics if metric.name.startswith("accuracy_top"))
    if not metrics or (len(ranked) == len(metrics) and _held_against_classes(job)):
        return Trial(ranked)
    sizes = [size for size in STAGES if size < len(plan.samples)]
    sizes = [*sizes, len(plan.samples)] if len(sizes) < len(STAGES) else sizes
    open_metrics, binary, failed = list(metrics), set(ranked), dict[str, UserError]()
    size = 0
    for size in sizes:
        try:
            chunks = list(_chunks(plan, size, progress))
        except _Untold:
            return Trial(ranked)
        failed = {}
        for metric in open_metrics:
            try:
                if _is_binary(_try(metric, chunks)):
                    binary.add(metric.name)
            except (NotFinite, Raised) as error:
                if isinstance(error, NotFinite) and error.index is not None:
                    raise UserError(f"{where}{error}") from error
                failed[metric.name] = error
        open_metrics = [metric for metric in open_metrics if metric.name in failed]
        if not open_metrics or _bytes(chunks) * STAGES[1] / STAGES[0] > _MOST_BYTES:
            break
    if failed and size == len(plan.samples):
        raise UserError(f"{where}{next(iter(failed.values()))}")
    tried = f"tried on {size:,} of {len(plan.samples):,} samples before the boards"
    return Trial(frozenset(binary), tuple(f"{error} ({tried}; all of them may do)" for error in failed.values()))


def _held_against_classes(job: Job) -> bool:
    """Whether `make_plan` could hold labels and ranks against the network's one output, samples x classes."""
    if job.postprocess is not None:
        return False
    outputs = network_outputs(job.model)
    shape = outputs[0][1] if len(outputs) == 1 else None
    return shape is not None and len(shape) == 2 and shape[1] is not None


def _try(metric: Metric, chunks: Sequence[Chunk]) -> Array | None:
    """One value a sample, where the metric has that."""
    try:
        made = evaluate(chunks, [metric], target=_HERE, network=Network.FLOAT, keep_scores=False)
    except BadResult as error:  # the network's outputs were finite, so this is of the decoded ones
        raise UserError(f"after postprocess: {error.message}") from error
    return made.results[0].per_sample


def _is_binary(values: Array | None) -> bool:
    return values is not None and bool(np.all((values == 0) | (values == 1)))


def _bytes(chunks: Sequence[Chunk]) -> int:
    return sum(np.asarray(array).nbytes for _, outputs, _ in chunks for array in outputs.values())


def _chosen(plan: Plan, size: int) -> list[int]:
    """Spread evenly, since labels are often sorted; of a recurrent network the first ones, in the order of time."""
    if plan.job.state:
        return list(plan.samples[:size])
    return [plan.samples[int(at)] for at in np.linspace(0, len(plan.samples) - 1, size)]


def _chunks(plan: Plan, size: int, progress: Callable[[int, int], None]) -> Iterator[Chunk]:
    decode = decode_of(plan.job)
    chosen = _chosen(plan, size)
    progress(0, size)
    for start, outputs in zip(range(0, size, _TOGETHER), _outputs(plan, chosen), strict=True):
        indices = chosen[start : start + _TOGETHER]
        for array in outputs.values():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _Untold
        yield [plan.data.ids[index] for index in indices], decode(outputs), labels_at(plan.data, indices)
        progress(start + len(indices), size)


def _outputs(plan: Plan, chosen: Sequence[int]) -> Iterator[dict[str, Array]]:
    """Outputs of the float network on this host, a few samples at a time."""
    state = plan.job.state
    try:
        session = open_session(read_model(plan.job.model), str(plan.job.model))
    except UserError as error:
        raise _Untold from error
    names = [value.name for value in session.get_outputs()]
    shown = [name for name in names if name not in state.values()]
    recurrent = Stateful(session, shown, state, plan.zero_state())

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            if state:
                return dict(zip(shown, recurrent.run(feed, "the float network"), strict=True))
            return dict(zip(names, run_session(session, feed, "the float network"), strict=True))
        except UserError as error:
            raise _Untold from error

    for start in range(0, len(chosen), _TOGETHER):
        inputs = plan.data.read(chosen[start : start + _TOGETHER]).inputs
        if state:
            count = len(chosen[start : start + _TOGETHER])
            parts = [(run(cut(inputs, slice(at, at + 1))), 1) for at in range(count)]
        else:
            parts = [(run(feed), real) for feed, real in feeds(inputs, plan.fixed_batch)]
        yield join(parts)
