"""ONNX Runtime: its CPU provider by default, any other that the installed package offers when a host names it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb
from agents.runtimes.base import Array, Outputs
from agents.tensors import DTYPES

_DEFAULT_PROVIDER = "CPUExecutionProvider"
_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,  # the library's own default
}
#: Where ONNX Runtime's name of an element type is not numpy's.
_NUMPY_NAMES = {"float": "float32", "double": "float64"}
#: Messages of the library when an allocation failed; it raises its general exception for them.
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "Failed to allocate memory", "BFCArena", "Cannot allocate memory")
#: Providers that send the network's inputs to another machine.
_REMOTE = ("AzureExecutionProvider",)
_ERRORS_ONLY = 3


class OnnxRuntimeCpu:
    """The runtime `onnxruntime`."""

    name = "onnxruntime"

    def version(self) -> str:
        """Of the package."""
        return str(ort.__version__)

    def available_providers(self) -> Sequence[str]:
        """As the package lists them, the CPU last."""
        return [provider for provider in ort.get_available_providers() if provider not in _REMOTE]

    def load(self, data: bytes, options: pb.SessionOptions) -> OnnxRuntimeSession:
        """See `agents.runtimes.base.Runtime.load`."""
        available = self.available_providers()
        providers = list(options.providers) or [_DEFAULT_PROVIDER]
        for provider in providers:
            if provider not in available:
                message = f"provider {provider} is not available on this board: it has {', '.join(available)}"
                raise AgentError(Fault.REFUSED, message)
        settings = ort.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        settings.graph_optimization_level = _LEVELS[options.graph_optimization]
        if options.intra_op_threads:
            settings.intra_op_num_threads = options.intra_op_threads
        if options.precise_x86_int8:
            settings.add_session_config_entry("session.x64quantprecision", "1")
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = ort.InferenceSession(
                data, settings, providers=providers, disabled_optimizers=list(options.disabled_optimizers)
            )
        except Exception as error:  # noqa: BLE001 - the library has no common base class for its exceptions
            raise _explained("the network cannot be loaded", error) from None
        return OnnxRuntimeSession(session, really_used(session, options.providers))


class OnnxRuntimeSession:
    """A session of ONNX Runtime; see `agents.runtimes.base.Session`."""

    compile_ms: float | None = None

    def __init__(self, session: Any, providers: Sequence[str]) -> None:  # noqa: ANN401 - the library is untyped
        self._session = session
        self.inputs = [_spec(argument, "input") for argument in session.get_inputs()]
        self.outputs = [_spec(argument, "output") for argument in session.get_outputs()]
        self.providers = providers
        self._names = [spec.name for spec in self.outputs]

    def run(self, batch: Mapping[str, Array]) -> Outputs:
        """See the protocol."""
        try:
            values = self._session.run(self._names, dict(batch))
        except Exception as error:  # noqa: BLE001 - as in load
            raise _explained("the network cannot run on this batch", error) from None
        return {name: np.asarray(value) for name, value in zip(self._names, values, strict=True)}

    def bind(self, batch: Mapping[str, Array]) -> Callable[[], object]:
        """See the protocol. The public `run`, as a program on the board would call it."""
        self.run(batch)  # a batch that cannot run is refused now, not in the middle of a block
        return functools.partial(self._session.run, self._names, dict(batch))


def really_used(session: Any, wanted: Sequence[str]) -> list[str]:  # noqa: ANN401 - the library is untyped
    """Providers of the session; a wanted one without any use is refused, or its rows would carry a false name.

    ONNX Runtime falls back silently in two ways: it drops a provider whose library is missing, and it gives no node
    to a provider that supports none of them.
    """
    registered = list(session.get_providers())
    used = set(registered)
    try:
        assigned = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001 - older versions have no such method, or refuse without the option
        assigned = []
    if assigned:
        used = {group.ep_name for group in assigned}
    for provider in wanted:
        # The CPU is the fallback of every list: naming it last asks for nothing.
        if provider not in used and not (provider == _DEFAULT_PROVIDER and len(wanted) > 1):
            message = f"provider {provider} would run no part of this network: leave it out or change the network"
            raise AgentError(Fault.REFUSED, message)
    return [provider for provider in registered if provider in used]


def _spec(argument: Any, what: str) -> pb.TensorSpec:  # noqa: ANN401 - the library is untyped
    kind = str(argument.type)
    name = kind.removeprefix("tensor(").removesuffix(")")
    dtype = _NUMPY_NAMES.get(name, name)
    if not kind.startswith("tensor(") or dtype not in DTYPES:
        message = f"{what} {argument.name} is of type {kind}, which cannot travel: use plain numeric tensors"
        raise AgentError(Fault.REFUSED, message)
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape]
    return pb.TensorSpec(name=argument.name, dtype=dtype, shape=shape)


def _explained(what: str, error: Exception) -> Exception:
    text = str(error)
    if isinstance(error, MemoryError) or any(word in text for word in _MEMORY_WORDS):
        return MemoryError(text)
    return AgentError(Fault.REFUSED, f"{what}: {text}")
