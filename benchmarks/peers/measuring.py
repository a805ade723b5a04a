"""CPU seconds and peak memory of one call and of the process around it, taken the same way for ours and for peers.

    python -m benchmarks.peers.onnxruntime_static '{"model": …, "data": …, "out": …, "variant": "Entropy", …}'

The answer is the last line of stdout, one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """What a child is asked for.

    Args:
        model: the float network.
        data: .npy with the calibration samples, first axis = samples.
        input: name of the network's input.
        out: the int8 file to write.
        variant: of the tool, in its own words.
        count: only so many of the samples; None: all.
    """

    model: Path
    data: Path
    input: str
    out: Path
    variant: str
    count: int | None = None

    def samples(self) -> NDArray[np.float32]:
        """The first `count`, in memory."""
        loaded: NDArray[np.float32] = np.load(self.data, mmap_mode="r")[: self.count]
        return np.array(loaded)

    def as_json(self) -> str:
        """The command line's argument."""
        return json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Back from `as_json`."""
        given = json.loads(text)
        return cls(
            Path(given["model"]),
            Path(given["data"]),
            given["input"],
            Path(given["out"]),
            given["variant"],
            given["count"],
        )


def main(run: Callable[[Task, NDArray[np.float32]], Callable[[], Any]]) -> None:
    """Carry out the task of the command line.

    Args:
        run: prepares (imports what the tool needs) and returns the call that is measured.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one processor: pools that follow it take one thread
    task = Task.from_json(sys.argv[1])
    call = run(task, task.samples())
    gc.collect()
    before_kb = _status_kb("VmRSS")
    _forget_peak()
    started = cpu_s()
    note = call()
    call_cpu_s = cpu_s() - started
    peak_kb = _status_kb("VmHWM")
    answer = {
        "call_cpu_s": call_cpu_s,
        "process_cpu_s": cpu_s(),
        "call_growth_mb": (peak_kb - before_kb) / 1e3 * 1.024,
        "process_peak_mb": peak_kb / 1e3 * 1.024,
        "note": note if isinstance(note, dict) else {},
    }
    sys.stdout.flush()
    print("\n" + json.dumps(answer), flush=True)


def cpu_s() -> float:
    """User and system time of this process, its threads and its ended children."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _status_kb(field: str) -> int:
    """A line of /proc/self/status. `ru_maxrss` would not do: it starts from what the parent held when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _forget_peak() -> None:
    """Let the kernel's high-water mark start again from what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
