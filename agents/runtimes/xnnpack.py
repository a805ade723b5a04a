"""ONNX Runtime with XNNPACK, a library of kernels for mobile CPUs.

It takes float and quantized (Q/DQ) convolutions, pooling, products and a few more; the CPU provider runs the rest.
"""

from __future__ import annotations

import os

from agents.protocol import agent_pb2 as pb
from agents.runtimes.base import Surroundings
from agents.runtimes.ort_provider import OrtProvider
from agents.runtimes.ort_session import CPU, OnnxRuntimeSession, Plan, make_session

_PROVIDER = "XnnpackExecutionProvider"


class Xnnpack(OrtProvider):
    """The runtime `xnnpack`."""

    name = "xnnpack"
    provider = _PROVIDER

    def load_in(self, data: bytes, options: pb.SessionOptions, surroundings: Surroundings) -> OnnxRuntimeSession:
        """See `BuildingRuntime.load_in`."""
        # Its kernels have a pool of threads of their own. ONNX Runtime's documentation: give the threads to that one,
        # one thread to the session, and do not let the session's own pool spin beside it.
        threads = options.intra_op_threads or len(os.sched_getaffinity(0))
        plan = Plan(
            [(_PROVIDER, {"intra_op_num_threads": str(threads)}), (CPU, {})],
            [_PROVIDER],
            {"session.intra_op.allow_spinning": "0"},
            intra_op_threads=1,
        )
        return make_session(data, options, plan, surroundings.home)
