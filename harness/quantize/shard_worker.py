"""One process of a calibration: `python -m harness.quantize.shard_worker`, spoken to through its pipes by `shards`."""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.external import scratch
from harness.quantize.graph import read_model
from harness.quantize.preparation import prepare_model
from harness.quantize.session_file import save_session
from harness.quantize.shard_wire import receive, send
from harness.quantize.watch import Watch

Message = tuple[dict[str, Any], dict[str, NDArray[Any]]]


def main() -> None:
    """Observe the passes that come in, then write what was seen; end when the other side does."""
    # Whatever a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _work(sys.stdin.buffer, answers)
    except UserError as error:
        send(answers, {"error": str(error)})
    except BrokenPipeError:  # the calibration is gone, and nobody asks any more
        os._exit(1)
    # Without the interpreter's farewell, in which the thread that still reads would abort.
    answers.close()
    os._exit(0)


@scratch()
def _work(requests: IO[bytes], answers: IO[bytes]) -> None:
    message = receive(requests)
    if message is None:
        return
    task = message[0]
    model = Path(task["model"])
    prepared = prepare_model(read_model(model), str(model))
    watch = Watch(
        prepared,
        str(model),
        layers=task["layers"],
        environment=task["environment"],
        histograms=task["histograms"],
        threads=1,
    )
    # The next pass is read while one is computed: the calibration never waits on a full pipe for long.
    waiting: queue.Queue[Message | None] = queue.Queue(maxsize=1)
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    while (message := waiting.get()) is not None:
        content, inputs = message
        if "write" in content:
            found = watch.calibration(task["digest"], 0)
            save_session(Path(content["write"]), model, task["digest"], task["environment"], found)
            send(answers, {"written": True})
            return
        watch.see(inputs, content["before"])
        send(answers, {"seen": True})


def _read(requests: IO[bytes], waiting: queue.Queue[Message | None]) -> None:
    while True:
        message = receive(requests)
        waiting.put(message)
        if message is None:
            return


if __name__ == "__main__":
    main()
