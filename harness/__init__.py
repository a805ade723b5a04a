"""quantrig: float and int8 networks side by side, on the boards themselves.

    import harness
    q = harness.Quantizer("net.onnx", environment="cpu")
    q.calibrate("images/")
    q.quantize("net.int8.onnx")
    finished = harness.run("job.yaml", targets=["this-machine"])

The public names load on first use, so that `quantrig --help` and pytest stay fast.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from harness._version import __version__

if TYPE_CHECKING:
    from harness.api import Quantizer as Quantizer
    from harness.api import diagnose as diagnose
    from harness.api import run as run
    from harness.emulation.performance.estimate import estimate as estimate
    from harness.judge.comparison import Comparison as Comparison
    from harness.quantize import details as details
    from harness.quantize import network_metrics as network_metrics
    from harness.quantize import prepare as prepare
    from harness.runs.engine import Run as Run

# The official ONNX Runtime builds send names and hashes of models home unless told not to (since 1.29); a lab's
# networks are nobody else's business. Set before the first import of onnxruntime, like this one is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Comparison": "harness.judge.comparison",
    "Quantizer": "harness.api",
    "Run": "harness.runs.engine",
    "details": "harness.quantize",
    "diagnose": "harness.api",
    "estimate": "harness.emulation.performance.estimate",
    "network_metrics": "harness.quantize",
    "prepare": "harness.quantize",
    "run": "harness.api",
}

__all__ = [
    "Comparison",
    "Quantizer",
    "Run",
    "__version__",
    "details",
    "diagnose",
    "estimate",
    "network_metrics",
    "prepare",
    "run",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    if name not in _HOMES:
        message = f"module 'harness' has no attribute '{name}'"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)
