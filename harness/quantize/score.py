"""How near an int8 network comes to its float one: SQNR of the scores, before any final softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from harness.errors import UserError
from harness.quantize.feed import Batch, input_specs, passes
from harness.quantize.graph import Graph
from harness.quantize.rulebooks.rules import MOVERS, RuleBook
from harness.quantize.runtime import open_session, run_session, sqnr_db, with_outputs
from harness.quantize.spread import evenly, worth_keeping

#: What an exact, or an utterly wrong, result counts as in a mean.
_BOUND_DB = 100.0
_SQUASHING = frozenset({"Softmax", "LogSoftmax"})
#: What stands behind the scores of a half-precision network, or of one that returns labels.
_BEHIND_SCORES = MOVERS | _SQUASHING | {"Cast", "ArgMax"}


def scored_tensors(graph: Graph) -> tuple[str, ...]:
    """The tensors an SQNR is taken on: each float output, or what a softmax before it reads."""
    names = []
    for output in graph.outputs:
        name = output
        while (node := graph.producer.get(name)) is not None and node.op_type in _BEHIND_SCORES:
            name = node.input[0]
            if node.op_type in _SQUASHING:
                names.append(name)
                break
        else:
            names.append(output if _is_float(graph, output) else name)
    return tuple(dict.fromkeys(name for name in names if _is_float(graph, name)))


def _is_float(graph: Graph, name: str) -> bool:
    value = graph.value_info(name)
    if value is not None and value.type.WhichOneof("value") not in {None, "tensor_type"}:
        return False  # a sequence, or an optional
    return graph.element_type(name) in {TensorProto.FLOAT, None}


def rounded_tensors(graph: Graph) -> dict[str, str]:
    """Tensor → the same after its rounding to int8, as the next layer reads it; of an int8 network's activations."""
    found: dict[str, str] = {}
    # What is rounded once more for one of its readers is that reader's affair.
    again = {name for node in graph.nodes if node.op_type == "DequantizeLinear" for name in node.output}
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or node.input[0] in again:
            continue
        readers = [use.node for use in graph.uses[node.output[0]] if use.node.op_type == "DequantizeLinear"]
        if readers:
            # Where readers outside know the tensor by its name, the rounded value has taken it over (see rewrite).
            found[node.input[0]] = readers[0].output[0]
            found.setdefault(readers[0].output[0], readers[0].output[0])
    return found


def _mean_db(references: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> float:
    scores = []
    for reference, other in zip(references, others, strict=True):
        if not np.isfinite(other).all():
            return float("-inf")
        if reference.any():
            scores.append(min(max(sqnr_db(reference, other), -_BOUND_DB), _BOUND_DB))
    return float(np.mean(scores)) if scores else 0.0


class Scorer:
    """Holds the float network's scores on a few samples; scores int8 candidates against them.

    Args:
        graph: the prepared float network.
        batches: samples; as many as `worth_keeping` are used, spread over them.
        what: how to call the network in an error.
    """

    def __init__(self, graph: Graph, batches: Sequence[Batch], what: str) -> None:
        self.names = scored_tensors(graph)
        self._feeds: list[dict[str, NDArray[Any]]] = []
        self.samples = 0
        self._reference: list[list[NDArray[Any]]] = []
        try:
            # One sample a pass: how the caller cut them into batches must not decide.
            self._hold(graph, list(passes(batches, input_specs(graph), what, most=1)), what)
        except UserError:  # a network that says its batch is free, and reshapes to a fixed one, takes what it is given
            self._hold(graph, list(passes(batches, input_specs(graph), what)), what)

    def _hold(self, graph: Graph, given: Sequence[tuple[dict[str, NDArray[Any]], int]], what: str) -> None:
        per_pass = max(max((count for _, count in given), default=1), 1)  # inputs without elements count as none
        most = worth_keeping(given[0][0], per_pass) if given else 1
        chosen = evenly(given, -(-most // per_pass))
        self._feeds = [inputs for inputs, _ in chosen]
        self.samples = sum(count for _, count in chosen)
        self._reference = self._run(graph.model, what, ())

    def score_db(self, model: ModelProto, rules: RuleBook) -> float:
        """Mean SQNR of the samples, dB; -inf when the candidate's output is not finite."""
        return float(np.mean(self.scores(model, rules)))

    def scores(self, model: ModelProto, rules: RuleBook) -> NDArray[np.float64]:
        """SQNR of each pass, the mean over the scored tensors, dB; -inf when the candidate's output is not finite.

        One figure a pass: in a ratio of sums one loud sample would outweigh thirty others.
        """
        runs = self._run(model, f"{rules.environment} network", ("WeightBiasQuantization",))
        return np.array([_mean_db(pair[0], pair[1]) for pair in zip(self._reference, runs, strict=True)])

    def _run(self, model: ModelProto, what: str, disabled: Sequence[str]) -> list[list[NDArray[Any]]]:
        """Pass by pass, the scored tensors."""
        if not self.names:
            return [[] for _ in self._feeds]  # whole numbers only: nothing to take an SQNR on
        rounded = rounded_tensors(Graph(model))
        names = [rounded.get(name, name) for name in self.names]
        session = open_session(with_outputs(model, names, only=True), what, disabled_optimizers=disabled)
        return [run_session(session, feed, what, names) for feed in self._feeds]
