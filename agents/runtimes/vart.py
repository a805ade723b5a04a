"""AMD's Vitis AI runtime (VART): a network that was compiled for this board's DPU, an xmodel.

An xmodel is instructions for a processor that reads and writes the board's memory, so it is loaded only with the lab's
permit (`agents.permits`), and from bytes that can no longer change. A model compiled for another DPU would make the
vendor's library abort the process ("CHECK fingerprint fail"), so the fingerprints are compared first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import vart
import xir

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb
from agents.runtimes.base import Array, Outputs, Surroundings

_DPU = "DPU"
#: What runs on the ARM cores in a compiled network; anything else beside the DPU is unknown.
_NOTHING_TO_RUN = "USER"
_INT8 = ("xint8", "int8")


class Vart:
    """The runtime `vart`."""

    name = "vart"
    format = "xmodel"
    takes = frozenset[str]()

    def version(self) -> str:
        """Of the package, where it says so."""
        return str(getattr(vart, "__version__", "unknown"))

    def available_providers(self) -> Sequence[str]:
        """The DPU."""
        return [_DPU]

    def load_in(self, data: bytes, options: pb.SessionOptions, surroundings: Surroundings) -> VartSession:  # noqa: ARG002
        """See `BuildingRuntime.load_in`; `data` is an xmodel with a permit, and no option is taken.

        Raises:
            AgentError: REFUSED when it is not one subgraph for the DPU, or was compiled for another one.
        """
        path = sealed(data)
        try:
            graph = xir.Graph.deserialize(path)
            subgraph = _only_subgraph(graph)
        except AgentError:
            raise
        except Exception as error:  # noqa: BLE001 - the library has no common base class for its exceptions
            raise AgentError(Fault.REFUSED, f"the xmodel cannot be read: {error}") from None
        compare_fingerprints(_fingerprint(subgraph), surroundings.details.get("dpu_fingerprint", ""))
        try:
            runner = vart.Runner.create_runner(subgraph, "run")
        except Exception as error:  # noqa: BLE001 - as above
            raise AgentError(Fault.REFUSED, f"the xmodel cannot be loaded into the DPU: {error}") from None
        return VartSession(runner, graph, _operators(subgraph))


class VartSession:
    """A runner on the DPU; inputs and outputs are int8 as it has them, steps of 2^-fix_point (in `settings`)."""

    compile_ms: float | None = None
    providers: Sequence[str] = (_DPU,)

    def __init__(self, runner: Any, graph: object, operators: int) -> None:  # noqa: ANN401 - the library is untyped
        self._runner = runner
        self._graph = graph  # the library keeps pointers into it
        inputs, outputs = list(runner.get_input_tensors()), list(runner.get_output_tensors())
        self.inputs = [_spec(tensor) for tensor in inputs]
        self.outputs = [_spec(tensor) for tensor in outputs]
        self.assigned = [pb.ProviderNodes(provider=_DPU, count=operators)]
        self.settings = {f"fix_point.{t.name}": str(t.get_attr("fix_point")) for t in [*inputs, *outputs]}

    def run(self, batch: Mapping[str, Array]) -> Outputs:
        """See the protocol."""
        given, made = self._buffers(batch)
        self._execute(given, made)
        return {spec.name: array for spec, array in zip(self.outputs, made, strict=True)}

    def bind(self, batch: Mapping[str, Array]) -> Callable[[], object]:
        """See the protocol. Buffers are made once; `wait` returns when the DPU is done."""
        given, made = self._buffers(batch)
        self._execute(given, made)
        return lambda: self._execute(given, made)

    def _buffers(self, batch: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
        given = []
        for spec in self.inputs:
            array = np.ascontiguousarray(batch[spec.name])
            if array.shape != tuple(spec.shape):
                message = f"input {spec.name} has shape {array.shape}: the DPU takes {tuple(spec.shape)} only"
                raise AgentError(Fault.REFUSED, message)
            given.append(array)
        made: list[Array] = [np.zeros(tuple(spec.shape), spec.dtype) for spec in self.outputs]
        return given, made

    def _execute(self, given: list[Array], made: list[Array]) -> None:
        try:
            job = self._runner.execute_async(given, made)
            self._runner.wait(job)
        except Exception as error:  # noqa: BLE001 - as in load_in
            raise AgentError(Fault.REFUSED, f"the DPU did not run: {error}") from None


def sealed(data: bytes) -> str:
    """The path of a file in memory that holds these bytes and can no longer be written by anyone, us included."""
    descriptor = os.memfd_create("xmodel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return f"/proc/self/fd/{descriptor}"


def compare_fingerprints(model: int, board: str) -> None:
    """Refuse a model that was compiled for another DPU than the board's.

    Args:
        model: as the xmodel says.
        board: as the board tells it, "0x…"; several, parted by commas, where it has several kinds of DPU.

    Raises:
        AgentError: REFUSED; also when the board does not tell.
    """
    try:
        held = {int(one, 16) for one in board.split(",") if one.strip()} - {0}
    except ValueError:
        held = set()
    if not held:
        message = "the fingerprint of this board's DPU is not known (xdputil query, show_dpu)"
        raise AgentError(Fault.REFUSED, f"{message}: load its application, then restart the agent")
    if model not in held:
        mine = ", ".join(f"{one:#x}" for one in sorted(held))
        message = f"the xmodel was compiled for DPU {model:#x} and this board has {mine}"
        raise AgentError(Fault.REFUSED, f"{message}: compile it again for this board")


def _only_subgraph(graph: Any) -> Any:  # noqa: ANN401 - the library is untyped
    parts = list(graph.get_root_subgraph().toposort_child_subgraph())
    devices = [str(part.get_attr("device")).upper() if part.has_attr("device") else "?" for part in parts]
    if devices.count(_DPU) != 1 or any(device not in (_DPU, _NOTHING_TO_RUN) for device in devices):
        found = ", ".join(devices) or "nothing"
        message = f"the xmodel is not one subgraph for the DPU but {found}"
        raise AgentError(Fault.REFUSED, f"{message}: leave operators that the DPU lacks out of it, or use vitisai")
    return parts[devices.index(_DPU)]


def _fingerprint(subgraph: Any) -> int:  # noqa: ANN401 - the library is untyped
    if not subgraph.has_attr("dpu_fingerprint"):
        raise AgentError(Fault.REFUSED, "the xmodel does not say which DPU it was compiled for: compile it again")
    return int(subgraph.get_attr("dpu_fingerprint"))


def _operators(subgraph: Any) -> int:  # noqa: ANN401 - the library is untyped
    try:
        return len(list(subgraph.get_ops()))
    except Exception:  # noqa: BLE001 - older versions do not have it; the subgraph runs on the DPU all the same
        return 1


def _spec(tensor: Any) -> pb.TensorSpec:  # noqa: ANN401 - the library is untyped
    kind = str(tensor.dtype).lower()
    if kind not in _INT8:
        raise AgentError(Fault.REFUSED, f"tensor {tensor.name} of the xmodel is {kind} and must be int8: compile again")
    return pb.TensorSpec(name=str(tensor.name), dtype="int8", shape=[int(size) for size in tensor.dims])
