"""The quantizer: prepare → calibrate → choose scales → rewrite → details; one rule book per environment."""

from __future__ import annotations

from harness.quantize.calibrator import Calibration, calibrate
from harness.quantize.preparation import prepare
from harness.quantize.quantizer import QuantizedModel, quantize

__all__ = ["Calibration", "QuantizedModel", "calibrate", "prepare", "quantize"]
