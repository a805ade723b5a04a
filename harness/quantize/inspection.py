"""What a network file is: quantized or not, by whose rules, which layers and learnables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from onnx import ModelProto, NodeProto

from harness.quantize.graph import Graph, metadata, read_model, sha256_of
from harness.quantize.learnables import learnables
from harness.quantize.quantizer import METADATA_KEY, REQUANTIZER, QuantizedModel
from harness.quantize.rulebooks.rules import MOVERS
from harness.quantize.runtime import open_session, optimizers_that_break
from harness.quantize.units import QUANTIZED_OPS

_LEARNABLE_COLUMNS = ("Layer", "Parameter", "Value")
_MARKERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, eq=False)
class Details:
    """The published summary of a network; also readable by key, `details["IsQuantized"]`.

    Args:
        IsQuantized: some layer computes in int8.
        TargetLibrary: cudnn, arm-compute or none; "" for a float network.
        QuantizedLayerNames: layers that compute in int8, fused ones included.
        QuantizedLearnables: columns Layer, Parameter, Value (shape and type).
    """

    IsQuantized: bool
    TargetLibrary: str
    QuantizedLayerNames: tuple[str, ...]
    QuantizedLearnables: pd.DataFrame

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401  # one of four types, by key
        return vars(self)[key]

    def keys(self) -> tuple[str, ...]:
        """Names of the four entries."""
        return tuple(vars(self))


def details(path: str | Path) -> Details:
    """Summary of any ONNX network, ours or another tool's.

    Raises:
        UserError: not a readable network.
    """
    model = read_model(Path(path))
    made = made_by_us(model)
    names = tuple(made["layers"]) if made else int8_layers(model)
    rows = [(item.layer, item.parameter, item.value) for item in learnables(model) if item.quantized]
    library = str(made["target_library"]) if made else "none"
    return Details(
        IsQuantized=bool(names),
        TargetLibrary=library if names else "",
        QuantizedLayerNames=names,
        QuantizedLearnables=pd.DataFrame(rows, columns=list(_LEARNABLE_COLUMNS)),
    )


def made_by_us(model: ModelProto) -> dict[str, Any]:
    """How `quantize` says it made the network; empty for others."""
    text = metadata(model).get(METADATA_KEY)
    if text is None:
        return {}
    content: dict[str, Any] = json.loads(text)
    return content


def int8_layers(model: ModelProto) -> tuple[str, ...]:
    """Layers whose operands are integers or come from integers, by reading the graph."""
    graph = Graph(model)
    return tuple(node.name or node.output[0] for node in graph.nodes if _is_int8(graph, node))


def _is_int8(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in _MARKERS:
        return False
    if node.op_type in QUANTIZED_OPS or node.op_type.startswith(("QLinear", "QGemm")):
        return True

    def dequantized(name: str) -> bool:
        maker = graph.producer.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear"

    if not node.input or not dequantized(node.input[0]):
        # A bias or an activation function that fuses into an int8 layer before it.
        maker = graph.producer.get(node.input[0]) if node.input else None
        fused = node.op_type in {"Relu", "Clip", "Add"} and maker is not None and maker.op_type not in _MARKERS
        return bool(
            fused and maker is not None and len(graph.uses[node.input[0]]) == 1 and _has_int8_weights(graph, maker)
        )
    data = [name for name in node.input if name and not graph.is_constant(name)]
    if node.op_type in MOVERS:
        return True
    quantizes = any(use.node.op_type == "QuantizeLinear" for name in node.output for use in graph.uses.get(name, ()))
    return all(dequantized(name) for name in data) and (quantizes or _has_int8_weights(graph, node))


def _has_int8_weights(graph: Graph, node: NodeProto) -> bool:
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return False
    makers = [graph.producer.get(name) for name in node.input[:2]]
    return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def describe_own(path: str | Path) -> QuantizedModel:
    """Take over any ONNX network as the second arm of a comparison: a QAT result, a vendor's, another float one.

    Raises:
        UserError: not a readable network, or ONNX Runtime cannot load it.
    """
    path = Path(path)
    model = read_model(path)
    open_session(model, str(path))
    made = made_by_us(model)
    digest = sha256_of(path)
    if made:
        return QuantizedModel(
            path,
            digest,
            str(made["environment"]),
            str(made["method"]),
            len(made["layers"]),
            tuple(made["kept_float"].items()),
            tuple(made["notes"]),
            tuple(made["disabled_optimizers"]),
        )
    names = set(int8_layers(model))
    kept = tuple(
        (name, "float in the given network")
        for node in model.graph.node
        if node.op_type not in _MARKERS | {"Constant"} and (name := node.name or node.output[0]) not in names
    )
    note = "given by the job" if names else "given by the job: no int8 layer found in it"
    disabled = ((REQUANTIZER,) if names and kept else ()) + optimizers_that_break(model)
    return QuantizedModel(path, digest, "own", "own", len(names), kept, (note,), disabled)
