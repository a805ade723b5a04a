"""The Python front door: `harness.run` and `harness.Quantizer`, which see the whole line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from harness.data import DataSpec, Preprocess, network_outputs, stream_batches
from harness.emulation import lower
from harness.emulation.arithmetic import BY_ENVIRONMENT
from harness.emulation.diagnose.values import Diagnosis
from harness.errors import UserError
from harness.job import Job, job_from_mapping, load_job
from harness.quantize import QuantizedModel
from harness.quantize import Quantizer as Session
from harness.quantize.validation import MetricFunction, StandIn, ValidationResult
from harness.runs.bench import Bench, open_bench
from harness.runs.diagnosis import SAMPLES, diagnose_model
from harness.runs.engine import Run, execute_job
from harness.runs.observer import Observer
from harness.runs.profile import find_profile
from harness.runs.validation import scored_by, validate_on
from harness.store import open_store
from harness.targets.lab import LAB_FILE, Lab, find_lab, load_lab
from harness.targets.target import Target


class Quantizer(Session):
    """Calibrate, look, quantize, validate: on this machine or on a board.

    Example:
        >>> q = Quantizer("net.onnx", environment="cpu")  # doctest: +SKIP
        >>> ranges = q.calibrate("images/")  # doctest: +SKIP
        >>> q.quantize("net.int8.onnx")  # doctest: +SKIP
        >>> q.validate("images/", target="rpi5-lab").Statistics  # doctest: +SKIP

    Args:
        model: a float ONNX network; never changed.
        environment: gpu, cpu, fpga or host.

    Raises:
        UserError: the network is unreadable, or the environment unknown.
    """

    def validate(
        self,
        data: str | Path | DataSpec | Iterable[Any],
        target: str | Target | None = None,
        metrics: Sequence[str | MetricFunction] | None = None,
        preprocess: Preprocess | None = None,
        lab: str | PathLike[str] | Lab | None = None,
        profile: str = "quick",
        out: str | PathLike[str] | None = None,
    ) -> ValidationResult:
        """Float and int8 network side by side over all samples.

        Args:
            data: anything DATA names, or an iterable of (inputs, labels). For a target an iterable is written to a
                temporary .npz as it comes, which the run then reads into memory whole: a set larger than memory is
                given by name.
            target: None: on this machine, in the environment's own arithmetic (`harness.emulation`; fpga: the DPU's;
                cpu: what ONNX Runtime computes here); the result's `note` says how far that claim goes. Else a target
                of the lab, by name or as it is; a real one is timed too. The int8 network is this Quantizer's, whatever
                the target's own rules.
            metrics: `accuracy_top<K>`, "module:function" as in a job file (beside the current folder or installed;
                takes the outputs by name, and the labels), or a function of (first output, labels).
                None: accuracy_top1 where there are labels.
            preprocess: of named image data.
            lab: a lab file or a `Lab`; None: ./targets.yaml.
            profile: how much a target measures: quick, standard or release.
            out: keep the run of a target, its report and its database in this folder; None: nothing is kept.

        Returns:
            the result; what was not measured is null.

        Raises:
            UserError: nothing was quantized yet, no such target, or the data or a metric are unusable.
            BoardError: the target failed; its class says how (Unreachable, Crashed, BadResult, …).
            Interrupted: Ctrl-C while a target worked.
        """
        if target is None:
            return super().validate(data, None, None if metrics is None else self._here(metrics), preprocess)
        made = self.int8_network("nothing to validate yet")
        self._unchanged()
        where, file = _find_target(target, lab)
        named = isinstance(data, str | Path | DataSpec)
        return validate_on(
            where,
            file,
            model=self.model,
            quantized=made.path,
            environment=self.environment,
            data=data
            if isinstance(data, str | Path | DataSpec)
            else stream_batches(data, self._inputs(), preprocess=preprocess),
            preprocess=preprocess if named and preprocess is not None else Preprocess(),
            metrics=metrics,
            state=self.state,
            profile=profile,
            out=None if out is None else Path(out),
        )

    @contextmanager
    def _stand_in(self, made: QuantizedModel) -> Iterator[StandIn | None]:
        """The int8 network in the numbers of its environment's board; None for cpu, and where no layer is int8.

        Raises:
            UserError: it cannot be written that way, or the temporary folder is full.
        """
        if made.environment not in BY_ENVIRONMENT or not made.quantized_layers:
            yield None
            return
        with TemporaryDirectory(prefix="quantrig-lowered-") as folder:
            lowered = lower(made.path, made.environment)
            path = Path(folder) / "lowered.onnx"
            lowered.save(path)
            yield StandIn(path, lowered.disabled_optimizers, lowered.arithmetic.claim)

    @contextmanager
    def _board(self, target: str | Target, lab: str | PathLike[str] | Lab | None, *, timed: bool) -> Iterator[Bench]:
        """A connection to a board, held alone, for a sweep over variants.

        Raises:
            UserError: no such target, or a stand-in where times are wanted.
            BoardError: it cannot be reached.
        """
        where, file = _find_target(target, lab)
        # One sample, or what the network takes at a time: what an inference is timed on.
        sample = next(iter(self._calibrated().kept), None)
        with open_bench(where, file, sample=sample) as bench:
            if timed and not bench.timed:
                msg = f"{where.name}: a stand-in has no times that could decide; name a real board, or leave target out"
                raise UserError(msg)
            yield bench

    def _here(self, metrics: Sequence[str | MetricFunction]) -> list[str | MetricFunction]:
        """The metrics as functions of the first output, so that a name means here what it means on a board."""
        outputs = [name for name, _ in network_outputs(self.model)]
        return [_of_first_output(metric, outputs) for metric in metrics]


def run(
    job: str | PathLike[str] | Mapping[str, Any] | Job,
    lab: str | PathLike[str] | Lab | None = None,
    targets: Sequence[str] | None = None,
    out: str | PathLike[str] | None = None,
    *,
    profile: str = "standard",
    split: str = "validation",
    store: str | None = None,
    observer: Observer | None = None,
    budget_s: float | None = None,
) -> Run:
    """Quantize, ship, measure, judge, publish.

    Example:
        >>> import harness
        >>> finished = harness.run("job.yaml", targets=["this-machine"])  # doctest: +SKIP
        >>> finished.comparison("this-machine").value("speedup")  # doctest: +SKIP

    Args:
        job: a job file, its content as a mapping (paths relative to the current folder), or a `Job`.
        lab: a lab file or a `Lab`; None: ./targets.yaml, then beside the job file.
        targets: only these.
        out: the run's folder; None: reports/RUN_ID.
        profile: how much to measure: quick, standard or release.
        split: "validation", or "all" samples.
        budget_s: what the timing of one target may take; None: what the profile wants.
        store: the results database; None: as the command.
        observer: told of the progress.

    Returns:
        The finished run; a board that failed is in its record, not an exception.

    Raises:
        UserError: bad input.
        Interrupted: Ctrl-C; `quantrig resume` goes on.
    """
    value = _job(job)
    found = lab if isinstance(lab, Lab) else load_lab(find_lab(None if lab is None else Path(lab), value.path))
    opened = open_store(store)
    try:
        return execute_job(
            value,
            found,
            opened,
            targets=targets,
            profile=find_profile(profile),
            split_name=split,
            out=None if out is None else Path(out),
            observer=observer,
            budget_s=budget_s,
        )
    finally:
        opened.close()


def diagnose(
    quantized_model: str | PathLike[str] | QuantizedModel | Session,
    data: str | Path | DataSpec | Iterable[Any],
    target: str | Target,
    lab: str | PathLike[str] | Lab | None = None,
    *,
    samples: int = SAMPLES,
    preprocess: Preprocess | None = None,
    state: Mapping[str, str] | None = None,
    out: str | PathLike[str] | None = None,
) -> Diagnosis:
    """Where a board departs from the reference: its integers, layer by layer, beside the exact ones.

    Example:
        >>> import harness
        >>> found = harness.diagnose("net.int8.onnx", "images/", target="zcu102")  # doctest: +SKIP
        >>> found.summary, found.first, found.first.kinds  # doctest: +SKIP

    Args:
        quantized_model: the int8 network: its file, what `quantize` returned, or the session that made it.
        data: anything DATA names, or an iterable of {input: array[N, …]}; the first samples are taken.
        target: a target of the lab, by name or as it is.
        lab: a lab file or a `Lab`; None: ./targets.yaml.
        samples: how many.
        preprocess: of named image data.
        state: {input: output} of a recurrent network, None: the session's; every sample starts from zeros.
        out: write diagnosis.html, diagnosis.json and the pictures into this folder.

    Returns:
        the comparison; `first` is the first layer that differs, None where the board is exact.

    Raises:
        UserError: bad input, or a network without int8 layers.
        BoardError: the board failed.
    """
    if isinstance(quantized_model, Session):
        path = quantized_model.int8_network("nothing to diagnose yet").path
        state = quantized_model.state if state is None else state
    else:
        path = quantized_model.path if isinstance(quantized_model, QuantizedModel) else Path(quantized_model)
    where, file = _find_target(target, lab)
    found = diagnose_model(path, data, where, file, samples=samples, preprocess=preprocess, state=state)
    if out is not None:
        from harness.report.diagnosis_page import publish_diagnosis

        publish_diagnosis(path.stem, [found], Path(out))
    return found


def _job(job: str | PathLike[str] | Mapping[str, Any] | Job) -> Job:
    if isinstance(job, Job):
        return job
    if isinstance(job, Mapping):
        return job_from_mapping(dict(job), Path.cwd())
    return load_job(Path(job))


def _find_target(target: str | Target, lab: str | PathLike[str] | Lab | None) -> tuple[Target, Path]:
    """The target, and the file it stands in (where its lock and its relative paths belong)."""
    if isinstance(target, Target):
        return target, target.base / LAB_FILE
    found = lab if isinstance(lab, Lab) else load_lab(find_lab(None if lab is None else Path(lab)))
    return found.select([target])[0], found.path


def _of_first_output(metric: str | MetricFunction, outputs: Sequence[str]) -> MetricFunction:
    known = scored_by(metric, outputs)
    if known.spec is not None and ":" in known.spec and len(outputs) > 1:
        msg = f"metric {known.spec}: takes all {len(outputs)} outputs; give a function of the first, or name a target"
        raise UserError(msg)

    def score(first: NDArray[Any], labels: NDArray[Any]) -> float:
        return known.score({outputs[0]: first}, labels)

    score.__name__ = known.name
    return score
