"""The optimized float network, its inner tensors readable where the runtime left them.

ONNX Runtime computes convolutions on x86 in a blocked form (NCHWc). A tensor asked for as an output is first copied
into the order of the file, which costs a quarter of the pass; statistics do not care about that order. So the
optimized graph is taken as the runtime writes it, and what stands before such a copy is read instead: the same
values at other places. Outputs land in one buffer that is used again for each pass.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from harness.quantize.external import is_light
from harness.quantize.layout import Layout, blocked, by_channel, flat
from harness.quantize.observer import Place, Places
from harness.quantize.runtime import RUNTIME_ERRORS, Feed, default_threads, open_session, run_session, with_outputs

_BLOCKED_DOMAIN = "com.microsoft.nchwc"
#: Above it a second copy of the network costs more memory than the copies of tensors cost time.
_MAX_REOPENED_BYTES = 1 << 28
#: Outputs start at multiples of a cache line.
_ALIGNMENT = 16
#: Shapes of inputs that are remembered; a stream that varies more is run without prepared outputs.
_MAX_SIGNATURES = 32

#: A network it cannot write down, or no room for it.
_NOT_WRITTEN: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, OSError)

_Signature = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Output:
    """An inner tensor, and its source in the session.

    Args:
        name: in the network.
        source: what the session calls it.
        channels: of a blocked source; None where it is stored as the file says.
    """

    name: str
    source: str
    channels: int | None = None


class FloatPass:
    """Runs the network and shows inner tensors.

    Args:
        model: the prepared float network.
        names: inner tensors to show.
        axes: channel axis of those whose channels matter.
        what: how to call the network in an error.
        threads: of the runtime; None: as many as host work may take.

    Raises:
        UserError: ONNX Runtime refuses the network.
    """

    def __init__(
        self, model: ModelProto, names: Sequence[str], axes: Mapping[str, int], what: str, threads: int | None = None
    ) -> None:
        self._axes = axes
        self._what = what
        exposed = with_outputs(model, names, only=True)
        opened = None if is_light(model) else _open_blocked(exposed, names, threads)
        if opened is None:
            self._session = open_session(exposed, what, threads=threads)
            self._outputs = tuple(_Output(name, name) for name in names)
        else:
            self._session, self._outputs = opened
        self._sources = [output.source for output in self._outputs]
        self._buffer = np.empty(0, np.float32)
        self._shapes: dict[_Signature, tuple[tuple[int, ...], ...]] = {}
        self._places: dict[_Signature, Places] = {}
        self._bindings: dict[_Signature, ort.IOBinding] = {}
        #: Whether outputs can be written straight into the buffer: float32, of shapes that follow from the inputs'.
        self._direct = True
        self._expect_fixed_shapes()

    def run(self, inputs: Feed) -> tuple[NDArray[np.float32], Places]:
        """One pass.

        Returns:
            the buffer, valid until the next pass, and where each inner tensor lies in it.

        Raises:
            UserError: the network cannot run on these inputs.
        """
        signature = tuple(value.shape for value in inputs.values())
        if self._direct and signature in self._places:
            if self._run_direct(signature, inputs):
                return self._buffer, self._places[signature]
            # A shape that depends on values, or an input that does not fit: the other way tells.
            self._direct = False
        values = run_session(self._session, inputs, self._what, self._sources)
        if any(value.dtype != np.float32 for value in values):
            self._direct = False
        return self._take(signature, values)

    def _take(self, signature: _Signature, values: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], Places]:
        """Copy what the runtime allocated into the buffer, and remember the shapes for next time."""
        places = self._laid_out([value.shape for value in values])
        for place, value in zip(places, values, strict=True):
            self._buffer[place.start : place.start + value.size] = value.reshape(-1)
        known = self._places.get(signature)
        if known is None or known.items != places:
            self._remember(signature, places, [value.shape for value in values])
        return self._buffer, self._places[signature]

    def _laid_out(self, shapes: Sequence[tuple[int, ...]]) -> tuple[Place, ...]:
        """Places for tensors of these shapes, one behind the other, and a buffer that holds them."""
        places, end = [], 0
        for output, shape in zip(self._outputs, shapes, strict=True):
            places.append(Place(output.name, end, self._layout(output, shape)))
            end += -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
        if end > self._buffer.size:
            self._bindings.clear()  # they point into the old one
            self._buffer = np.empty(end, np.float32)
        return tuple(places)

    def _remember(self, signature: _Signature, places: tuple[Place, ...], shapes: Sequence[tuple[int, ...]]) -> None:
        if len(self._places) >= _MAX_SIGNATURES:
            self._places.clear()
            self._shapes.clear()
            self._bindings.clear()
        self._places[signature] = Places(places)
        self._shapes[signature] = tuple(shapes)

    def _expect_fixed_shapes(self) -> None:
        """Where all shapes are known beforehand, even the first pass need not allocate its outputs."""
        described = {output.name: output for output in self._session.get_outputs()}
        outputs = [described[source] for source in self._sources]
        inputs = self._session.get_inputs()
        known = all(all(isinstance(size, int) and size > 0 for size in value.shape) for value in (*inputs, *outputs))
        if known and all(value.type == "tensor(float)" and value.shape for value in outputs):
            shapes = [tuple(value.shape) for value in outputs]
            self._remember(tuple(tuple(value.shape) for value in inputs), self._laid_out(shapes), shapes)

    def _run_direct(self, signature: _Signature, inputs: Feed) -> bool:
        binding = self._bindings.get(signature)
        if binding is None:
            binding = self._bindings[signature] = self._session.io_binding()
            for place, source, shape in zip(
                self._places[signature].items, self._sources, self._shapes[signature], strict=True
            ):
                address = self._buffer[place.start :].ctypes.data
                binding.bind_output(source, "cpu", 0, np.float32, shape, address)
        try:
            for name, value in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            self._session.run_with_iobinding(binding)
        except RUNTIME_ERRORS:
            return False
        finally:
            binding.clear_binding_inputs()  # the user's arrays are not held
        return True

    def _layout(self, output: _Output, shape: tuple[int, ...]) -> Layout:
        if output.channels is not None:
            return blocked(shape, output.channels, _block_size())
        axis = self._axes.get(output.name)
        return flat(shape) if axis is None else by_channel(shape, axis)


def _open_blocked(
    exposed: ModelProto, names: Sequence[str], threads: int | None
) -> tuple[ort.InferenceSession, tuple[_Output, ...]] | None:
    """The optimized network with blocked outputs; None where the runtime has none, or does not take it back."""
    if exposed.ByteSize() > _MAX_REOPENED_BYTES:
        return None
    optimized = _optimized(exposed, threads)
    if optimized is None or not any(node.op_type == "ReorderOutput" for node in optimized.graph.node):
        return None
    outputs = _before_reordering(optimized, names)
    options = _options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(optimized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS:
        return None
    return session, outputs


def _optimized(exposed: ModelProto, threads: int | None) -> ModelProto | None:
    """What the runtime makes of a network; None where it cannot say."""
    with tempfile.TemporaryDirectory(prefix="quantrig-") as folder:
        path = Path(folder, "optimized.onnx")
        options = _options(threads)
        options.optimized_model_filepath = str(path)
        # Weights are packed for the session that runs, not for this one.
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return onnx.load(path)
        except _NOT_WRITTEN:
            return None


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _before_reordering(optimized: ModelProto, names: Sequence[str]) -> tuple[_Output, ...]:
    """Let the network return what stands before each reordering of a wanted tensor; unused ones are removed."""
    graph = optimized.graph
    reorderings = {
        node.output[0]: node
        for node in graph.node
        if node.domain == _BLOCKED_DOMAIN and node.op_type == "ReorderOutput"
    }
    outputs = []
    for name in names:
        node = reorderings.get(name)
        if node is None:
            outputs.append(_Output(name, name))
        else:
            channels = next(attribute.i for attribute in node.attribute if attribute.name == "channels")
            outputs.append(_Output(name, node.input[0], channels))
    read = {name for node in graph.node for name in node.input}
    unused = {name for name in reorderings if name not in read and name in set(names)}
    nodes = [node for node in graph.node if node.output[0] not in unused]
    kept = ModelProto()
    kept.graph.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(kept.graph.node)
    declared = {value.name: value for value in graph.output}
    returned = [declared.get(output.source, onnx.ValueInfoProto(name=output.source)) for output in outputs]
    kept.graph.output.extend({value.name: value for value in returned}.values())
    del graph.output[:]
    graph.output.extend(kept.graph.output)
    return tuple(outputs)


@cache
def _block_size() -> int:
    """Channels of a block on this processor, found by letting the runtime reorder numbered ones."""
    channels = 32
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=_BLOCKED_DOMAIN)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "block",
        [value("x", TensorProto.FLOAT, [1, channels, 1, 2])],
        [value("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_BLOCKED_DOMAIN, 1)]
    session = open_session(helper.make_model(graph, opset_imports=opsets, ir_version=8), "a blocked tensor", threads=1)
    numbered = np.arange(2 * channels, dtype=np.float32).reshape(1, channels, 1, 2)
    (reordered,) = session.run(None, {"x": numbered})
    # The second pixel of channel 0 stands behind the first pixel of the block's last channel.
    return int(np.flatnonzero(reordered.reshape(-1) == 1)[0])
