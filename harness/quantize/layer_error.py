"""Where the error of an int8 network comes from: each layer's tensor beside the float network's, on real data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from harness.errors import UserError
from harness.quantize.external import scratch
from harness.quantize.feed import Batch, input_specs, passes
from harness.quantize.graph import Graph, metadata, read_model, subgraphs
from harness.quantize.preparation import prepare_model
from harness.quantize.quantizer import METADATA_KEY, REQUANTIZER, QuantizedModel
from harness.quantize.rescaling import Rescaling, Rescalings, from_json
from harness.quantize.runtime import open_session, run_session, with_outputs
from harness.quantize.score import rounded_tensors

COLUMNS = (
    "Layer",
    "Type",
    "Tensor",
    "sqnr_db",
    "local_sqnr_db",
    "max_abs_error",
    "mean_error",
    "float_min",
    "float_max",
)

#: Steps of recovery that move scale or offset from one layer into the next.
_RESCALING = ("equalization", "absorption")

_FUSED = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True)
class _Pair:
    """One layer's result in both networks.

    Args:
        layer, op_type: of the operator that makes it, before what fuses into it.
        tensor: in the float network.
        quantized: in the int8 network: the value that its readers see.
    """

    layer: str
    op_type: str
    tensor: str
    quantized: str


@dataclass
class _Sums:
    """What is kept of a tensor's error; a few numbers however much data passes."""

    signal: float = 0.0
    noise: float = 0.0
    error: float = 0.0
    count: int = 0
    largest: float = 0.0
    low: float = field(default=float("inf"))
    high: float = field(default=float("-inf"))

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        if not reference.size:
            return
        exact = reference.astype(np.float64)
        error = other.astype(np.float64) - exact
        self.signal += float(np.sum(exact * exact))
        self.noise += float(np.sum(error * error))
        self.error += float(np.sum(error))
        self.count += exact.size
        self.largest = float(np.maximum(self.largest, np.abs(error).max()))
        self.low, self.high = min(self.low, float(exact.min())), max(self.high, float(exact.max()))

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return float("inf")
        return float(10 * np.log10(self.signal / self.noise)) if self.signal else float("-inf")


