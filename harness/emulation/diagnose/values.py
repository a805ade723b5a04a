"""What a diagnosis says: plain frozen values, for a table, a page and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: Differences beyond this many steps are counted together at the ends of a histogram.
HISTOGRAM_EDGE_LSB = 16


@dataclass(frozen=True, slots=True)
class Kind:
    """A mistake that, made in one layer, gives exactly what the board returned.

    Args:
        name: short, for a table: "rounding half-even".
        text: for a reader, in full.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """One layer's integers, of the board and of the reference.

    Args:
        layer: its operator's name in the quantized network; of an input, the input's name.
        op_type: its operator; "Input" for an input on its way into integers.
        tensor: name of the tensor that holds the integers.
        values: how many were compared, over all samples.
        differing: how many of them differ.
        differing_samples: samples with a difference.
        max_lsb: the largest difference, in steps of the tensor.
        mean_lsb: mean size of the differences that are not 0; 0 where there are none.
        own: values that differ from what the reference computes from the *board's own* inputs of this layer: what
            the layer itself does otherwise. What only follows from earlier layers is `differing` with `own` 0.
        histogram: board minus reference, in steps → count, 0 included; the ends ±16 hold all beyond.
        channels: differing values of each channel (axis 1, of tensors of rank 2 the last axis); () for rank below 2.
        kinds: every mistake that reproduces the board's integers of this layer without one differing value.
        unknown: why no kind is named, where `own` is not 0; else "".
    """

    layer: str
    op_type: str
    tensor: str
    values: int
    differing: int
    differing_samples: int
    max_lsb: int
    mean_lsb: float
    own: int
    histogram: Mapping[int, int] = field(default_factory=dict)
    channels: tuple[int, ...] = ()
    kinds: tuple[Kind, ...] = ()
    unknown: str = ""

    @property
    def verdict(self) -> str:
        """One phrase for a table."""
        if not self.differing and not self.own:
            return "equal"
        if not self.own:
            return "inherited"
        return " or ".join(kind.name for kind in self.kinds) if self.kinds else f"unknown: {self.unknown}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A board beside the reference, layer by layer.

    Args:
        target: the board.
        environment: whose rules made the network.
        reference: what the board is compared with, for a reader.
        ran: what the board ran, for a reader.
        samples: how many.
        layers: every layer with integers that both sides have, in the network's order.
        outputs_differing: values of the network's outputs that differ (floats, compared bit by bit).
        outputs_values: of how many.
        notices: what a reader must know: layers that could not be compared, outputs that change when intermediate
            tensors are asked for, a host without exact int8.
    """

    target: str
    environment: str
    reference: str
    ran: str
    samples: int
    layers: tuple[LayerDifference, ...]
    outputs_differing: int
    outputs_values: int
    notices: tuple[str, ...] = ()

    @property
    def first(self) -> LayerDifference | None:
        """The first layer that differs; None where none does."""
        return next((layer for layer in self.layers if layer.differing), None)

    @property
    def own(self) -> tuple[LayerDifference, ...]:
        """Layers that differ by themselves, not only because their inputs do."""
        return tuple(layer for layer in self.layers if layer.own)

    @property
    def values(self) -> int:
        """Integers compared in all."""
        return sum(layer.values for layer in self.layers)

    @property
    def summary(self) -> str:
        """The finding in one line."""
        counted = f"{self.values:,} values of {len(self.layers)} layers, {self.samples} samples"
        first = self.first
        if first is None:
            if not self.outputs_differing:
                return f"no difference in {counted}"
            return f"no difference in {counted}, but {self.outputs_differing:,} output values differ"
        return (
            f"first difference in {first.layer} ({first.op_type}): {first.differing:,} of {first.values:,} values on "
            f"{first.differing_samples} of {self.samples} samples, largest {first.max_lsb} LSB, "
            f"mean {first.mean_lsb:.3g} LSB; {first.verdict}"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        layers = []
        for layer in self.layers:
            entry = asdict(layer)
            entry["histogram"] = {str(lsb): count for lsb, count in layer.histogram.items()}
            entry["channels"] = list(layer.channels)
            entry["kinds"] = [asdict(kind) for kind in layer.kinds]
            entry["verdict"] = layer.verdict
            layers.append(entry)
        first = self.first
        return {
            "target": self.target,
            "environment": self.environment,
            "reference": self.reference,
            "ran": self.ran,
            "samples": self.samples,
            "summary": self.summary,
            "first_difference": None if first is None else first.layer,
            "kinds": [] if first is None else [kind.name for kind in first.kinds],
            "values": self.values,
            "layers": layers,
            "outputs_differing": self.outputs_differing,
            "outputs_values": self.outputs_values,
            "notices": list(self.notices),
        }
