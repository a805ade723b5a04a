"""Building the QDQ network: Q/DQ pairs around activations, integers in place of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from harness.quantize.graph import Graph, drop_unused_initializers, set_initializer, take_name
from harness.quantize.order import in_order
from harness.quantize.placement import Plan
from harness.quantize.recurrent.weights import int8_weights
from harness.quantize.rulebooks.rules import Placement
from harness.quantize.scales import Affine, constant_scale, power_of_two
from harness.quantize.shift_limits import operands_of
from harness.quantize.shifts import position_of
from harness.quantize.units import EXCLUDED, Port, Unit
from harness.quantize.weights import LayerParameters, QuantizedTensor


def build(
    model: ModelProto,
    plan: Plan,
    scales: Mapping[str, Affine],
    parameters: Mapping[str, LayerParameters],
) -> ModelProto:
    """The int8 form of a network, as Q/DQ.

    Args:
        model: the prepared float network; not changed.
        plan: what is quantized.
        scales: scale group → scale and zero point.
        parameters: layer → its weights and bias; a layer that is missing keeps its float ones.

    Returns:
        a network with the same layers and connections once its Q/DQ pairs are removed.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    builder = _Builder(copy, plan, scales, parameters)
    builder.learnables()
    builder.activations()
    result = builder.finish()
    int8_weights(result, plan.rules, but={name for name, why in plan.kept_float.items() if why == EXCLUDED})
    return result


