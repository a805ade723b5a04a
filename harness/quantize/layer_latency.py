"""What leaving a layer in float costs in time: known before, computed on demand, or timed on a board."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from harness.quantize.fidelity import Runner
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.variants import Variants


@runtime_checkable
class NetworkTimer(Protocol):
    """Times networks where they will run: a board."""

    def cost_ms(self, candidate: QuantizedModel, all_int8: QuantizedModel) -> float:
        """How much longer than the all-int8 network the candidate takes per inference, ms."""


class Board(Runner, NetworkTimer, Protocol):
    """A board that runs variants and, unless it is a stand-in, times them."""

    @property
    def timed(self) -> bool:
        """Whether its times mean anything."""


#: Layer → what leaving it in float costs, ms: measured before, computed on demand, or timed with real networks.
Latency = Mapping[str, float] | Callable[[str], float] | NetworkTimer


class Costs:
    """Latency of leaving a layer in float, asked once each and only when it matters.

    Args:
        variants: makes the networks that a board times.
        latency: where costs come from; None: nobody knows any.
    """

    def __init__(self, variants: Variants, latency: Latency | None) -> None:
        self._variants = variants
        self._latency = latency
        self._all_int8: QuantizedModel | None = None
        self.known: dict[str, float] = {}

    @property
    def given(self) -> bool:
        """Whether anybody knows costs."""
        return self._latency is not None

    def of(self, layer: str) -> float:
        """Of one layer, ms; infinite where a table does not know it."""
        if layer not in self.known:
            self.known[layer] = self._ask(layer)
        return self.known[layer]

    def _ask(self, layer: str) -> float:
        latency = self._latency
        assert latency is not None
        if isinstance(latency, Mapping):
            # Unknown is not cheap.
            return float(latency.get(layer, float("inf")))
        if isinstance(latency, NetworkTimer):
            self._all_int8 = self._all_int8 or self._variants.write(())
            candidate = self._variants.write([layer])
            try:
                return latency.cost_ms(candidate, self._all_int8)
            finally:
                candidate.path.unlink(missing_ok=True)
        return float(latency(layer))
