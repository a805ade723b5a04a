"""Several processes find what one finds, to the bit, and leave nothing behind however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize import Calibration, calibrate
from harness.quantize.session_file import load_session, save_session

REPOSITORY = Path(__file__).parents[3]


def bits(calibration: Calibration) -> dict[str, object]:
    """All that was found, for comparison to the bit."""
    tensors = {
        name: (
            np.array([stats.low, stats.high]).tobytes(),
            stats.count,
            stats.histogram and (stats.histogram.exponent, stats.histogram.zeros, stats.histogram.counts.tobytes()),
            stats.msb and (stats.msb.zeros, stats.msb.positive.tobytes(), stats.msb.negative.tobytes()),
        )
        for name, stats in calibration.tensors.items()
    }
    return {
        "samples": calibration.samples,
        "tensors": tensors,
        "means": {name: mean.tobytes() for name, mean in calibration.means.items()},
        "rows": calibration.rows,
        "kept": [[(name, value.tobytes()) for name, value in sample.items()] for sample in calibration.kept],
        "kept_at": calibration.kept_at,
    }


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "shard_worker" in " ".join(_line(child))]


def _line(process: psutil.Process) -> list[str]:
    try:
        line: list[str] = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
    return line


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def batches(images: Callable[..., Any], count: int = 12) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches of different sizes and ranges."""
    for seed in range(count):
        yield {"image": images(1 + seed % 11, seed) * (1 + seed)}


@pytest.mark.parametrize("histograms", [True, False])
def test_processes_find_the_same_bits(branched: Path, images: Callable[..., Any], histograms: bool) -> None:
    seen: list[int] = []
    alone = calibrate(branched, batches(images), histograms=histograms)
    shared = calibrate(branched, batches(images), histograms=histograms, processes=2, progress=seen.append)
    assert bits(shared) == bits(alone)
    assert seen == sorted(seen)
    assert seen[-1] == alone.samples
    assert not workers()


def test_more_processes_than_batches(branched: Path, images: Callable[..., Any]) -> None:
    data = [{"image": images(3)}]
    assert bits(calibrate(branched, data, processes=3)) == bits(calibrate(branched, data))


def test_parts_calibrated_apart_merge_to_the_whole(branched: Path, images: Callable[..., Any], tmp_path: Path) -> None:
    """As on machines of a cluster: each writes a session, one reads them."""
    data = list(batches(images))
    whole = calibrate(branched, data)
    parts = []
    for number in range(3):
        part = calibrate(branched, data[number::3])
        save_session(tmp_path / f"{number}", branched, part.digest, part.environment, part)
        parts.append(load_session(tmp_path / f"{number}")[1])
    first, second, third = parts
    assert first is not None
    assert second is not None
    assert third is not None
    expected = bits(whole)
    for merged in (first.merged(second).merged(third), third.merged(first.merged(second))):
        found = bits(merged)
        assert {key: found[key] for key in ("samples", "tensors", "means", "rows")} == {
            key: expected[key] for key in ("samples", "tensors", "means", "rows")
        }
        assert merged.kept_at == tuple(sorted(merged.kept_at))
        assert len(merged.kept) <= 64


def test_only_calibrations_of_the_same_thing_merge(branched: Path, images: Callable[..., Any]) -> None:
    data = [{"image": images(2)}]
    mine = calibrate(branched, data)
    with pytest.raises(UserError, match=r"different environment cannot be merged \(cpu, gpu\)"):
        mine.merged(calibrate(branched, data, environment="gpu"))
    with pytest.raises(UserError, match="different layers"):
        mine.merged(calibrate(branched, data, layers="all"))
    with pytest.raises(UserError, match="one method"):
        mine.merged(calibrate(branched, data, histograms=False))


def test_nan_is_reported_by_layer_from_a_process_too(builder: Callable[..., Any], tmp_path: Path) -> None:
    net = builder()
    net.add("Log", ["x"], "log", name="logarithm")
    net.conv("log", "conv", (2, 1, 1, 1))
    path = tmp_path / "nan.onnx"
    onnx.save(net.model({"x": ["N", 1, 2, 2]}, {"conv": ["N", 2, 2, 2]}), path)
    data = [{"x": np.full((1, 1, 2, 2), value, np.float32)} for value in (1, 2, 3, -1, 4, 5)]
    with pytest.raises(UserError, match=r"layer 'logarithm' holds (NaN|infinity) at sample 4 ") as caught:
        calibrate(path, data, processes=2)
    assert "\n" not in str(caught.value)
    assert not workers()


def test_a_stream_that_breaks_ends_the_processes(branched: Path, images: Callable[..., Any]) -> None:
    def breaks() -> Iterator[dict[str, NDArray[Any]]]:
        yield {"image": images(2)}
        assert len(workers()) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(branched, breaks(), processes=2)
    assert not workers()


def test_a_process_that_dies_is_one_line(branched: Path, images: Callable[..., Any]) -> None:
    def deadly() -> Iterator[dict[str, NDArray[Any]]]:
        for seed in range(100_000):
            if seed == 3:
                workers()[0].kill()
            yield {"image": images(8, seed)}

    with pytest.raises(UserError, match=r"a calibration process died \(signal 9\); use fewer processes") as caught:
        calibrate(branched, deadly(), processes=2)
    assert "\n" not in str(caught.value)
    assert not workers()


@pytest.mark.parametrize("processes", [0, -1])
def test_a_number_of_processes_that_is_none(branched: Path, images: Callable[..., Any], processes: int) -> None:
    with pytest.raises(UserError, match="give 1 or more"):
        calibrate(branched, batches(images), processes=processes)


SCRIPT = """
import sys
import numpy as np
from harness.quantize import calibrate
print("started", flush=True)  # would be seen once more for each process that imported this script
def data():
    for seed in range(int(sys.argv[2])):
        yield {"image": np.random.default_rng(seed).normal(size=(4, 3, 8, 8)).astype(np.float32)}
        print(seed, flush=True)
print(calibrate(sys.argv[1], data(), processes=2).samples)
"""


def test_a_script_needs_no_main_guard(branched: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(branched), "5"], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["started", "0", "1", "2", "3", "4", "20"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_script(branched: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C reaches the script alone; killed, it cannot even clean up."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script), str(branched), "10000000"], cwd=REPOSITORY, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": "."}, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while process.stdout.readline().strip() != "7":
            assert process.poll() is None
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(how)
        process.stdout.close()
        assert process.wait(60) != 0
    deadline = time.monotonic() + 60
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
