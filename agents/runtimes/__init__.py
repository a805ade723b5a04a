"""Ways to execute a network, one file each; third parties add theirs through the entry point `quantrig.agent.runtimes`.

Imported by child processes only: the serving process never loads a runtime.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from agents.faults import AgentError, Fault, one_line
from agents.runtimes.base import BuildingRuntime, Runtime

_GROUP = "quantrig.agent.runtimes"
_ONNX = "onnx"
#: What this distribution brings, for an agent run from a plain copy of its folder. The first one is the default
#: where a board's family has no other (`agents.preferences`).
_OWN = {
    "onnxruntime": "agents.runtimes.onnxruntime_cpu:OnnxRuntimeCpu",
    "xnnpack": "agents.runtimes.xnnpack:Xnnpack",
    "cuda": "agents.runtimes.cuda:Cuda",
    "tensorrt": "agents.runtimes.tensorrt:Tensorrt",
    "vitisai": "agents.runtimes.vitisai:VitisAi",
    "vart": "agents.runtimes.vart:Vart",
}


def entries() -> dict[str, str]:
    """Entry point ("module:Class") of each runtime, by name; our own first."""
    return {**_OWN, **{point.name: point.value for point in entry_points(group=_GROUP)}}


def load_runtime(entry: str) -> Runtime | BuildingRuntime:
    """The runtime behind an entry point.

    Raises:
        AgentError: REFUSED when it cannot be imported.
    """
    module, _, name = entry.partition(":")
    try:
        runtime: Runtime | BuildingRuntime = getattr(import_module(module), name)()
    except Exception as error:  # noqa: BLE001 - a plug-in and the vendor library it loads may raise anything
        message = f"the runtime {entry} cannot be loaded: {type(error).__name__}: {error}"
        raise AgentError(Fault.REFUSED, message) from None
    return runtime


def describe_all() -> list[dict[str, object]]:
    """What works here: name, entry, version, providers, problem, format of every runtime, and whether it builds."""
    found: list[dict[str, object]] = []
    for name, entry in entries().items():
        version, providers, problem, form, builds = "", list[str](), "", _ONNX, False
        try:
            runtime = load_runtime(entry)
            form, builds = str(getattr(runtime, "format", _ONNX)), isinstance(runtime, BuildingRuntime)
            version, providers = runtime.version(), list(runtime.available_providers())
        except AgentError as error:
            problem = error.message
        except Exception as error:  # noqa: BLE001 - as above
            problem = one_line(f"{type(error).__name__}: {error}")
        one = {"name": name, "entry": entry, "version": version, "providers": providers, "problem": problem}
        found.append({**one, "format": form, "builds": builds})
    return found
