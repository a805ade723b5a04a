"""What every runtime on ONNX Runtime shares: making a session, running it, and saying who runs its nodes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from agents.faults import AgentError, Fault, one_line
from agents.protocol import agent_pb2 as pb
from agents.runtimes.assignment import from_profile, from_session, tells_itself
from agents.runtimes.base import NO_SPINNING, Array, Outputs
from agents.tensors import DTYPES

CPU = "CPUExecutionProvider"
#: Session options that mean something to any session of ONNX Runtime.
TAKES = frozenset({"intra_op_threads", "graph_optimization", "disabled_optimizers", "precise_x86_int8"})
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
#: y = Relu(x), one float: an ONNX file (IR version 8, opset 13) that any ONNX Runtime of the last years loads.
SMALLEST = bytes.fromhex(
    "080812003a330a0c0a0178120179220452656c7512016e5a0f0a0178120a0a08"
    "080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)
_RECORD = "session.record_ep_graph_assignment_info"


@dataclass(frozen=True)
class Plan:
    """How a session is to be made.

    Args:
        providers: in order, each with its options; the CPU provider follows by itself.
        wanted: those of them without which the session is refused.
        entries: session configuration, by ONNX Runtime's keys.
        private: options of providers that are not told to a host: the agent's own paths.
        intra_op_threads: in place of the host's; None: as the host says.
    """

    providers: Sequence[tuple[str, Mapping[str, str]]]
    wanted: Sequence[str]
    entries: Mapping[str, str] = field(default_factory=dict)
    private: frozenset[str] = frozenset()
    intra_op_threads: int | None = None


def installed_version() -> str:
    """Of the package."""
    return str(ort.__version__)


def installed_providers() -> list[str]:
    """As the package lists them, the CPU last; listed is not yet working, see `works`."""
    return [provider for provider in ort.get_available_providers() if provider not in _REMOTE]


def make_session(data: bytes, options: pb.SessionOptions, plan: Plan, home: Path | None = None) -> OnnxRuntimeSession:
    """A session, refused when a wanted provider would run no node of it.

    Args:
        data: single-file ONNX.
        options: already checked.
        plan: of the runtime.
        home: where a library that cannot tell who runs what may write the profile of one run; None: it does not.

    Raises:
        AgentError: REFUSED.
        MemoryError: the process may not have more memory.
    """
    available = installed_providers()
    for provider, _ in plan.providers:
        if provider not in available:
            message = f"provider {provider} is not available on this board: it has {', '.join(available)}"
            raise AgentError(Fault.REFUSED, message)
    settings, told = _session_options(options, plan)
    # Only where there is a choice: a profile costs a run.
    profiled = home is not None and not tells_itself(ort) and any(name != CPU for name in plan.wanted)
    if profiled:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(home / "profile")  # type: ignore[operator]  # not None: see above
    try:
        session = ort.InferenceSession(
            data,
            settings,
            providers=[name for name, _ in plan.providers],
            provider_options=[dict(given) for _, given in plan.providers],
            disabled_optimizers=list(options.disabled_optimizers),
            enable_fallback=0,  # or the package would print an error and go on with another provider
        )
    except Exception as error:  # noqa: BLE001 - the library has no common base class for its exceptions
        raise explained("the network cannot be loaded", error) from None
    made = OnnxRuntimeSession(session, list(session.get_providers()))
    made.settings = told
    made.assigned = _assigned_by_profile(made) if profiled else from_session(session)
    made.providers = really_used(session, plan.wanted, made.assigned)
    return made


def works(provider: str, options: Mapping[str, str] | None = None) -> str:
    """Why a provider cannot be used here; "" when it can.

    A package lists what it was built with, not what the board's libraries can start: so a session of the smallest
    network is made with it. It need not run any node.
    """
    if provider not in installed_providers():
        return f"the installed onnxruntime has no {provider}: install the vendor's package"
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(
            SMALLEST,
            settings,
            providers=[provider, CPU],
            provider_options=[dict(options or {}), {}],
            enable_fallback=0,
        )
    except Exception as error:  # noqa: BLE001 - as in make_session
        return one_line(f"{provider} does not start: {error}")
    return "" if provider in session.get_providers() else f"{provider} does not start: its libraries are missing"


def _session_options(options: pb.SessionOptions, plan: Plan) -> tuple[Any, dict[str, str]]:
    """The library's options, and the same as text for the record."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.graph_optimization_level = _LEVELS[options.graph_optimization]
    threads = options.intra_op_threads if plan.intra_op_threads is None else plan.intra_op_threads
    if threads:
        settings.intra_op_num_threads = threads
    entries = {"session.x64quantprecision": "1"} if options.precise_x86_int8 else {}
    if os.environ.get(NO_SPINNING):
        entries["session.intra_op.allow_spinning"] = "0"
    entries |= plan.entries
    for name, value in {**entries, _RECORD: "1"}.items():
        settings.add_session_config_entry(name, value)
    told = {
        "graph_optimization_level": options.graph_optimization or "all",
        "intra_op_num_threads": str(threads or "the library's own choice"),
        "session.x64quantprecision": "0",
        "disabled_optimizers": ", ".join(options.disabled_optimizers),
        **entries,
    }
    for provider, given in plan.providers:
        told |= {f"{provider}.{key}": value for key, value in given.items() if key not in plan.private}
    return settings, told


