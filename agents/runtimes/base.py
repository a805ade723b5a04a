"""What a runtime offers to the child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.protocol import agent_pb2 as pb

Array = NDArray[np.generic]
Outputs = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """One loaded network."""

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


class Runtime(Protocol):
    """A way to execute networks."""

    #: as in PrepareRequest.runtime
    name: str

    def version(self) -> str:
        """Of the library."""

    def available_providers(self) -> Sequence[str]:
        """Execution providers that work here, best first."""

    def load(self, data: bytes, options: pb.SessionOptions) -> Session:
        """A session of a network that passed every check.

        Args:
            data: single-file ONNX.
            options: already checked against the allow-list.

        Raises:
            AgentError: REFUSED when the network or a provider cannot be used here.
            MemoryError: the process may not have more memory.
        """
