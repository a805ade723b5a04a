"""What watching costs: calibration against the optimized float network alone, and its memory as data grow.

    python -m benchmarks calibration --quick

CPU seconds of one process on one processor, the two sides in turn. The plain pass opens the network as it is and runs
the same images one by one, all graph optimizations on; ours is the whole call, from the file to the calibration. What
libraries take to load (Numba's compiled code among them) is outside of both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import quantizer_networks
from benchmarks.figures import Effort, Goal, Result, Row
from harness.quantize import calibrate

NETWORKS = ("squeezenet", "mobilenet")
SAMPLES = 128
#: Data of the memory figure: many samples against few.
MANY, FEW = 500, 64
MEMORY_GOAL = Goal("ratio", most=1.05)
GOALS = {"minmax": Goal("ratio", most=1.35), "histograms": Goal("ratio", most=2.5)}

Feeds = list[dict[str, NDArray[Any]]]


def run(effort: Effort) -> Result:
    """CPU time of both kinds of calibration, and memory."""
    reason = quantizer_networks.missing()
    if reason:
        return Result((), (f"calibration: {reason}",))
    rows: list[Row] = []
    for name in NETWORKS:
        measured = quantizer_networks.load(name, SAMPLES)
        images = measured.calibration
        feeds = [{key: value[index : index + 1] for key, value in images.items()} for index in range(SAMPLES)]
        with _one_processor():
            rows += _cpu_rows(name, measured.model, feeds, effort.repetitions)
    repetitions = 1 if effort.is_quick else 3
    squeezenet = quantizer_networks.load(NETWORKS[0], SAMPLES).model
    rows += [_memory_row(squeezenet, kind, repetitions) for kind in GOALS]
    return Result(tuple(rows))


def _cpu_rows(name: str, model: Path, feeds: Feeds, repetitions: int) -> Iterator[Row]:
    for kind, goal in GOALS.items():
        sides: tuple[Callable[[Feeds], None], Callable[[Feeds], None]] = (
            lambda given, kind=kind: _calibrate(model, given, kind),  # type: ignore[misc] # a default of a lambda
            lambda given: _plain(model, given),
        )
        for side in sides:  # steady before anything counts
            side(feeds)
        whole, once = [], []
        for _ in range(repetitions):
            whole.append(tuple(_cpu_s(side, feeds) for side in sides))
            once.append(tuple(_cpu_s(side, feeds[:1]) for side in sides))
        ours, plain = zip(*whole, strict=True)
        yield Row(
            figure=f"calibration with {kind}, {name}, {len(feeds)} images: the whole call",
            unit="CPU s",
            ours=ours,
            peer_name="plain float pass",
            peer=plain,
            goal=goal,
        )
        # The first image carries opening, preparing and planning; the others are the stream itself.
        streamed = [
            tuple(all_ - first for all_, first in zip(of_all, of_first, strict=True))
            for of_all, of_first in zip(whole, once, strict=True)
        ]
        ours, plain = zip(*streamed, strict=True)
        yield Row(
            figure=f"calibration with {kind}, {name}: each image after the first",
            unit="CPU s",
            ours=ours,
            peer_name="plain float pass",
            peer=plain,
            note=f"{len(feeds) - 1} images",
        )


def _calibrate(model: Path, feeds: Feeds, kind: str) -> None:
    calibrate(model, feeds, environment="cpu", histograms=kind == "histograms")


def _plain(model: Path, feeds: Feeds) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for feed in feeds:
        session.run(None, feed)


def _cpu_s(side: Callable[[Feeds], None], feeds: Feeds) -> float:
    started = time.process_time()
    side(feeds)
    return time.process_time() - started


@contextmanager
def _one_processor() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _memory_row(model: Path, kind: str, repetitions: int) -> Row:
    def above_loaded(samples: int) -> float:
        return _peak_mb(model, kind, samples) - _peak_mb(model, kind, 0)

    return Row(
        figure=f"calibration with {kind}, squeezenet, {MANY} images: peak memory above the loaded network",
        unit="MB",
        ours=tuple(above_loaded(MANY) for _ in range(repetitions)),
        peer_name=f"with {FEW} images",
        peer=tuple(above_loaded(FEW) for _ in range(repetitions)),
        goal=MEMORY_GOAL,
    )


def _peak_mb(model: Path, kind: str, samples: int) -> float:
    """Of a process of its own that makes its images as it goes, or only opens the network; 1 MB = 10⁶ bytes."""
    command = [sys.executable, "-m", "benchmarks.calibration", str(model), kind, str(samples)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 / 1e6


def _print_peak(model: Path, kind: str, samples: int) -> None:
    def stream() -> Iterator[dict[str, NDArray[Any]]]:
        for seed in range(samples):
            noise = np.random.default_rng(seed).standard_normal((1, 3, 224, 224), np.float32)
            yield {"data_0": noise * 60}

    if samples:
        calibrate(model, stream(), environment="cpu", histograms=kind == "histograms")
    else:
        _plain(model, [])
    with Path("/proc/self/status").open() as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))


if __name__ == "__main__":
    _print_peak(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