class OnnxRuntimeSession:
    """A session of ONNX Runtime; see `agents.runtimes.base.Session`."""

    def __init__(self, session: Any, providers: Sequence[str]) -> None:  # noqa: ANN401 - the library is untyped
        self.session = session
        self.inputs = [_spec(argument, "input") for argument in session.get_inputs()]
        self.outputs = [_spec(argument, "output") for argument in session.get_outputs()]
        self.providers = providers
        self.compile_ms: float | None = None
        self.assigned: Sequence[pb.ProviderNodes] = ()
        self.settings: Mapping[str, str] = {}
        self._names = [spec.name for spec in self.outputs]

    def run(self, batch: Mapping[str, Array]) -> Outputs:
        """See the protocol."""
        try:
            values = self.session.run(self._names, dict(batch))
        except Exception as error:  # noqa: BLE001 - as in make_session
            raise explained("the network cannot run on this batch", error) from None
        return {name: np.asarray(value) for name, value in zip(self._names, values, strict=True)}

    def bind(self, batch: Mapping[str, Array]) -> Callable[[], object]:
        """See the protocol. The public `run`, as a program on the board would call it."""
        self.run(batch)  # a batch that cannot run is refused now, not in the middle of a block
        return functools.partial(self.session.run, self._names, dict(batch))

    def zeros(self) -> dict[str, Array]:
        """A batch of zeros, every free dimension 1."""
        return {spec.name: np.zeros([max(size, 1) for size in spec.shape], spec.dtype) for spec in self.inputs}


def really_used(
    session: Any,  # noqa: ANN401 - the library is untyped
    wanted: Sequence[str],
    assigned: Sequence[pb.ProviderNodes] | None = None,
) -> list[str]:
    """Providers of the session; a wanted one without any node is refused, or its rows would carry a false name.

    ONNX Runtime falls back silently in two ways: it drops a provider whose library is missing, and it gives no node
    to a provider that supports none of them.

    Raises:
        AgentError: REFUSED.
    """
    registered = list(session.get_providers())
    nodes = from_session(session) if assigned is None else assigned
    used = {group.provider for group in nodes if group.count} or set(registered)
    for provider in wanted:
        # The CPU is the fallback of every list: naming it last asks for nothing.
        if provider == CPU and len(wanted) > 1:
            continue
        if provider not in registered:
            message = f"provider {provider} could not be started on this board: its libraries are missing or too old"
            raise AgentError(Fault.REFUSED, message)
        if provider not in used:
            message = f"provider {provider} would run no part of this network: leave it out or change the network"
            raise AgentError(Fault.REFUSED, message)
    return [provider for provider in registered if provider in used]


def _assigned_by_profile(made: OnnxRuntimeSession) -> list[pb.ProviderNodes]:
    """For a library that cannot be asked: one run on zeros, profiled."""
    try:
        made.run(made.zeros())
        path = Path(made.session.end_profiling())
    except AgentError as error:
        message = f"which provider runs which node cannot be told, because the network does not run on zeros ({error})"
        raise AgentError(Fault.REFUSED, f"{message}: give its inputs fixed dimensions") from None
    return from_profile(path.read_bytes())


def _spec(argument: Any, what: str) -> pb.TensorSpec:  # noqa: ANN401 - the library is untyped
    kind = str(argument.type)
    name = kind.removeprefix("tensor(").removesuffix(")")
    dtype = _NUMPY_NAMES.get(name, name)
    if not kind.startswith("tensor(") or dtype not in DTYPES:
        message = f"{what} {argument.name} is of type {kind}, which cannot travel: use plain numeric tensors"
        raise AgentError(Fault.REFUSED, message)
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape]
    return pb.TensorSpec(name=argument.name, dtype=dtype, shape=shape)


def explained(what: str, error: Exception) -> Exception:
    """The error as the agent reports it: memory apart, everything else as a refusal."""
    text = str(error)
    if isinstance(error, MemoryError) or any(word in text for word in _MEMORY_WORDS):
        return MemoryError(text)
    return AgentError(Fault.REFUSED, f"{what}: {text}")
