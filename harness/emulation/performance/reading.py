"""Read the layers of a network: what fuses into which layer, and how much each of them computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from onnx import NodeProto

from harness.emulation.performance.layers import LayerKind, LayerShape, NetworkShape, Volume
from harness.emulation.performance.windows import Window, window_of
from harness.errors import UserError
from harness.quantize.graph import Graph, attribute, names_read_inside, read_model, subgraphs
from harness.quantize.learnables import Learnable, learnables
from harness.quantize.preparation import infer_types, name_nodes

_KINDS: Mapping[str, LayerKind] = {
    "Conv": "conv",
    "ConvTranspose": "transposed",
    "Gemm": "fc",
    "MatMul": "fc",
    "MaxPool": "maxpool",
    "GlobalMaxPool": "maxpool",
    "AveragePool": "avgpool",
    "GlobalAveragePool": "avgpool",
    "ReduceMean": "avgpool",
    "Add": "add",
    "Sub": "add",
    "Sum": "add",
    "Mul": "mul",
    "Div": "mul",
    "Concat": "concat",
    "Resize": "resize",
    "Upsample": "resize",
    "BatchNormalization": "normalization",
    "LRN": "normalization",
    **dict.fromkeys(
        ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Softplus"),
        "activation",
    ),
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Slice", "Split", "Pad",
         "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Cast"),
        "move",
    ),
}  # fmt: skip
#: What a board computes on the way out of the layer before.
_FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSigmoid", "HardSwish"})
_NO_LAYER = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant", "Shape", "ConstantOfShape"})
_WINDOWED = frozenset({"conv", "transposed", "maxpool", "avgpool"})
#: Layers behind whose sums a board applies an activation function without a pass of its own.
_FUSES = frozenset({"conv", "depthwise", "transposed", "fc", "add", "mul"})
#: Layers that may have biases.
_SUMS = frozenset({"conv", "depthwise", "transposed", "fc"})


def read_shape(path: Path) -> NetworkShape:
    """Read the layers of a float or Q/DQ network; a free batch or other free dimension counts as 1.

    Raises:
        UserError: no readable network, or not even the number of axes of an input is known.
    """
    model = read_model(Path(path))
    name_nodes(model)
    graph = Graph(infer_types(model))
    return _Reader(graph, str(path)).network()


class _Reader:
    def __init__(self, graph: Graph, where: str) -> None:
        self.graph = graph
        self.where = where
        self.learnables: dict[str, list[Learnable]] = {}
        for item in learnables(graph.model):
            self.learnables.setdefault(item.layer, []).append(item)
        #: tensor → the layer that makes it ("" for an input of the network)
        self.made_by: dict[str, str] = dict.fromkeys(graph.inputs, "")
        #: tensor → the tensor that it is, rounded
        self.same_as: dict[str, str] = {}
        #: input of the network with its channels last → the same with its channels first
        self.as_planes: dict[str, str] = {}
        self.drafts: dict[str, LayerShape] = {}
        #: layer → its operator, of those with weights
        self.weighted: dict[str, NodeProto] = {}

    def network(self) -> NetworkShape:
        for node in self.graph.nodes:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and not self.graph.is_constant(node.input[0]):
                source = self._source(node.input[0])
                self.same_as[node.output[0]] = source
            elif node.op_type not in _NO_LAYER:
                self._add(node)
        outputs = dict.fromkeys(self.made_by.get(self._source(name), "") for name in self.graph.outputs)
        inputs = {name: self._volume(self.as_planes.get(name, name)) for name in self.graph.inputs}
        free = tuple(f"{name}: {', '.join(axes)}" for name in inputs if (axes := self._free_axes(name)))
        layers = tuple(self.drafts.values())
        return NetworkShape(layers, inputs, tuple(name for name in outputs if name), free, self._kept_float())

    def _kept_float(self) -> tuple[str, ...]:
        """Convolutions and products whose weights are no integers, beside others whose weights are."""
        weighted = {name: node for name, node in self.weighted.items() if name in self.drafts}
        in_int8 = {
            name
            for name, node in weighted.items()
            if (maker := self.graph.producer.get(node.input[1])) is not None and maker.op_type == "DequantizeLinear"
        }
        return tuple(name for name in weighted if name not in in_int8) if in_int8 else ()

    def _free_axes(self, name: str) -> list[str]:
        """By name, or by number where the file gives none; without the batch, wherever it stands."""
        given = {value.name: value.type.tensor_type.shape.dim for value in self.graph.model.graph.input}
        batches = {dims[0].dim_param for dims in given.values() if dims}
        names = [dim.dim_param or f"axis {axis}" for axis, dim in enumerate(given.get(name, ()))]
        sizes = self._shape(name) or ()
        return [names[axis] for axis, size in enumerate(sizes) if axis and not size and names[axis] not in batches]

    def _source(self, tensor: str) -> str:
        return self.same_as.get(tensor, tensor)

    def _operands(self, node: NodeProto) -> list[str]:
        read = list(node.input)
        for body in subgraphs(node):
            read += sorted(names_read_inside(body))
        names = [self._source(name) for name in read if name]
        return [name for name in names if name in self.made_by]

    def _add(self, node: NodeProto) -> None:
        operands = self._operands(node)
        if not operands:
            return  # computed from constants alone
        if node.op_type == "Transpose" and self._turns_input(node, operands[0]):
            return
        if node.op_type in _FUSED | {"BatchNormalization"} and self._fuse(node, operands[0]):
            return
        if node.op_type == "Add" and self._is_bias(node, operands) and self._fuse(node, operands[0]):
            return
        kind = self._kind(node, operands)
        if any(self._shape(name) is None for name in (node.output[0], *operands)):
            self._add_unknown(node, operands)
            return
        output = self._volume(node.output[0])
        window = window_of(self.graph, node, self._volume(operands[0])) if kind in _WINDOWED else Window()
        if kind == "conv" and window.groups > 1 and window.groups == self._volume(operands[0]).channels:
            kind = "depthwise"
        items = self.learnables.get(node.name, [])
        weights = sum(item.count for item in items if item.parameter != "Bias")
        if not weights and kind in {"conv", "depthwise", "transposed", "fc"}:
            weights = self._computed_weights(node)
        draft = LayerShape(
            name=node.name,
            op_type=node.op_type,
            kind=kind,
            inputs=tuple(self._volume(name) for name in operands),
            output=output,
            parents=tuple(self.made_by[name] for name in operands),
            members=(node.name,),
            weights=weights,
            biases=sum(item.count for item in items if item.parameter == "Bias"),
            macs=self._macs(node, kind, output, window, operands),
            kernel=window.kernel,
            strides=window.strides,
            pads=window.pads,
            dilations=window.dilations,
            groups=window.groups,
            axes=window.axes,
        )
        self.drafts[node.name] = draft
        if kind in _SUMS and weights:
            self.weighted[node.name] = node
        self.made_by.update({name: node.name for name in node.output if name})

    def _add_unknown(self, node: NodeProto, operands: list[str]) -> None:
        """A layer whose shapes are known only when the network runs: listed where it has weights, else passed over."""
        items = self.learnables.get(node.name, [])
        maker = self.made_by[operands[0]]
        if items:
            parents = tuple(self.made_by[name] for name in operands)
            weights = sum(item.count for item in items)
            ones = tuple(Volume(1) for _ in operands)
            self.drafts[node.name] = LayerShape(
                node.name, node.op_type, "other", ones, Volume(1), parents, (node.name,), weights=weights
            )
            maker = node.name
        self.made_by.update({name: maker for name in node.output if name})

    def _kind(self, node: NodeProto, operands: list[str]) -> LayerKind:
        kind = _KINDS.get(node.op_type, "other")
        if node.op_type == "ReduceMean":
            axes = attribute(node, "axes", [])
            if len(node.input) > 1 and self.graph.is_constant(node.input[1]):
                axes = self.graph.array(node.input[1]).tolist()
            rank = len(self._shape(operands[0]) or ())
            if rank < 3 or sorted(axis % rank for axis in axes) != list(range(2, rank)):
                return "other"  # the mean of something else than height and width
        return kind

    def _turns_input(self, node: NodeProto, operand: str) -> bool:
        """TensorFlow's exports take images with channels last, and turn them first of all: no layer of the board's."""
        if operand not in self.graph.inputs or list(attribute(node, "perm", [])) != [0, 3, 1, 2]:
            return False
        self.as_planes[operand] = node.output[0]
        self.made_by[node.output[0]] = ""
        return True

    def _is_bias(self, node: NodeProto, operands: list[str]) -> bool:
        maker = self.drafts.get(self.made_by[operands[0]])
        summed = maker is not None and maker.kind in _SUMS and not maker.biases and len(maker.members) == 1
        items = self.learnables.get(node.name, [])
        return bool(summed and len(operands) == 1 and items and maker and items[0].count == maker.output.channels)

    def _computed_weights(self, node: NodeProto) -> int:
        """Of weights that come out of other constants (a Reshape of them, say); 0 where activations make them."""
        if any(self._source(name) in self.made_by for name in node.input[1:2]):
            return 0
        return math.prod(size or 1 for size in self._shape(node.input[1]) or (0,))

    def _fuse(self, node: NodeProto, operand: str) -> bool:
        """Make it a part of the layer before, where it alone reads that layer's result."""
        maker = self.drafts.get(self.made_by[operand])
        uses = [use for use in self.graph.uses.get(operand, []) if use.node.op_type != "Shape"]
        if maker is None or len(uses) != 1 or maker.kind not in _FUSES or operand in self.graph.outputs:
            return False
        items = self.learnables.get(node.name, [])
        self.drafts[maker.name] = replace(
            maker,
            members=(*maker.members, node.name),
            fused=(*maker.fused, node.op_type),
            biases=maker.biases or (maker.output.channels if items else 0),
        )
        self.made_by.update({name: maker.name for name in node.output if name})
        return True

    def _shape(self, tensor: str) -> tuple[int | None, ...] | None:
        return self.graph.shape(tensor)

    def _volume(self, tensor: str) -> Volume:
        shape = self._shape(tensor)
        if shape is None:
            message = (
                f"{self.where}: the shape of {tensor!r} is known only when the network runs; "
                "export it with fixed shapes, or simplify it first"
            )
            raise UserError(message)
        sizes = [size if size and size > 0 else 1 for size in shape[1:]]
        if not sizes:
            return Volume(1)
        if len(sizes) == 1:
            return Volume(sizes[0])
        if len(sizes) == 2:
            return Volume(sizes[0], 1, sizes[1])
        return Volume(sizes[0], math.prod(sizes[1:-1]), sizes[-1])

    def _macs(
        self,
        node: NodeProto,
        kind: LayerKind,
        output: Volume,
        window: Window,
        operands: list[str],
    ) -> int:
        if kind in {"conv", "depthwise", "transposed"}:
            first = self._volume(operands[0])
            taps = window.kernel[0] * window.kernel[1]
            if kind == "transposed":
                return first.elements * output.channels // window.groups * taps
            return output.elements * first.channels // window.groups * taps
        if kind == "fc":
            shape = self._shape(operands[0]) or ()
            transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
            depth = shape[-2 if transposed else -1] if shape else 1
            return output.elements * (depth or 1)
        return 0
