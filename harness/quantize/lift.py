"""Lifting a network to an opset that can express per-channel quantization, and to a form the runtime reads."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper, version_converter

from harness.errors import UserError
from harness.quantize.graph import Graph, attribute, subgraphs
from harness.quantize.runtime import RUNTIME_ERRORS

#: DequantizeLinear takes an `axis` from opset 13 on.
NEEDED_OPSET = 13
#: The IR version that came with opset 13; from IR 4 on, initializers need not be inputs.
NEEDED_IR = 7

#: Above it ONNX Runtime 1.31.1 fails to load signed int8 networks on x86: its optimizer changes a QuantizeLinear from
#: int8 to uint8 and leaves `output_dtype`, an attribute since 21, at int8. Runtimes on boards read it since 1.17.
COMMON_OPSET = 20

#: Element types that every operator of those opsets that takes numbers of the kind takes.
_COMMON_TYPES = frozenset(
    {
        TensorProto.UNDEFINED,
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BOOL,
        TensorProto.STRING,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)

_COMMON_TYPE_NAMES = frozenset(f"tensor({TensorProto.DataType.Name(kind).lower()})" for kind in _COMMON_TYPES if kind)

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
    """The network at opset ≥ 13 and IR ≥ 7, functions inlined, constants dense; otherwise as it was.

    An opset above `COMMON_OPSET` is declared as that, or as the runtime's newest, where the network's operators
    mean the same there; an IR version above the runtime's as the runtime's.

    Raises:
        UserError: the converter has no rule for one of its operators, or changes what the network takes or returns.
    """
    _densify(model, what)
    model = _inline(model, what)
    opset = default_opset(model)
    if opset and opset < NEEDED_OPSET:
        model = _convert(model, opset, what)
    separate_constants(model)
    _declare_common(model)
    model.ir_version = min(max(model.ir_version, NEEDED_IR), newest_ir())
    return model


def _convert(model: ModelProto, opset: int, what: str) -> ModelProto:
    remedy = "export it at a newer opset"
    try:
        masked = _mask_softmax(model)
        masked.ir_version = max(masked.ir_version, NEEDED_IR)  # before IR 4 the converter wants constants as inputs
        lifted = _unmask_softmax(version_converter.convert_version(masked, NEEDED_OPSET))
    except (RuntimeError, ValueError, version_converter.ConvertError) as error:
        reason = str(error).splitlines()[0][:160]
        msg = f"{what}: cannot be lifted from opset {opset} to {NEEDED_OPSET} ({reason}); {remedy}"
        raise UserError(msg) from error
    for before, after in zip(_interface(model), _interface(lifted), strict=False):
        if before != after:
            msg = (
                f"{what}: lifting it from opset {opset} would change {before[0]!r}, which it takes or returns; {remedy}"
            )
            raise UserError(msg)
    return lifted


def _interface(model: ModelProto) -> list[tuple[str, int, int | None]]:
    """(name, element type, rank) of each input that the user feeds and of each output.

    The rank of an output is what the file says of it: it may be wrong, and inference corrects it.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    rows: list[tuple[str, int, int | None]] = []
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name not in constants:
            rows.append((value.name, kind.elem_type, len(kind.shape.dim) if kind.HasField("shape") else None))
    rows.extend((value.name, value.type.tensor_type.elem_type, None) for value in model.graph.output)
    return rows


def _densify(model: ModelProto, what: str) -> None:
    """Sparse constants as dense ones: boards have no kernels for the former."""
    for sparse in model.graph.sparse_initializer:
        dense = _dense(sparse, what)
        dense.name = sparse.values.name
        model.graph.initializer.append(dense)
    del model.graph.sparse_initializer[:]
    for node in _nodes(model.graph):
        if node.op_type != "Constant" or node.domain:
            continue
        for entry in node.attribute:
            if entry.name == "sparse_value":
                dense = _dense(entry.sparse_tensor, what)
                entry.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(sparse: onnx.SparseTensorProto, what: str) -> TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(int(np.prod(sparse.dims)), values.dtype)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims)) if len(indices) else indices.reshape(-1)
    try:
        dense[indices] = values
    except (IndexError, ValueError) as error:
        msg = f"{what}: the sparse constant {sparse.values.name!r} has indices outside its shape; export it again"
        raise UserError(msg) from error
    return numpy_helper.from_array(dense.reshape(tuple(sparse.dims)))


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those in the bodies of control flow included."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from _nodes(body)


