"""NaN and infinity among a network's constants: found before they spread, and named."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.graph import Graph


def is_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite; without a copy, as weights can be larger than memory."""
    if values.dtype.kind != "f" or not values.size:
        return True
    # minimum and maximum of anything with a NaN are NaN
    return bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def non_finite_constant(graph: Graph, tensor: str) -> str | None:
    """The nearest constant before a tensor that holds NaN or infinity, None when there is none."""
    pending, seen = [tensor], {tensor}
    while pending:
        node = graph.producer.get(pending.pop(0))
        for name in node.input if node is not None else ():
            if graph.is_constant(name) and not is_finite(graph.array(name)):
                return name
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return None


def require_finite(name: str, values: NDArray[Any], layer: str) -> None:
    """Refuse weights that no integer stands for.

    Raises:
        UserError: naming the initializer.
    """
    if not is_finite(values):
        found = "NaN" if np.isnan(values).any() else "infinity"
        msg = f"initializer {name!r} of layer {layer!r} holds {found}; repair or retrain the network"
        raise UserError(msg)
