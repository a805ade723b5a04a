"""Writing a recurrent layer out step by step, exactly: the same sums in the same order up to float rounding.

The product of the inputs with their weights is taken for all steps at once; each step adds one product of the state.
Formulas and the order of gates are those of the ONNX operators LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto

from harness.quantize.graph import Graph, drop_unused_initializers, replace_nodes, subgraphs
from harness.quantize.marks import float_mark, mark_float
from harness.quantize.recurrent.cell import GATES, Direction, Layer, constant_weights, read_layer
from harness.quantize.recurrent.writer import Writer

#: A step is a dozen nodes: beyond this, calling them costs more than int8 products save.
MAX_STEPS = 32
GATES_FLOAT = "gates and state of a recurrent layer: rounding them would add up from step to step"
STATE_OUT = "takes a recurrent layer's state out of the network, to be fed back: its rounding would add up"
#: What does work of its own between a state and an output: the output is then a result and not the state.
_WORKING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", *GATES})


def unroll(model: ModelProto) -> dict[str, tuple[str, ...]]:
    """Write out every recurrent layer that has a short sequence of fixed length.

    Args:
        model: a network at opset 13 or later with types inferred and nodes named; changed in place.

    Returns:
        name of each layer that was written out → names of the nodes that compute it now, `<layer>/…`. The other
        recurrent layers are marked with the reason why they stay one float node.
    """
    written: dict[str, tuple[str, ...]] = {}
    if not any(node.op_type in GATES and not node.domain for node in model.graph.node):
        return written
    graph = Graph(model)
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        layer = read_layer(graph, node, MAX_STEPS) if node.op_type in GATES and not node.domain else None
        if isinstance(layer, Layer):
            new = _written(graph, layer)
            written[node.name] = tuple(other.name for other in new)
            nodes += new
            continue
        if isinstance(layer, str) and float_mark(node) is None:
            how = "its weights are int8, its arithmetic float" if constant_weights(graph, node) else "it stays float"
            mark_float(node, f"{layer}: {how}")
        nodes.append(node)
    replace_nodes(model, nodes)
    drop_unused_initializers(model)
    _mark_state_outputs(Graph(model), written)
    return written


def _mark_state_outputs(graph: Graph, written: Mapping[str, tuple[str, ...]]) -> None:
    """Mark what stands between a layer's results and the network's outputs, where nothing else comes of it."""
    parts = {name for names in written.values() for name in names}
    working = {node.name for node in graph.nodes if node.op_type in _WORKING or any(True for _ in subgraphs(node))}
    leads_to_work: set[str] = set()
    for node in reversed(graph.nodes):
        readers = [use.node.name for name in node.output for use in graph.uses.get(name, ())]
        seen_inside = any(name in graph.read_in_bodies for name in node.output)
        if seen_inside or any(name in working or name in leads_to_work for name in readers):
            leads_to_work.add(node.name)
    reached = set(parts)
    for node in graph.nodes:
        makers = [graph.producer[name].name for name in node.input if name in graph.producer]
        if node.name in reached or node.name in working or not any(name in reached for name in makers):
            continue
        reached.add(node.name)
        if node.name not in leads_to_work and float_mark(node) is None:
            mark_float(node, STATE_OUT)


def _written(graph: Graph, layer: Layer) -> list[NodeProto]:
    writer = Writer(graph, layer.node.name, GATES_FLOAT)
    states: list[list[str]] = []  # by direction, in the order of time
    cells: list[str] = []
    for index, direction in enumerate(layer.directions):
        steps = _Steps(writer, layer, direction, index)
        states.append(steps.run())
        cells.append(steps.cell or "")
    # A result that nobody reads is not made.
    wanted = [name if name in graph.uses or name in graph.outputs or name in graph.read_in_bodies else ""
              for name in [*layer.node.output, "", "", ""][:3]]  # fmt: skip
    _results(writer, layer, wanted, states, cells)
    return writer.nodes


def _results(writer: Writer, layer: Layer, outputs: list[str], states: list[list[str]], cells: list[str]) -> None:
    """The layer's outputs Y [steps, directions, N, hidden], Y_h and Y_c [directions, N, hidden]."""
    count = len(states)
    if outputs[0]:
        ordered = [states[d][step] for step in range(layer.steps) for d in range(count)]
        _stack(writer, ordered, (layer.steps, count), outputs[0], "Y", layer.hidden)
    if outputs[1]:
        last = [names[0] if direction.reverse else names[-1]
                for names, direction in zip(states, layer.directions, strict=True)]  # fmt: skip
        _stack(writer, last, (count,), outputs[1], "Y_h", layer.hidden)
    if outputs[2]:
        _stack(writer, cells, (count,), outputs[2], "Y_c", layer.hidden)


