"""Calibration shared by several processes: each observes some of the passes, and what they saw is merged exactly.

The processes are started with `python -m`, as in `workers`: they never import the user's script, so it needs no
`if __name__ == "__main__"`. The data stay a stream: at most two passes per process are under way.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from numpy.typing import NDArray

import harness
from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.placement import Layers
from harness.quantize.session_file import load_session
from harness.quantize.shard_wire import send

#: One is computed while the next one waits.
_UNDER_WAY = 2


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    under_way: int = 0
    received: bytearray = field(default_factory=bytearray)

    @property
    def requests(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def answers(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def end(self) -> None:
        """It holds nothing but memory: no need to ask."""
        self.process.kill()
        self.process.wait()
        for stream in (self.requests, self.answers, self.log):
            try:
                stream.close()
            except BrokenPipeError:  # what a dead process did not read
                continue


class Shards:
    """Worker processes that see the passes of one calibration; a context manager that leaves none behind.

    Should this process be killed, the workers end after the pass they are at.

    Args:
        model: float ONNX network; each process reads it.
        digest: its sha256.
        layers: "needed" or "all".
        environment: whose rule book says what is needed.
        histograms: collect distributions too.
        processes: how many.
    """

    def __init__(
        self, model: Path, digest: str, *, layers: Layers, environment: str, histograms: bool, processes: int
    ) -> None:
        self._task = {
            "model": str(model.absolute()),
            "digest": digest,
            "layers": layers,
            "environment": environment,
            "histograms": histograms,
        }
        self._what = str(model)
        self._processes = processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantrig-shards-")))
            self._selector = stack.enter_context(selectors.DefaultSelector())
            for number in range(self._processes):
                worker = _start(self._folder / f"{number}.log")
                stack.callback(worker.end)
                self._workers.append(worker)
                self._selector.register(worker.answers, selectors.EVENT_READ, worker)
                self._send(worker, self._task)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def see(self, inputs: Mapping[str, NDArray[Any]], before: int) -> None:
        """Hand out one pass; waits while every process has enough to do.

        Args:
            inputs: what `feed.passes` yields.
            before: how many samples came before.

        Raises:
            UserError: of a pass seen before this one: NaN, infinity, a network that cannot run; or a process died.
        """
        while min(worker.under_way for worker in self._workers) >= _UNDER_WAY:
            self._wait()
        worker = min(self._workers, key=lambda each: each.under_way)
        worker.under_way += 1
        self._send(worker, {"before": before}, inputs)

    def calibration(self, samples: int) -> Calibration:
        """What all of them saw.

        Args:
            samples: how many there were.

        Raises:
            UserError: as `see`.
        """
        files = []
        for number, worker in enumerate(self._workers):
            files.append(self._folder / f"{number}.shard")
            worker.under_way += 1
            self._send(worker, {"write": str(files[-1])})
        while any(worker.under_way for worker in self._workers):
            self._wait()
        parts = [found for file in files if (found := load_session(file)[1]) is not None]
        return replace(reduce(Calibration.merged, parts), samples=samples)

    def _send(
        self, worker: _Worker, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        try:
            send(worker.requests, content, arrays)
        except BrokenPipeError:
            while True:  # until what it said before it ended, or its end, is raised
                self._receive(worker)

    def _wait(self) -> None:
        """Until at least one process has answered."""
        for key, _ in self._selector.select():
            self._receive(key.data)

    def _receive(self, worker: _Worker) -> None:
        piece = os.read(worker.answers.fileno(), 1 << 16)
        if not piece:
            raise self._death(worker)
        worker.received += piece
        while (end := worker.received.find(b"\n")) >= 0:
            answer = json.loads(worker.received[:end])
            del worker.received[: end + 1]
            if "error" in answer:
                raise UserError(answer["error"])
            worker.under_way -= 1
            if "written" in answer:  # the last it says: its end is no death
                self._selector.unregister(worker.answers)

    def _death(self, worker: _Worker) -> UserError:
        code = worker.process.wait()
        worker.log.seek(0)
        lines = worker.log.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        return UserError(f"{self._what}: a calibration process died ({how}{said}); use fewer processes")


def _start(log: Path) -> _Worker:
    root = str(Path(harness.__file__).parents[1])
    errors = log.open("w+b")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.quantize.shard_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *(path for path in sys.path if path)])},
        start_new_session=True,  # the terminal's Ctrl-C is for this process, which ends the others
    )
    return _Worker(process, errors)
