"""The layers of a network as a performance model sees them: shapes and counts, no values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LayerKind = Literal[
    "conv", "depthwise", "transposed", "fc", "maxpool", "avgpool", "add", "mul", "concat", "resize", "activation",
    "normalization", "move", "other",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Volume:
    """Shape of one sample of a tensor: channels, height, width; a vector has height and width 1."""

    channels: int
    height: int = 1
    width: int = 1

    @property
    def elements(self) -> int:
        """How many values it has."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer: an operator with the activation function and the normalization fused into it.

    Args:
        name: of the operator's node.
        op_type: its operator.
        kind: what a performance model tells apart; other: also a layer whose shapes are known only at run time.
        inputs: of each operand that is no constant.
        output: of one sample.
        parents: names of the layers that make the operands; "" for an input of the network.
        members: names of all nodes it consists of.
        fused: operators of the members after the first.
        kernel: height and width of the window; (1, 1) for fully connected layers.
        strides: down and across.
        pads: top, left, bottom, right.
        dilations: down and across.
        groups: of a convolution.
        axes: how many its window moves along, 3 for volumes; 2 also where it has no window.
        weights: number of weights.
        biases: number of biases; 0 where there are none.
        macs: multiply-accumulates for one sample.
    """

    name: str
    op_type: str
    kind: LayerKind
    inputs: tuple[Volume, ...]
    output: Volume
    parents: tuple[str, ...]
    members: tuple[str, ...]
    fused: tuple[str, ...] = ()
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    axes: int = 2
    weights: int = 0
    biases: int = 0
    macs: int = 0


@dataclass(frozen=True)
class NetworkShape:
    """A network as a performance model sees it.

    Args:
        layers: in the order of execution.
        inputs: name → shape of one sample.
        outputs: names of the layers whose results leave the network.
        free: sizes of inputs, the batch aside, that only the run decides and that count as 1 here: "x: height, width".
        kept_float: of a Q/DQ network, the layers with weights that stayed float in it.
    """

    layers: tuple[LayerShape, ...]
    inputs: Mapping[str, Volume]
    outputs: tuple[str, ...]
    free: tuple[str, ...] = ()
    kept_float: tuple[str, ...] = ()
    _index: dict[str, LayerShape] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {layer.name: layer for layer in self.layers})

    def layer(self, name: str) -> LayerShape:
        """The layer of that name."""
        return self._index[name]

    @property
    def operations(self) -> int:
        """Two per multiply-accumulate, one sample, as tables of GOPs count."""
        return 2 * sum(layer.macs for layer in self.layers)
