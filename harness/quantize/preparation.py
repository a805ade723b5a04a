"""From a network as exported to the network that is quantized: named, typed, folded, at opset ≥ 13."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import ModelProto

from harness.quantize import folding
from harness.quantize.affine import fold_affine
from harness.quantize.canonical import one_form
from harness.quantize.control_flow import fold_control_flow
from harness.quantize.external import scratch
from harness.quantize.graph import read_model, take_name
from harness.quantize.lift import lift
from harness.quantize.order import sort_nodes
from harness.quantize.recovery.prepared import with_balanced_weights
from harness.quantize.recurrent.unroll import unroll
from harness.quantize.widen import widen
from harness.quantize.writing import write_model


@dataclass(frozen=True)
class Prepared:
    """A network ready to be quantized.

    Args:
        model: opset ≥ 13, constants as initializers, batch normalization folded, every node named uniquely.
        removed: removed layer (Identity, Dropout) → tensor that carries its value.
        folded: folded layer (batch normalization) → layer that computes it now.
        unrolled: recurrent layer that was written out → layers that compute it now.
    """

    model: ModelProto
    removed: Mapping[str, str]
    folded: Mapping[str, str]
    unrolled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def prepare_model(model: ModelProto, what: str) -> Prepared:
    """Prepare a network held in memory; the given one is not changed.

    Args:
        model: the float network.
        what: how to call it in an error.

    Raises:
        UserError: it cannot be lifted to opset 13.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    sort_nodes(copy)
    copy = lift(copy, what)
    name_nodes(copy)
    folding.constants_to_initializers(copy)
    if fold_control_flow(copy):
        name_nodes(copy)
        folding.constants_to_initializers(copy)
    removed = folding.remove_no_ops(copy)
    folding.fold_constants(copy)
    if folding.ranges_from_scalars(copy):
        folding.fold_constants(copy)
    widen(copy)
    copy = infer_types(copy)
    folding.casts_from_likes(copy)
    folding.fold_constants(copy)
    removed |= folding.remove_no_ops(copy, casts=True)
    if unrolled := unroll(copy):
        copy = infer_types(copy)
    folding.remove_unread(copy)
    equal, padded = one_form(copy)
    folded = padded | fold_affine(copy)
    return Prepared(infer_types(copy), removed | equal, folded, unrolled)


def name_nodes(model: ModelProto) -> None:
    """Give each node a unique name: its own, else its first output's."""
    taken: set[str] = set()
    for node in model.graph.node:
        wanted = node.name or next((name for name in node.output if name), node.op_type)
        node.name = take_name(wanted, taken)


def infer_types(model: ModelProto) -> ModelProto:
    """The model with types and shapes of inner tensors filled in, as far as inference gets."""
    del model.graph.value_info[:]
    declared = {dim.dim_param for dim in _dims((*model.graph.input, *model.graph.output))}
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):
        return model  # an operator without an inference rule; what stays unknown stays float, with that reason
    for dim in _dims((*typed.graph.value_info, *typed.graph.output)):
        # Symbols that inference made up are numbered anew each time; a nameless free axis says as much.
        if dim.dim_param and dim.dim_param not in declared:
            dim.ClearField("dim_param")
    return typed


def _dims(values: Iterable[onnx.ValueInfoProto]) -> Iterator[onnx.TensorShapeProto.Dimension]:
    for value in values:
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            yield from value.type.tensor_type.shape.dim


def prepare(path: str | Path, out: str | Path, *, equalize: bool = True) -> Path:
    """Write the prepared form of a network: same outputs within float tolerance; preparing twice changes nothing.

    Args:
        path: a float ONNX network of any opset.
        out: where the prepared one goes; a single file, above 2 GB with `out`.data beside it.
        equalize: even out the weights' ranges across convolutions, by powers of two. `quantize` does without: it
            tries a finer equalization itself, and keeps it where it helps.

    Raises:
        UserError: the file is no readable network, or cannot be lifted to opset 13.
    """
    with scratch():
        model = prepare_model(read_model(Path(path)), str(path)).model
        write_model(with_balanced_weights(model) if equalize else model, Path(out))
    return Path(out)
