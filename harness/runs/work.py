"""The work of a run: the host makes the networks, then every board does its part on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from harness.errors import UserError
from harness.record.figure import Network
from harness.record.networks import QuantizedRecord
from harness.record.target import TargetRecord
from harness.runs.interrupt import Interrupted
from harness.runs.judging import load_judges
from harness.runs.networks import NetworkFile, digest_of, network_file, quantize_for
from harness.runs.observer import Observer
from harness.runs.plan import Plan
from harness.runs.standin import StandIns
from harness.runs.target_log import TargetLog
from harness.runs.target_task import TargetTask
from harness.store import Store

#: How often the main thread looks for Ctrl-C while targets work, s.
_WATCH_S = 0.1


def do_targets(plan: Plan, store: Store, observer: Observer, stop: threading.Event) -> list[TargetRecord]:
    """Do what is missing of every target's part.

    Raises:
        Interrupted: `stop` was set.
        UserError: bad input.
    """
    before = {record.name: record for record in store.targets(plan.run_id)}
    open_targets = [target for target in plan.targets if before[target.name].status != "done"]
    if not open_targets:
        return list(before.values())
    float_file = network_file(plan.job.model, _artifacts(plan))
    quantized = _quantize_all(plan, before, observer, stop, {target.environment for target in open_targets})
    if stop.is_set():
        raise Interrupted(plan.run_id)
    reader = plan.reader()
    standins = StandIns(_artifacts(plan), plan.job.name, plan.job.model)
    tasks = []
    for target in open_targets:
        file, record = quantized[target.environment]
        _check_same_network(plan, before.values(), record)
        if not target.timed:  # here rather than beside a board that is being timed
            observer.progress("host", f"prepare the stand-in of {target.name}", 0, None)
            standins.of(target, file, before[target.name])
        networks = {Network.FLOAT: float_file, Network.QUANTIZED: file}
        started = replace(before[target.name], quantized=record, status="pending", error=None)
        log = TargetLog(plan.run_id, started, store, observer)
        tasks.append(TargetTask(plan, target, networks, standins, reader, log, stop))
    if stop.is_set():
        raise Interrupted(plan.run_id)
    observer.finished("host", "done")
    _in_parallel(tasks, stop)
    return store.targets(plan.run_id)


def _check_same_network(plan: Plan, before: Iterable[TargetRecord], made: QuantizedRecord) -> None:
    """A resumed run must not join outputs and blocks of one int8 network with those of another."""
    for record in before:
        known = record.quantized
        if known is not None and known.environment == made.environment and known.digest != made.digest:
            raise UserError(
                f"the int8 network for {made.environment} is not the one that run {plan.run_id} began with; "
                "start a new run with `quantrig run`"
            )


def _in_parallel(tasks: Sequence[TargetTask], stop: threading.Event) -> None:
    """Run every target on a thread; a signal cancels the calls in flight and waits for all to tidy up."""
    with ThreadPoolExecutor(max_workers=len(tasks), thread_name_prefix="target") as pool:
        futures: list[Future[TargetRecord]] = [pool.submit(task.run) for task in tasks]
        load_judges()
        waiting = set(futures)
        cancelled = False
        while waiting:
            done, waiting = wait(waiting, timeout=_WATCH_S, return_when=FIRST_COMPLETED)
            # an error that is not the board's concerns all targets: stop them too, then report it
            if any(future.exception() is not None for future in done):
                stop.set()
            if stop.is_set() and not cancelled:
                cancelled = True
                for task in tasks:
                    task.cancel()
    errors = [error for future in futures if (error := future.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, Interrupted))
    if errors:
        raise errors[0]
    if stop.is_set():
        raise Interrupted


def _artifacts(plan: Plan) -> Path:
    """The folder of networks that were made for a run."""
    folder = plan.out / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _quantize_all(
    plan: Plan,
    before: Mapping[str, TargetRecord],
    observer: Observer,
    stop: threading.Event,
    environments: set[str],
) -> dict[str, tuple[NetworkFile, QuantizedRecord]]:
    made: dict[str, tuple[NetworkFile, QuantizedRecord]] = {}
    folder = _artifacts(plan)
    for environment in plan.environments:
        if environment not in environments:
            continue
        path = folder / f"{plan.job.name}.{environment}.int8.onnx"
        known = next(
            (r.quantized for r in before.values() if r.environment == environment and r.quantized is not None), None
        )
        if known is not None and path.exists() and digest_of(path) == known.digest:
            made[environment] = (network_file(path, folder, known.disabled_optimizers), known)
            continue

        def progress(done: int, total: int, environment: str = environment) -> None:
            if stop.is_set():
                raise Interrupted(plan.run_id)
            observer.progress("host", f"calibrate for {environment}", done, total)

        observer.progress("host", f"quantize for {environment}", 0, None)
        made[environment] = quantize_for(
            plan.job,
            environment,
            plan.feeds,
            plan.split.calibration,
            out=path,
            progress=progress,
        )
        layers = made[environment][1].quantized_layers
        observer.message("host", f"quantized for {environment}: {layers} layers, {made[environment][1].method}")
    observer.finished("host", "done")
    return made
