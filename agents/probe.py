"""Which runtimes work on this board, found out once, in a child process, while the agent already serves."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.config import AgentConfig
from agents.faults import AgentError, Fault, one_line
from agents.frames import Kind
from agents.limits import Limiter
from agents.process import ChildProcess
from agents.protocol import agent_pb2 as pb

#: Importing a runtime from a slow SD card takes many seconds.
_LIMIT_S = 120.0


#: Format of the networks that any host may send.
ONNX = "onnx"


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime that works here.

    Args:
        name: as hosts know it.
        entry: "module:Class".
        format: of the files it executes.
        builds: whether it wants to know the board and has something to keep.
    """

    name: str
    entry: str
    format: str = ONNX
    builds: bool = False


class RuntimeProbe:
    """The runtimes of this board; every question waits until they are known.

    Args:
        config: for the memory limit.
        limiter: makes it.
        homes: where its child's working directory is made.
        preferred: names of runtimes, the board's best first.
    """

    def __init__(self, config: AgentConfig, limiter: Limiter, homes: Path, preferred: Sequence[str] = ()) -> None:
        self._preferred = list(preferred)
        self._config = config
        self._homes = homes
        self._limiter = limiter
        self._known = threading.Event()
        self._found: list[dict[str, object]] = []
        self._problem = ""
        self._child: ChildProcess | None = None
        # Long-lived: the kernel ends a child when the thread that started it does.
        self._thread = threading.Thread(target=self._look, name="probe", daemon=True)
        self._thread.start()

    def descriptions(self) -> Sequence[pb.RuntimeDescription]:
        """All of them, those with a problem included; the first that works is the default.

        Raises:
            AgentError: CRASHED when the probe itself failed.
        """
        return [
            pb.RuntimeDescription(
                name=str(one["name"]),
                version=str(one["version"]),
                providers=[str(provider) for provider in _list(one["providers"])],
                problem=str(one["problem"]),
                format=str(one["format"]),
            )
            for one in sorted(self._wait(), key=lambda one: self._rank(str(one["name"])))
        ]

    def find(self, name: str) -> RuntimeChoice:
        """A runtime; "" is the board's default: the first that works of those its family prefers, else of any.

        Raises:
            AgentError: INVALID for a name that is not there, REFUSED for one that does not work.
        """
        found = self._wait()
        # Only ONNX is everybody's: a compiled network's runtime is asked for by name.
        usable = [one for one in found if not one["problem"] and one["format"] == ONNX]
        usable.sort(key=lambda one: self._rank(str(one["name"])))  # stable: among equals, the order of the probe
        for one in found if name else usable:
            if one["name"] == name or not name:
                if one["problem"]:
                    raise AgentError(Fault.REFUSED, f"runtime {name} does not work here: {one['problem']}")
                return RuntimeChoice(str(one["name"]), str(one["entry"]), str(one["format"]), bool(one["builds"]))
        names = ", ".join(str(one["name"]) for one in found)
        if not name:
            problem = str(found[0]["problem"]) if found else "none is installed"
            raise AgentError(Fault.REFUSED, f"no runtime works on this board: {problem}")
        raise AgentError(Fault.INVALID, f"runtime {name} is not on this board: it has {names}")

    def _rank(self, name: str) -> int:
        return self._preferred.index(name) if name in self._preferred else len(self._preferred)

    def close(self) -> None:
        """Stop looking."""
        child = self._child
        if child is not None and not self._known.is_set():
            child.end("the agent stops")

    def _wait(self) -> list[dict[str, object]]:
        self._known.wait()
        if self._problem:
            raise AgentError(Fault.CRASHED, f"the runtimes could not be probed: {self._problem}")
        return self._found

    def _look(self) -> None:
        try:
            size_bytes = self._config.child_memory_bytes
            self._child = ChildProcess({"do": "probe"}, self._limiter.limit(size_bytes), size_bytes, (), self._homes)
            while (frame := self._child.receive("probing", _LIMIT_S)).kind is not Kind.ENDED:
                self._found.append(json.loads(frame.payload))
            self._child.end("it was done")
        except AgentError as error:
            self._problem = error.message
        except (OSError, ValueError) as error:
            self._problem = one_line(str(error))
        finally:
            self._known.set()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
