"""What a runtime offers to the child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.protocol import agent_pb2 as pb

Array = NDArray[np.generic]
Outputs = Mapping[str, NDArray[Any]]
#: In the process's environment on an emulated board: threads that wait must sleep, for its processors share the host's.
NO_SPINNING = "QUANTRIG_NO_SPINNING"


@dataclass(frozen=True)
class Surroundings:
    """What a runtime that builds for an accelerator may use beside the network. No host can choose any of it.

    Args:
        digest: of the network's file.
        home: the process's own empty folder, removed at its end.
        quantized: whether the network has quantizing or dequantizing operators.
        built: the agent's folder of what runtimes built, mode 0700; None: nothing is kept.
        key: authenticates what is kept for this network, and for no other one.
        root: where the board's own configuration lies: "/", but for tests.
        details: what the board's family tells of it: "gpu", "driver", "dpu_fingerprint", …
        begins: to be told the name and the note of a phase that takes long, when it begins.
    """

    digest: str
    home: Path
    quantized: bool = False
    built: Path | None = None
    key: bytes = b""
    root: Path = Path("/")
    details: Mapping[str, str] = field(default_factory=dict)
    begins: Callable[[str, str], None] = lambda _name, _note: None


class Session(Protocol):
    """One loaded network.

    It may also have `assigned`, a sequence of ProviderNodes (who runs which nodes), and `settings`, a mapping of text
    (what the session was given, by the library's own names).
    """

    #: what it takes and gives; dtypes by numpy name, -1 for a dimension that is free
    inputs: Sequence[pb.TensorSpec]
    outputs: Sequence[pb.TensorSpec]
    #: execution providers it really uses, best first
    providers: Sequence[str]
    #: building for the accelerator, where that is a phase apart from loading; else None
    compile_ms: float | None

    def run(self, batch: Mapping[str, Array]) -> Outputs:
        """Outputs by name.

        Raises:
            AgentError: REFUSED when the network cannot run on this batch.
            MemoryError: the process may not have more memory.
        """

    def bind(self, batch: Mapping[str, Array]) -> Callable[[], object]:
        """One inference on this batch, as cheap to call as the runtime allows: what a block times.

        Returns only when the outputs are ready: a device that runs asynchronously is waited for.

        Raises:
            AgentError, MemoryError: as `run`.
        """


class Way(Protocol):
    """What every runtime tells of itself.

    It may also have `takes`, the names of the session options that it takes (all of them, where it says nothing), and
    `format`: "onnx", which is meant where it says nothing, or "xmodel": compiled for a DPU, and loaded with a permit.
    """

    #: as in PrepareRequest.runtime
    name: str

    def version(self) -> str:
        """Of the library."""

    def available_providers(self) -> Sequence[str]:
        """Execution providers that work here, best first.

        Raises:
            AgentError: REFUSED with the reason when the runtime does not work here.
        """


class Runtime(Way, Protocol):
    """A way to execute networks."""

    def load(self, data: bytes, options: pb.SessionOptions) -> Session:
        """A session of a network that passed every check.

        Args:
            data: single-file ONNX.
            options: already checked against the allow-list.

        Raises:
            AgentError: REFUSED when the network or a provider cannot be used here.
            MemoryError: the process may not have more memory.
        """


@runtime_checkable
class BuildingRuntime(Way, Protocol):
    """A runtime that compiles, keeps what it built, or needs to know the board."""

    def load_in(self, data: bytes, options: pb.SessionOptions, surroundings: Surroundings) -> Session:
        """See `Runtime.load`."""