@scratch()
def layer_errors(
    float_model: Path, quantized_model: QuantizedModel | Path, data: Iterable[Batch], *, local: bool = True
) -> pd.DataFrame:
    """Compare both networks layer by layer on real data.

    A layer's tensor is its result after what fuses into it (bias, ReLU, Clip), as its int8 readers see it: rounded to
    integers and back where the int8 network does that. Both networks run optimized, with these tensors exposed. Where
    equalization or absorption was kept, the int8 network's tensors are brought back to the float network's scale.

    Args:
        float_model: the network that was quantized.
        quantized_model: its int8 form; any Q/DQ network whose tensors have kept their names.
        data: batches of `{input: array[N, …]}`, consumed as a stream; memory does not grow with it.
        local: also run each int8 layer alone on the float network's inputs, so that the error made in it can be told
            from the error handed on to it. Costs about one more float pass, and holds one pass's activations.

    Returns:
        one row a layer, in the network's order, columns `COLUMNS`: sqnr_db (everything before it included),
        local_sqnr_db (this layer alone; null where it has no int8 part or local is off), max_abs_error, mean_error
        (int8 less float: a bias), and the float tensor's range.

    Raises:
        UserError: an unreadable network, no layer in common, unusable data, or an int8 network whose tensors were
            rescaled by a version of quantrig that did not write down how.
    """
    path = quantized_model.path if isinstance(quantized_model, QuantizedModel) else Path(quantized_model)
    # Prepared like the int8 network was: names and folded layers are the same in both.
    first = prepare_model(read_model(Path(float_model)), str(float_model)).model
    second = read_model(path)
    rescaled = _rescalings(second, path)
    graphs = Graph(first), Graph(second)
    pairs = common_tensors(*graphs)
    if not pairs:
        msg = f"{path}: shares no layer with {float_model}; give the network it was made from"
        raise UserError(msg)
    disabled = (REQUANTIZER,)
    exposed = [pair.tensor for pair in pairs]
    sessions = (
        open_session(with_outputs(first, exposed, only=True), str(float_model)),
        open_session(
            with_outputs(second, [pair.quantized for pair in pairs], only=True), str(path), disabled_optimizers=disabled
        ),
    )
    alone = _alone(graphs, pairs, rescaled) if local else {}
    sums = [_Sums() for _ in pairs]
    local_sums = {layer: _Sums() for layer in alone}
    for inputs, count in passes(data, input_specs(graphs[0]), "data"):
        rows = next((value.shape[0] for value in inputs.values() if value.ndim), 1)
        values = dict(zip(exposed, run_session(sessions[0], inputs, str(float_model), exposed), strict=True))
        others = run_session(sessions[1], inputs, str(path), [pair.quantized for pair in pairs])
        for total, pair, other in zip(sums, pairs, others, strict=True):
            restored = _restored(rescaled, pair.tensor, other)
            total.add(_real(values[pair.tensor], rows, count), _real(restored, rows, count))
        known = {**inputs, **values}
        for pair in pairs:
            if pair.layer in alone:
                result = alone[pair.layer].run(known)
                local_sums[pair.layer].add(_real(values[pair.tensor], rows, count), _real(result, rows, count))
    found = [
        (
            pair.layer,
            pair.op_type,
            pair.tensor,
            total.sqnr_db,
            local_sums[pair.layer].sqnr_db if pair.layer in local_sums else None,
            total.largest,
            total.error / total.count,
            total.low,
            total.high,
        )
        for pair, total in zip(pairs, sums, strict=True)
        if total.count
    ]
    return pd.DataFrame(found, columns=list(COLUMNS)).astype({"local_sqnr_db": float})


def _rescalings(model: ModelProto, path: Path) -> dict[str, Rescaling]:
    """Tensors of an int8 network whose channels mean something else than the float network's of the same name.

    Raises:
        UserError: there are some, and the file does not say how to read them.
    """
    made = json.loads(metadata(model).get(METADATA_KEY, "{}"))
    if "rescaled" in made:
        return from_json(made["rescaled"])
    for name in _RESCALING:
        if any(note.startswith(f"{name}: ") and "dB, kept" in note for note in made.get("notes", ())):
            msg = f"{path}: an earlier version's {name} rescaled its tensors without a record; quantize again"
            raise UserError(msg)
    return {}


def _restored(rescaled: Rescalings, tensor: str, value: NDArray[Any]) -> NDArray[Any]:
    """A tensor of the int8 network as the float network has it."""
    return rescaled[tensor].undone(value) if tensor in rescaled else value


def _real(value: NDArray[Any], rows: int, count: int) -> NDArray[Any]:
    """Without the rows that only fill up a fixed batch."""
    return value[:count] if value.ndim and value.shape[0] == rows else value


def common_tensors(first: Graph, second: Graph) -> list[_Pair]:
    """Each float layer's result and the int8 network's tensor for it, in order."""
    rounded = rounded_tensors(second)
    pairs: list[_Pair] = []
    for node in first.nodes:
        for tensor in node.output[:1]:  # further outputs hold indices, masks or parts of the same values
            seen = rounded.get(tensor, tensor)
            if first.element_type(tensor) != TensorProto.FLOAT or seen not in second.producer:
                continue
            if tensor not in rounded and _continues(first, tensor):
                continue
            maker = _operator(first, node)
            pairs.append(_Pair(maker.name, maker.op_type, tensor, seen))
    return pairs


def _continues(graph: Graph, tensor: str) -> bool:
    """Whether a tensor is only a step inside a layer: what a bias or an activation function fuses into."""
    use = graph.sole_use(tensor)
    maker = graph.producer[tensor]
    if use is None or maker.op_type in _FUSED:
        return False
    if use.node.op_type in _FUSED:
        return True
    constants = any(graph.is_constant(name) for name in use.node.input)
    return maker.op_type == "MatMul" and use.node.op_type == "Add" and constants


