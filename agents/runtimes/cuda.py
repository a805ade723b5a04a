"""ONNX Runtime with its CUDA provider: float kernels of cuDNN and cuBLAS, and int8 where the provider has kernels."""

from __future__ import annotations

import onnxruntime as ort

from agents.protocol import agent_pb2 as pb
from agents.runtimes.base import Surroundings
from agents.runtimes.ort_provider import OrtProvider
from agents.runtimes.ort_session import CPU, OnnxRuntimeSession, Plan, make_session

PROVIDER = "CUDAExecutionProvider"
#: TF32 keeps 10 bits of a float's fraction: the float network is to be the reference, so it stays float32.
OPTIONS = {"device_id": "0", "use_tf32": "0"}


def preload() -> None:
    """Load CUDA's and cuDNN's libraries from their Python packages, where the board has them as such."""
    load = getattr(ort, "preload_dlls", None)  # since 1.21
    if load is not None:
        load()


class Cuda(OrtProvider):
    """The runtime `cuda`."""

    name = "cuda"
    provider = PROVIDER
    tried_with = OPTIONS

    def before_trying(self) -> None:
        """See `OrtProvider.before_trying`."""
        if PROVIDER in ort.get_available_providers():
            preload()

    def load_in(self, data: bytes, options: pb.SessionOptions, surroundings: Surroundings) -> OnnxRuntimeSession:
        """See `BuildingRuntime.load_in`."""
        preload()
        return make_session(data, options, _PLAN, surroundings.home)


_PLAN = Plan([(PROVIDER, OPTIONS), (CPU, {})], [PROVIDER])
