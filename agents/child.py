"""The process that holds one network: `python -m agents.child CHANNEL_FD AGENT_PID`.

Everything that touches a host's bytes with a large library happens here: the check of the protobuf, the runtime, numpy.
It starts with a fixed environment in an empty directory, opens no path that a host could have named, and ends with its
agent.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agents.faults import AgentError, Fault
from agents.frames import Channel, ChannelClosed, Kind
from agents.protocol import agent_pb2 as pb

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_SET_NO_NEW_PRIVS = 38
#: In one piece, as a rule: a second copy of a large network may not fit the limit.
_READ_BYTES = 1 << 30

if TYPE_CHECKING:
    from agents.child_network import ChildNetwork
    from agents.runtimes.base import BuildingRuntime, Runtime, Session, Surroundings


def main() -> None:
    """Wait for the task, then do it until the agent closes the channel."""
    _tie_to(int(sys.argv[2]))
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        os.set_inheritable(sock.fileno(), False)
        channel = Channel(sock)
        try:
            task = json.loads(channel.receive().payload)
            if task["do"] == "probe":
                _probe(channel)
            else:
                _serve(channel, task)
        except ChannelClosed:
            pass  # the agent is gone, or has no more use for this process
    # Not a normal exit: a runtime's destructors may hang or crash, and there is nothing left to save.
    sys.stdout.flush()
    os._exit(0)


def _tie_to(agent_pid: int) -> None:
    """Die with the agent, gain no privileges, leave no core file."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != agent_pid:  # it died before the line above
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _probe(channel: Channel) -> None:
    """Say which runtimes work here."""
    from agents.runtimes import describe_all

    for description in describe_all():
        channel.send(Kind.PHASE, json.dumps(description).encode())
    channel.send(Kind.ENDED)


def _serve(channel: Channel, task: dict[str, object]) -> None:
    try:
        network = _prepare(channel, task)
    except AgentError as error:
        channel.send_error(error)
        return
    except MemoryError:
        channel.send_error(_out_of_memory("loading the network"))
        return
    channel.send(Kind.READY, network.ready.SerializeToString())
    while True:
        frame = channel.receive()
        try:
            network.handle(frame, channel)
        except AgentError as error:
            channel.send_error(error)
        except MemoryError:
            # What is left of the heap after a failed allocation deep inside a runtime is not to be trusted.
            channel.send_error(_out_of_memory("running the network"))
            return


def _prepare(channel: Channel, task: dict[str, object]) -> ChildNetwork:
    began = time.perf_counter()
    from agents.runtimes import load_runtime
    from agents.runtimes.base import NO_SPINNING
    from agents.runtimes.options import check_taken

    if task.get("emulated"):
        os.environ[NO_SPINNING] = "1"
    runtime = load_runtime(str(task["entry"]))
    options = pb.SessionOptions.FromString(bytes.fromhex(str(task["options"])))
    check_taken(runtime, runtime.name, options)
    channel.send(Kind.PHASE, _phase("start", began, f"{runtime.name} {runtime.version()}"))

    began = time.perf_counter()
    data = _read(int(str(task["descriptor"])), str(task["digest"]))
    max_tensor_bytes = int(str(task["max_tensor_bytes"]))
    # Anything else than ONNX came with the lab's permit for this very digest: the agent admitted it.
    quantized = _check(data, task, max_tensor_bytes) if task["format"] == "onnx" else True
    check = _phase("check", began, f"{len(data)} bytes")
    channel.send(Kind.PHASE, check)

    began = time.perf_counter()
    session = _session(runtime, data, options, _surroundings(channel, task, quantized=quantized))
    load = _phase("load", began, ", ".join(session.providers))
    channel.send(Kind.PHASE, load)
    ready = pb.PreparedNetwork(
        inputs=session.inputs,
        outputs=session.outputs,
        check_ms=pb.PhaseDone.FromString(check).duration_ms,
        load_ms=pb.PhaseDone.FromString(load).duration_ms - (session.compile_ms or 0.0),
        compile_ms=session.compile_ms,
        runtime=runtime.name,
        runtime_version=runtime.version(),
        providers=session.providers,
        assigned=getattr(session, "assigned", ()),
        settings=getattr(session, "settings", {}),
    )
    if session.compile_ms is not None:
        channel.send(Kind.PHASE, pb.PhaseDone(name="compile", duration_ms=session.compile_ms).SerializeToString())
    from agents.child_network import ChildNetwork

    return ChildNetwork(session, ready, max_tensor_bytes)


def _check(data: bytes, task: dict[str, object], max_tensor_bytes: int) -> bool:
    """Refuse what is no modest ONNX network; whether it has quantizing or dequantizing operators."""
    from agents.network_check import CheckPolicy, NetworkRefused, check_network

    try:
        policy = CheckPolicy(allow_loops=bool(task["allow_loops"]), max_tensor_bytes=max_tensor_bytes)
        return check_network(memoryview(data), policy).quantized
    except NetworkRefused as refused:
        raise AgentError(Fault.REFUSED, str(refused)) from None


def _session(
    runtime: Runtime | BuildingRuntime, data: bytes, options: pb.SessionOptions, surroundings: Surroundings
) -> Session:
    from agents.runtimes.base import BuildingRuntime

    if isinstance(runtime, BuildingRuntime):
        return runtime.load_in(data, options, surroundings)
    return runtime.load(data, options)


def _surroundings(channel: Channel, task: dict[str, object], *, quantized: bool) -> Surroundings:
    """What a runtime may use beside the network: all of it is the agent's choice."""
    from agents.runtimes.base import Surroundings

    def begins(name: str, note: str) -> None:
        channel.send(Kind.PHASE, pb.PhaseDone(name=name, note=note, under_way=True).SerializeToString())

    details = task["details"]
    return Surroundings(
        digest=str(task["digest"]),
        home=Path.cwd(),
        quantized=quantized,
        built=Path(str(task["built"])),
        key=bytes.fromhex(str(task["key"])),
        root=Path(str(task["root"])),
        details={str(name): str(value) for name, value in details.items()} if isinstance(details, dict) else {},
        begins=begins,
    )


def _read(descriptor: int, digest: str) -> bytes:
    """The whole file, read once: the very bytes that are hashed here are checked and run."""
    pieces = []
    # What is asked for is allocated first: a board of 1 GiB does not have the largest piece to give.
    left = os.fstat(descriptor).st_size
    while piece := os.read(descriptor, min(max(left, 1), _READ_BYTES)):
        pieces.append(piece)
        left -= len(piece)
    os.close(descriptor)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if hashlib.sha256(data).hexdigest() != digest:
        raise AgentError(Fault.DATA_LOSS, f"the stored file {digest[:12]}… was damaged: upload it again")
    return data


def _phase(name: str, began: float, note: str) -> bytes:
    duration_ms = (time.perf_counter() - began) * 1e3
    return pb.PhaseDone(name=name, duration_ms=duration_ms, note=note).SerializeToString()


def _out_of_memory(doing: str) -> AgentError:
    return AgentError(Fault.EXHAUSTED, f"{doing} needs more than the memory limit of its process: use a smaller one")


if __name__ == "__main__":
    main()