def _stack(writer: Writer, names: list[str], sizes: tuple[int, ...], output: str, role: str, hidden: int) -> None:
    """Tensors [N, hidden] as one [*sizes, N, hidden]."""
    if len(names) == 1:
        writer.call("Unsqueeze", [names[0], writer.integers(*range(len(sizes)))], output, role)
        return
    flat = writer.add("Concat", names, f"{role}/steps", axis=0)
    writer.call("Reshape", [flat, writer.integers(*sizes, -1, hidden)], output, role)


class _Steps:
    """One direction of a layer, step after step."""

    def __init__(self, writer: Writer, layer: Layer, direction: Direction, index: int) -> None:
        self.writer = writer
        self.layer = layer
        self.direction = direction
        self.index = index
        self.prefix = "" if len(layer.directions) == 1 else ("backward/" if index else "forward/")
        self.state = self._initial(layer.initial_h, "initial_h")
        self.cell = self._initial(layer.initial_c, "initial_c")
        self.at = ""

    def run(self) -> list[str]:
        """The state after each step, in the order of time."""
        inputs = self._projected()
        order = range(self.layer.steps)
        states = [""] * self.layer.steps
        step = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.layer.node.op_type]
        for number in reversed(order) if self.direction.reverse else order:
            self.at = f"{self.prefix}step{number}/" if self.layer.steps > 1 else self.prefix
            self.state = step(inputs[number])
            states[number] = self.state
        return states

    def _initial(self, name: str | None, role: str) -> str | None:
        if name is None:
            return None
        if len(self.layer.directions) == 1:
            return self.writer.gate("Squeeze", [name, self.writer.integers(0)], role)
        at = self.writer.constant(np.array(self.index, np.int64), f"constants/{self.index}")
        return self.writer.gate("Gather", [name, at], f"{self.prefix}{role}", axis=0)

    def _projected(self) -> list[str]:
        """W·x + b of each step, [N, gates x hidden]; both biases where they only add up."""
        writer, direction, hidden = self.writer, self.direction, self.layer.hidden
        bias = direction.input_bias + direction.recurrent_bias
        if self._reset_after:
            bias[2 * hidden :] = direction.input_bias[2 * hidden :]
        weights = writer.constant(direction.input_weights, f"{self.prefix}W")
        offset = writer.constant(bias, f"{self.prefix}B")
        source, steps = self.layer.node.input[0], self.layer.steps
        if steps == 1:
            rows = writer.without_first_axis(source, f"{self.prefix}X")
            return [writer.add("Gemm", [rows, weights, offset], f"{self.prefix}input", transB=1)]
        rows = writer.add("Reshape", [source, writer.integers(-1, direction.input_weights.shape[1])], f"{self.prefix}X")
        flat = writer.add("Gemm", [rows, weights, offset], f"{self.prefix}input", transB=1)
        shaped = writer.add("Reshape", [flat, writer.integers(steps, -1, len(bias))], f"{self.prefix}input/steps")
        return [
            writer.add(
                "Gather",
                [shaped, writer.constant(np.array(number, np.int64), f"constants/{number}")],
                f"{self.prefix}step{number}/input",
                axis=0,
            )
            for number in range(steps)
        ]

    @property
    def _reset_after(self) -> bool:
        return self.layer.node.op_type == "GRU" and self.layer.reset_after

    def _recurrent(self, state: str, rows: slice, role: str) -> str:
        """R·h of some gates."""
        weights = self.direction.recurrent_weights[rows]
        return self.writer.add(
            "Gemm", [state, self.writer.constant(weights, f"{self.prefix}R.{role}")], f"{self.at}{role}", transB=1
        )

    def _sum(self, role: str, *terms: str | None) -> str:
        present = [term for term in terms if term is not None]
        total = present[0]
        for term in present[1:]:
            total = self.writer.gate("Add", [total, term], f"{self.at}{role}")
        return total

    def _activation(self, function: str, source: str, role: str, *, clipped: bool = True) -> str:
        clip = self.layer.clip
        if clip and clipped:
            low, high = (self.writer.constant(np.array(v, np.float32), "clip") for v in (-clip, clip))
            source = self.writer.gate("Clip", [source, low, high], f"{self.at}{role}/clip")
        return self.writer.gate(function, [source], f"{self.at}{role}")

    def _product(self, first: str, second: str, role: str) -> str:
        return self.writer.gate("Mul", [first, second], f"{self.at}{role}")

    def _rnn(self, inputs: str) -> str:
        rows = slice(None)
        product = self._recurrent(self.state, rows, "recurrent") if self.state else None
        return self._activation(self.direction.functions[0], self._sum("sum", inputs, product), "state")

    def _lstm(self, inputs: str) -> str:
        hidden, functions = self.layer.hidden, self.direction.functions
        product = self._recurrent(self.state, slice(None), "recurrent") if self.state else None
        total = self._sum("sum", inputs, product)
        old = self.cell
        if self.direction.peepholes is None:
            gates, entering = self.writer.parts(total, [3 * hidden, hidden], f"{self.at}gates/parts")
            opened = self._activation(functions[0], gates, "gates")
            into, out, forget = self.writer.parts(opened, [hidden] * 3, f"{self.at}gates/each")
        else:
            sums = self.writer.parts(total, [hidden] * 4, f"{self.at}gates/parts")
            into = self._activation(functions[0], self._peeping(sums[0], old, 0, "input_gate"), "input_gate")
            forget = self._activation(functions[0], self._peeping(sums[2], old, 2, "forget_gate"), "forget_gate")
            out, entering = sums[1], sums[3]
        candidate = self._activation(functions[1], entering, "candidate")
        if self.layer.coupled and old is not None:
            forget = self.writer.gate("Sub", [self._one(), into], f"{self.at}forget_gate")
        kept = self._product(forget, old, "kept") if old is not None else None
        self.cell = self._sum("cell", self._product(into, candidate, "added"), kept)
        if self.direction.peepholes is not None:
            out = self._activation(functions[0], self._peeping(out, self.cell, 1, "output_gate"), "output_gate")
        # ONNX Runtime cuts what enters the gates and not what leaves the cell; the operator is defined by what it does.
        return self._product(out, self._activation(functions[2], self.cell, "shown", clipped=False), "state")

    def _peeping(self, total: str, cell: str | None, gate: int, role: str) -> str:
        """A gate's sum with its peephole at the cell."""
        if cell is None or self.direction.peepholes is None:
            return total
        hidden = self.layer.hidden
        weights = self.direction.peepholes[gate * hidden : (gate + 1) * hidden]
        seen = self._product(cell, self.writer.constant(weights, f"{self.prefix}P.{role}"), f"{role}/peephole")
        return self._sum(f"{role}/sum", total, seen)

    def _gru(self, inputs: str) -> str:
        hidden, functions = self.layer.hidden, self.direction.functions
        writer, old = self.writer, self.state
        gates, entering = writer.parts(inputs, [2 * hidden, hidden], f"{self.at}input/parts")
        product = within = None
        if old is not None and self._reset_after:
            product, within = writer.parts(
                self._recurrent(old, slice(None), "recurrent"), [2 * hidden, hidden], f"{self.at}recurrent/parts"
            )
        elif old is not None:
            product = self._recurrent(old, slice(2 * hidden), "recurrent")
        opened = self._activation(functions[0], self._sum("sum", gates, product), "gates")
        update, reset = writer.parts(opened, [hidden, hidden], f"{self.at}gates/each")
        if self._reset_after:
            offset = writer.constant(self.direction.recurrent_bias[2 * hidden :], f"{self.prefix}Rb")
            biased = self._sum("recurrent/biased", within, offset) if within is not None else offset
            remembered: str | None = self._product(reset, biased, "remembered")
        elif old is not None:
            product = self._product(reset, old, "reset_state")
            remembered = self._recurrent(product, slice(2 * hidden, None), "recurrent_candidate")
        else:
            remembered = None
        candidate = self._activation(functions[1], self._sum("entering", entering, remembered), "candidate")
        # (1 - z)·candidate + z·old, with one product.
        away = writer.gate("Sub", [old, candidate] if old is not None else [self._zero(), candidate], f"{self.at}away")
        return self._sum("state", candidate, self._product(update, away, "kept"))

    def _one(self) -> str:
        return self.writer.constant(np.array(1, np.float32), "constants/one")

    def _zero(self) -> str:
        return self.writer.constant(np.array(0, np.float32), "constants/zero")
