"""ONNX Runtime: its CPU provider by default, any other that the installed package offers when a host names it."""

from __future__ import annotations

from collections.abc import Sequence

from agents.protocol import agent_pb2 as pb
from agents.runtimes.ort_session import (
    CPU,
    TAKES,
    OnnxRuntimeSession,
    Plan,
    installed_providers,
    installed_version,
    make_session,
)

__all__ = ["OnnxRuntimeCpu", "OnnxRuntimeSession"]


class OnnxRuntimeCpu:
    """The runtime `onnxruntime`."""

    name = "onnxruntime"
    takes = TAKES | {"providers"}

    def version(self) -> str:
        """Of the package."""
        return installed_version()

    def available_providers(self) -> Sequence[str]:
        """As the package lists them, the CPU last."""
        return installed_providers()

    def load(self, data: bytes, options: pb.SessionOptions) -> OnnxRuntimeSession:
        """See `agents.runtimes.base.Runtime.load`. A provider that a host names runs with its own default options."""
        providers = list(options.providers) or [CPU]
        return make_session(data, options, Plan([(name, {}) for name in providers], list(options.providers)))
