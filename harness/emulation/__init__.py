"""What a board would compute, and how long it would take: `lower` writes a quantized network in its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.emulation.arithmetic import ARITHMETICS, Arithmetic, find_arithmetic
    from harness.emulation.lowered import Lowered, LoweredLayer
    from harness.emulation.lowering.network import lower

__all__ = ["ARITHMETICS", "Arithmetic", "Lowered", "LoweredLayer", "find_arithmetic", "lower"]

#: Public name → the module that holds it; they are read when first asked for.
_WHERE = {
    "ARITHMETICS": "arithmetic",
    "Arithmetic": "arithmetic",
    "find_arithmetic": "arithmetic",
    "Lowered": "lowered",
    "LoweredLayer": "lowered",
    "lower": "lowering.network",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever the module holds
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
