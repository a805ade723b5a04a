"""A few child processes that work off a list, each its own interpreter started with `python -m`.

Not `multiprocessing`: its `spawn` imports the user's script again (hence the `if __name__ == "__main__"` guard), and
its `fork` copies ONNX Runtime's and gRPC's threads in whatever state they are.
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import harness
from harness.errors import UserError

#: How long a child may take to end after its input is closed or it was told to, s; then it is killed.
_GRACE_S = 2.0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    task: str = ""
    received: bytearray = field(default_factory=bytearray)

    def give(self, task: str) -> None:
        self.task = task
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it died: its closed output says so to whoever reads it

    def end(self) -> None:
        """Kill: whatever it is at was not asked for any more, and it holds nothing but memory."""
        self.process.kill()
        self.process.wait(_GRACE_S)
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # unread input of a dead child
                    continue


def work_off(
    module: str, common: object, tasks: Sequence[str], processes: int
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Have `processes` children do the tasks; each gets the next one as soon as it has finished one.

    Closing the iterator, or an exception where it is consumed (Ctrl-C), ends the children. Should this process be
    killed, a child ends after the task it is at.

    Args:
        module: run as `python -m module FILE`, where FILE holds `common`, pickled; see `serve`.
        common: what every task needs; must be picklable.
        tasks: names.
        processes: how many children; never more than there are tasks.

    Yields:
        (task, its result), as they finish.

    Raises:
        UserError: a task failed with one, a child died, or `common` cannot be sent.
    """
    pending = iter(tasks)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantrig-workers-")))
        file = folder / "common.pickle"
        try:
            file.write_bytes(pickle.dumps(common, protocol=pickle.HIGHEST_PROTOCOL))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            msg = f"cannot be sent to another process ({error}); use a function of a module, or processes=1"
            raise UserError(msg) from error
        selector = stack.enter_context(selectors.DefaultSelector())
        busy = 0
        for number, task in zip(range(processes), pending, strict=False):
            child = _start(module, file, folder / f"{number}.log")
            stack.callback(child.end)
            child.give(task)
            selector.register(child.process.stdout, selectors.EVENT_READ, child)  # type: ignore[arg-type] # it is a pipe
            busy += 1
        while busy:
            for key, _ in selector.select():
                child = key.data
                done = _receive(child)
                if done is None:
                    continue
                following = next(pending, None)
                finished = child.task
                if following is None:
                    selector.unregister(key.fileobj)
                    busy -= 1
                else:
                    child.give(following)
                yield finished, done


def _start(module: str, file: Path, log: Path) -> _Child:
    root = str(Path(harness.__file__).parents[1])
    paths = [root, *(path for path in sys.path if path)]  # a metric's own module must be found there too
    errors = log.open("w+b")
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        start_new_session=True,  # the terminal's Ctrl-C is for the parent, which ends its children
    )
    return _Child(process, errors)


def _receive(child: _Child) -> dict[str, Any] | None:
    """The result once its line is complete."""
    assert child.process.stdout is not None
    piece = os.read(child.process.stdout.fileno(), 1 << 16)
    if not piece:
        child.process.kill()
        code = child.process.wait()
        child.log.seek(0)
        lines = child.log.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        msg = f"a worker process died at {child.task!r} ({how}{said}); use fewer processes"
        raise UserError(msg)
    child.received += piece
    if not child.received.endswith(b"\n"):
        return None
    answer: dict[str, Any] = json.loads(child.received)
    child.received.clear()
    if "error" in answer:
        raise UserError(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result
