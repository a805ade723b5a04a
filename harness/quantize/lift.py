"""Lifting a network to an opset that can express per-channel quantization."""

from __future__ import annotations

import onnx
from onnx import ModelProto, version_converter

from harness.errors import UserError
from harness.quantize.graph import Graph, attribute

#: DequantizeLinear takes an `axis` from opset 13 on.
NEEDED_OPSET = 13
#: The IR version that came with opset 13; from IR 4 on, initializers need not be inputs.
NEEDED_IR = 7

_AXIS_REDEFINED = ("Softmax", "LogSoftmax")


def default_opset(model: ModelProto) -> int:
    """Version of the default operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)


def separate_constants(model: ModelProto) -> None:
    """Take initializers out of the inputs, where IR < 4 wanted them: an input is then what the user feeds."""
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    if len(kept) != len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)


def lift(model: ModelProto, what: str) -> ModelProto:
    """The network at opset ≥ 13 and IR ≥ 7, otherwise as it was.

    Raises:
        UserError: the converter has no rule for one of its operators.
    """
    opset = default_opset(model)
    if opset and opset < NEEDED_OPSET:
        masked = _mask_softmax(model)
        try:
            lifted = version_converter.convert_version(masked, NEEDED_OPSET)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:160]
            msg = (
                f"{what}: cannot be lifted from opset {opset} to {NEEDED_OPSET} ({reason}); export it at a newer opset"
            )
            raise UserError(msg) from error
        model = _unmask_softmax(lifted)
    separate_constants(model)
    model.ir_version = max(model.ir_version, NEEDED_IR)
    return model


_MASK = "quantrig.softmax:"


def _mask_softmax(model: ModelProto) -> ModelProto:
    """Hide Softmax nodes whose meaning is the same before and after opset 13.

    Before 13 Softmax flattened all axes from `axis` on; the converter wraps it in Flatten and Reshape.
    Where every later axis has size 1 the two definitions agree and the wrapping is clutter.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    typed = Graph(onnx.shape_inference.infer_shapes(copy))
    for node in copy.graph.node:
        if node.op_type not in _AXIS_REDEFINED or node.domain:
            continue
        shape = typed.shape(node.output[0]) or typed.shape(node.input[0])
        axis = attribute(node, "axis", 1)
        if shape is None or any(size != 1 for size in shape[axis % len(shape) + 1 :]):
            continue
        node.doc_string = f"{_MASK}{node.op_type}:{axis}:{node.doc_string}"
        node.op_type = "Sigmoid"
        del node.attribute[:]
    return copy


def _unmask_softmax(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        if node.doc_string.startswith(_MASK):
            op_type, axis, doc = node.doc_string.removeprefix(_MASK).split(":", 2)
            node.op_type, node.doc_string = op_type, doc
            node.attribute.append(onnx.helper.make_attribute("axis", int(axis)))
    return model