def _inline(model: ModelProto, what: str) -> ModelProto:
    """The network with its own functions written out: rules are about operators."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        msg = f"{what}: its local functions cannot be written out ({reason}); export it without functions"
        raise UserError(msg) from error


def _declare_common(model: ModelProto) -> None:
    """Declare opset `COMMON_OPSET` where the network is newer and means the same there, else the runtime's newest.

    Since then most operators were only allowed more element types.
    """
    opset = default_opset(model)
    if opset > onnx.defs.onnx_opset_version():
        return  # what such operators mean is not known here
    for target in (COMMON_OPSET, newest_opset()):
        if opset > target and not _rare_types(model) and _same_meaning(model, opset, target):
            for entry in model.opset_import:
                if entry.domain in {"", "ai.onnx"}:
                    entry.version = target
            return


def _rare_types(model: ModelProto) -> bool:
    """Whether element types occur (bfloat16, four-bit integers, …) that operators learned one by one."""
    graph = model.graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    for node in _nodes(graph):
        for entry in node.attribute:
            if entry.name in {"to", "dtype"}:
                kinds.add(entry.i)
            elif entry.type == onnx.AttributeProto.TENSOR:
                kinds.add(entry.t.data_type)
    for inner in _graphs(graph):
        kinds |= {tensor.data_type for tensor in inner.initializer}
    return not kinds <= _COMMON_TYPES


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from _graphs(body)


def _same_meaning(model: ModelProto, opset: int, target: int) -> bool:
    """Whether each operator has the same inputs, outputs and attributes in both opsets, as far as nodes use them."""
    for node in _nodes(model.graph):
        if node.domain not in {"", "ai.onnx"}:
            continue
        try:
            now = onnx.defs.get_schema(node.op_type, opset, "")
            then = onnx.defs.get_schema(node.op_type, target, "")
        except onnx.defs.SchemaError:
            return False
        if now.since_version == then.since_version:
            continue
        known = all(entry.name in then.attributes for entry in node.attribute)
        if node.op_type in _REDEFINED or not known or _signature(now, then) != _signature(then, then):
            return False
    return True


#: Same inputs and outputs, another meaning: since 21 scale and bias are per channel and no longer per group.
_REDEFINED = frozenset({"GroupNormalization"})


def _signature(schema: onnx.defs.OpSchema, like: onnx.defs.OpSchema) -> object:
    """Names of inputs and outputs, the common types they take, and the defaults of those attributes that `like` has."""
    attributes = {
        name: schema.attributes[name].default_value.SerializeToString() if name in schema.attributes else None
        for name in like.attributes
    }
    types = {
        entry.type_param_str: sorted(_COMMON_TYPE_NAMES & set(entry.allowed_type_strs))
        for entry in schema.type_constraints
    }
    return [(port.name, port.option) for port in (*schema.inputs, *schema.outputs)], types, attributes


@functools.cache
def newest_opset() -> int:
    """The newest default operator set that this machine's runtime reads."""
    return next(n for n in range(onnx.defs.onnx_opset_version(), 0, -1) if _reads(n, NEEDED_IR))


@functools.cache
def newest_ir() -> int:
    """The newest IR version that this machine's runtime reads."""
    return next(n for n in range(onnx.IR_VERSION, 0, -1) if _reads(NEEDED_OPSET, n))


def _reads(opset: int, ir_version: int) -> bool:
    """Whether the runtime loads a network of this opset and IR version: it has no other way to ask."""
    value = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS:
        return False
    return True


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
