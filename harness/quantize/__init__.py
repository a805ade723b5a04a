"""The quantizer: prepare → calibrate → choose scales → rewrite → details; one rule book per environment."""

from __future__ import annotations

from harness.quantize.calibration import Calibration
from harness.quantize.calibrator import calibrate
from harness.quantize.goal import Goal
from harness.quantize.inspection import Details, describe_own, details
from harness.quantize.layer_error import layer_errors
from harness.quantize.learnables import learnable_memory_bytes
from harness.quantize.metrics_table import network_metrics
from harness.quantize.mixed import MixedPrecision, mixed_precision
from harness.quantize.overrides import LayerOverride
from harness.quantize.preparation import prepare
from harness.quantize.quantizer import QuantizedModel, quantize
from harness.quantize.session import Quantizer

__all__ = [
    "Calibration",
    "Details",
    "Goal",
    "LayerOverride",
    "MixedPrecision",
    "QuantizedModel",
    "Quantizer",
    "calibrate",
    "describe_own",
    "details",
    "layer_errors",
    "learnable_memory_bytes",
    "mixed_precision",
    "network_metrics",
    "prepare",
    "quantize",
]