def _operator(graph: Graph, node: NodeProto) -> NodeProto:
    """The node that a layer is named after: back over what fuses into it."""
    while node.op_type in {*_FUSED, "Add"}:
        before = graph.producer.get(next((name for name in node.input if not graph.is_constant(name)), ""))
        if before is None or not _continues(graph, before.output[0]):
            break
        node = before
    return node


@dataclass(frozen=True)
class _Alone:
    """An int8 layer as a network of its own.

    Args:
        feeds: its inputs → the float network's tensor fed there.
        tensor: the float network's tensor that its result stands for.
        rescaled: how tensors of the int8 network differ.
    """

    session: ort.InferenceSession
    feeds: Mapping[str, str]
    tensor: str
    rescaled: Rescalings

    def run(self, known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        feed = {
            name: self.rescaled[tensor].applied(known[tensor]) if tensor in self.rescaled else known[tensor]
            for name, tensor in self.feeds.items()
        }
        return _restored(self.rescaled, self.tensor, run_session(self.session, feed, "one layer")[0])


def _alone(graphs: tuple[Graph, Graph], pairs: list[_Pair], rescaled: Rescalings) -> dict[str, _Alone]:
    """Layer → its int8 part cut out of the int8 network, between tensors of the float one."""
    first, second = graphs
    # Cut where a layer's result is known in float: at its name, or where that name has moved to.
    moved = {quantized: source for source, quantized in rounded_tensors(second).items() if source not in first.producer}
    cuts = {pair.tensor: pair.tensor for pair in pairs} | {name: name for name in first.inputs}
    cuts |= {source: name for name, source in moved.items() if name in cuts}
    for name in moved:
        cuts.pop(name, None)
    found: dict[str, _Alone] = {}
    for pair in pairs:
        part = _cut_out(second, pair.quantized, set(cuts) - _own(second, pair.quantized, cuts))
        if part is None:
            continue
        model, inputs = part
        try:
            session = open_session(model, f"layer {pair.layer!r}", disabled_optimizers=(REQUANTIZER,), threads=1)
        except UserError:
            continue  # a type that inference cannot tell from the piece alone: the layer has no local figure
        feeds = {name: cuts[name] for name in inputs}
        found[pair.layer] = _Alone(session, feeds, pair.tensor, rescaled)
    return found


def _own(graph: Graph, tensor: str, cuts: Mapping[str, str]) -> set[str]:
    """The cut tensors that are this layer's own result before rounding."""
    own = {tensor}
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in {"DequantizeLinear", "QuantizeLinear"}:
        own.add(node.input[0])
        node = graph.producer.get(node.input[0])
    return own & set(cuts)


def _cut_out(graph: Graph, tensor: str, cuts: set[str]) -> tuple[ModelProto, list[str]] | None:
    """The nodes between the cuts and `tensor` as a network; None where none of them is int8."""
    wanted, seen, inputs = [tensor], set[str](), list[str]()
    names: set[str] = set()
    while wanted:
        name = wanted.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        if name in cuts:
            inputs.append(name)
            continue
        node = graph.producer.get(name)
        if node is None:
            if not graph.is_constant(name):
                return None  # an input of the network that is no float tensor's source
            continue
        if any(True for _ in subgraphs(node)):
            return None
        names.add(node.name)
        wanted.extend(node.input)
    nodes = [node for node in graph.nodes if node.name in names]
    if not inputs or not any(node.op_type == "DequantizeLinear" for node in nodes):
        return None
    read = {name for node in nodes for name in node.input}
    part = onnx.helper.make_graph(
        nodes,
        "layer",
        [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [onnx.ValueInfoProto(name=tensor)],
        [value for name, value in graph.initializers.items() if name in read],
    )
    model = onnx.helper.make_model(part, opset_imports=graph.model.opset_import)
    model.ir_version = graph.model.ir_version
    return model, inputs