class _Builder:
    def __init__(
        self,
        model: ModelProto,
        plan: Plan,
        scales: Mapping[str, Affine],
        parameters: Mapping[str, LayerParameters],
    ) -> None:
        self.model = model
        self.graph = Graph(model)
        self.plan = plan
        self.scales = scales
        self.parameters = parameters
        self.nodes = {node.name: node for node in model.graph.node}
        self.new: list[NodeProto] = []
        self.stored: dict[tuple[str, int | None, bytes, bytes], str] = {}
        self.made = {name for unit in plan.units for name in unit.outputs}
        self.taken: set[str] = (
            set(self.graph.initializers) | set(self.graph.producer) | set(self.graph.inputs) | set(self.nodes)
        ) | self.graph.read_in_bodies

    def name(self, wanted: str) -> str:
        return take_name(wanted, self.taken)

    def learnables(self) -> None:
        """Integers and a DequantizeLinear for each weight, bias and constant operand."""
        for unit in self.plan.units:
            found = self.parameters.get(unit.name)
            if unit.weight is not None and found is not None:
                self._weighted(unit, unit.weight, found)
            for port in unit.constants if self.plan.rules.placement is Placement.OUTPUTS else ():
                self._constant(unit, port)

    def _weighted(self, unit: Unit, port: Port, found: LayerParameters) -> None:
        self._replace(port, found.weight, "weight")
        if found.bias is None:
            return
        # A layer without a bias gets one only where a correction asks for it.
        place = unit.bias or Port(unit.name, 2, self.name(f"{unit.name}.bias"))
        count = found.bias.values.size if isinstance(found.bias, QuantizedTensor) else found.bias.size
        shape = self.graph.array(place.tensor).shape if unit.bias is not None else (count,)
        if isinstance(found.bias, QuantizedTensor):
            # A Gemm's bias is broadcast along rows: a scale per element is still a scale per output channel.
            self._replace(place, found.bias.reshaped(shape), "bias")
        else:
            name = self.name(f"{place.tensor}.corrected")
            set_initializer(self.model, name, found.bias.reshape(shape))
            _connect(self.nodes[place.node], place.slot, name)

    def _constant(self, unit: Unit, port: Port) -> None:
        value = self.graph.array(port.tensor)
        affine = self._read_at(unit).get(port) or constant_scale(value, self.plan.rules.activation)
        stem = self.name(f"{port.tensor}.{port.node}.quantized")
        self._dequantize(port, stem, affine.quantize(value), np.asarray(affine.scale), affine.zero_point, None)

    def _read_at(self, unit: Unit) -> dict[Port, Affine]:
        """Operands that a layer takes at another position than their own, for the board's shifts."""
        if self.plan.rules.shifts is None:
            return {}
        positions = {group: position_of(affine.scale) for group, affine in self.scales.items()}
        found = {}
        for operand in operands_of(self.graph, self.plan, unit, positions) or ():
            constant = operand.port in unit.constants
            if operand.port is not None and (constant or operand.read < operand.made):
                like = self.scales[self.plan.group_of[unit.data[0].tensor]]
                found[operand.port] = replace(like, scale=np.float32(power_of_two(-operand.read)))
        return found

    def _replace(self, port: Port, quantized: QuantizedTensor, what: str) -> None:
        key = None
        if len(self.graph.uses[port.tensor]) > 1:
            # The steps of a recurrent layer read the same weights: one copy serves all that round alike.
            key = (port.tensor, quantized.axis, quantized.scale.tobytes(), quantized.values.tobytes())
            if key in self.stored:
                _connect(self.nodes[port.node], port.slot, self.stored[key])
                return
        stem = self.name(f"{port.node}.{what}.int{8 * quantized.values.dtype.itemsize}")
        self._dequantize(port, stem, quantized.values, quantized.scale, 0, quantized.axis)
        if key is not None:
            self.stored[key] = self.nodes[port.node].input[port.slot]

    def _dequantize(
        self,
        port: Port,
        stem: str,
        values: NDArray[np.generic],
        scale: NDArray[np.float32],
        zero_point: int,
        axis: int | None,
    ) -> None:
        set_initializer(self.model, stem, values)
        set_initializer(self.model, f"{stem}.scale", scale)
        set_initializer(self.model, f"{stem}.zero_point", np.full(scale.shape, zero_point, values.dtype))
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        out = f"{stem}.dequantized"
        self.new.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [stem, f"{stem}.scale", f"{stem}.zero_point"],
                [out],
                name=f"{stem}.DequantizeLinear",
                **attributes,
            )
        )
        _connect(self.nodes[port.node], port.slot, out)

    def activations(self) -> None:
        """A Q/DQ pair per quantized tensor, read by the edges of the plan."""
        for tensor, group in self.plan.group_of.items():
            self._pair(tensor, self.scales[group])
        for unit in self.plan.units:
            for port, affine in self._read_at(unit).items():
                if port in unit.data:
                    self._once_more(port, affine)

    def _once_more(self, port: Port, affine: Affine) -> None:
        """Round a tensor to a coarser step for one of its readers."""
        node = self.nodes[port.node]
        stem = self.name(f"{port.tensor}.{port.node}")
        _connect(node, port.slot, self._marked(node.input[port.slot], self.name(f"{stem}.dequantized"), stem, affine))

    def _pair(self, tensor: str, affine: Affine) -> None:
        source, result = tensor, self.name(f"{tensor}.dequantized")
        outside = tensor in self.graph.outputs or tensor in self.graph.read_in_bodies
        if outside and tensor in self.made and self.plan.rules.placement is Placement.OUTPUTS:
            # Readers outside this graph know the tensor by its name, which becomes the quantized value's.
            source, result = self.name(f"{tensor}.float"), tensor
            maker = self.graph.producer[tensor]
            maker.output[list(maker.output).index(tensor)] = source
        self._marked(source, result, tensor, affine)
        for use in self.graph.uses[tensor]:
            if (use.node.name, use.slot) in self.plan.edges:
                _connect(use.node, use.slot, result)
            elif source != tensor:
                _connect(use.node, use.slot, source)

    def _marked(self, source: str, result: str, stem: str, affine: Affine) -> str:
        """A QuantizeLinear and the DequantizeLinear that reads it."""
        scale, zero_point = self.name(f"{stem}.scale"), self.name(f"{stem}.zero_point")
        set_initializer(self.model, scale, np.asarray(affine.scale, np.float32))
        set_initializer(self.model, zero_point, np.asarray(affine.zero_point, affine.dtype))
        integers = self.name(f"{stem}.quantized")
        self.new.append(
            onnx.helper.make_node(
                "QuantizeLinear",
                [source, scale, zero_point],
                [integers],
                name=self.name(f"{stem}.QuantizeLinear"),
            )
        )
        self.new.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [integers, scale, zero_point],
                [result],
                name=self.name(f"{stem}.DequantizeLinear"),
            )
        )
        return result

    def finish(self) -> ModelProto:
        """Sort the nodes and drop what nothing reads."""
        nodes = in_order([*self.new, *self.model.graph.node])
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        del self.model.graph.value_info[:]
        drop_unused_initializers(self.model)
        return self.model


def _connect(node: NodeProto, slot: int, tensor: str) -> None:
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = tensor
