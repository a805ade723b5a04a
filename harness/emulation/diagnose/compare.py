"""The board's integers beside the reference's, layer by layer, and each layer once more from the board's own inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from harness.data.batch import cut, rows
from harness.emulation.arithmetic import Arithmetic
from harness.emulation.diagnose.hypotheses import explain, near_halves
from harness.emulation.diagnose.layer import Int64, Layer, parameters_of, read_layer
from harness.emulation.diagnose.points import Point, find_points, given_name, made_in, step_by_step
from harness.emulation.diagnose.recompute import Recomputation, recompute
from harness.emulation.diagnose.values import HISTOGRAM_EDGE_LSB, Kind, LayerDifference
from harness.errors import UserError
from harness.quantize.graph import Graph
from harness.quantize.preparation import infer_types
from harness.quantize.runtime import open_session, run_session, with_outputs

Array = NDArray[Any]
Arrays = dict[str, Array]
Feed = Mapping[str, Array]
#: Runs a network over feeds somewhere: (network, optimizers that must not run) → all outputs by name, one dict a feed.
Run = Callable[[ModelProto, Sequence[str]], list[Arrays]]


@dataclass(frozen=True, eq=False)
class Executable:
    """A network and what must not be optimized in it.

    Args:
        model: Q/DQ or lowered.
        disabled_optimizers: of ONNX Runtime.
        text: what it is, for a reader.
    """

    model: ModelProto
    disabled_optimizers: tuple[str, ...]
    text: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """What comparing found.

    Args:
        layers: in the network's order.
        outputs_differing: values of the network's outputs that differ.
        outputs_values: of how many.
        notices: for the reader.
    """

    layers: tuple[LayerDifference, ...]
    outputs_differing: int
    outputs_values: int
    notices: tuple[str, ...]


#: Integers of all layers and samples are held at once: two bytes each, though they are 8-bit, for what is none.
_Held = NDArray[np.int16]
#: What a value that is no 8-bit integer counts as, at most.
_FAR = 30_000
_Apart = NDArray[np.int32]


@dataclass
class _Count:
    """What one tensor's comparison adds up, feed by feed."""

    board: list[_Held] = field(default_factory=list)
    reference: list[_Held] = field(default_factory=list)
    alone: list[_Held] = field(default_factory=list)


def compare(
    quantized: ModelProto,
    reference: Executable,
    board: Executable,
    feeds: Sequence[Feed],
    *,
    arithmetic: Arithmetic | None,
    run_board: Run,
    precise: bool = False,
) -> Comparison:
    """Run both with the integers of all layers and say where they part.

    Args:
        quantized: the network as Q/DQ; layers and steps are read from it.
        reference: what is right; runs here.
        board: what the board is given; integer tensors have the same names in both.
        feeds: inputs, one sample each, repeated where the network insists on a larger batch.
        arithmetic: the reference's; None: ONNX Runtime's own.
        run_board: runs a network on the board over `feeds`.
        precise: whether int8 needs ONNX Runtime's exact x86 kernels here.

    Raises:
        UserError: nothing to compare: the network has no integers, or the reference does not run.
        BoardError: the board failed.
    """
    points = find_points(quantized)
    names = [point.tensor for point in points]
    common = made_in(reference.model, names) & made_in(board.model, names)
    shared = [point for point in points if point.tensor in common]
    if not shared:
        raise UserError("nothing to compare: the network has no layer with integers; quantize it first")
    tensors = [point.tensor for point in shared]
    outputs = [value.name for value in quantized.graph.output]
    notices = [
        f"{point.layer} ({point.op_type}): not compared, one side has no integers there"
        for point in points
        if point.tensor not in common
    ]

    plain = run_board(board.model, board.disabled_optimizers)
    found = run_board(with_outputs(infer_types(board.model), tensors), board.disabled_optimizers)
    expected, expected_plain = _reference(reference, tensors, feeds, precise)
    for what, with_, without in (("the board", found, plain), ("the reference", expected, expected_plain)):
        changed = _changed(outputs, with_, without)
        if changed:
            notices.append(
                f"{what} computes {changed:,} output values otherwise when intermediate tensors are asked for: its "
                "runtime fuses layers differently then, and what is shown here need not be what a run computes"
            )
    alone = _alone(reference, tensors, feeds, found, precise)

    counts = {name: _Count() for name in tensors}
    for feed, theirs, ours, own in zip(feeds, found, expected, alone, strict=True):
        size = rows(feed)
        for name in tensors:
            counts[name].board.append(_integers(theirs[name], size))
            counts[name].reference.append(_integers(ours[name], size))
            counts[name].alone.append(_integers(own[name], size))
    singles = [cut(feed, slice(0, 1)) for feed in feeds]
    layers = tuple(_differences(quantized, shared, counts, singles, arithmetic))
    differing = sum(_unequal(a[name], b[name]) for a, b in zip(plain, expected_plain, strict=True) for name in outputs)
    total = sum(one[name].size for one in expected_plain for name in outputs)
    return Comparison(layers, differing, total, tuple(notices))


def _reference(
    reference: Executable, tensors: Sequence[str], feeds: Sequence[Feed], precise: bool
) -> tuple[list[Arrays], list[Arrays]]:
    """Outputs with and without the integers."""
    whole = with_outputs(infer_types(reference.model), tensors)
    return _here(whole, reference, feeds, precise), _here(reference.model, reference, feeds, precise)


def _alone(
    reference: Executable, tensors: Sequence[str], feeds: Sequence[Feed], board: Sequence[Arrays], precise: bool
) -> list[Arrays]:
    """Each layer by the reference, from the integers that the board had in front of it."""
    types = infer_types(reference.model)
    model = step_by_step(reference.model, types, tensors)
    made = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    dtypes = {name: np.float32 if made[given_name(name)] == 1 else None for name in tensors}
    given = []
    for feed, found in zip(feeds, board, strict=True):
        fed = {given_name(name): np.asarray(found[name], dtypes[name]) for name in tensors}
        given.append({**feed, **fed})
    return _here(model, reference, given, precise)


def _here(model: ModelProto, like: Executable, feeds: Sequence[Feed], precise: bool) -> list[Arrays]:
    session = open_session(
        model, f"reference ({like.text})", disabled_optimizers=like.disabled_optimizers, precise_x86_int8=precise
    )
    taken = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    answers = []
    for feed in feeds:
        values = run_session(session, {k: v for k, v in feed.items() if k in taken}, f"reference ({like.text})")
        answers.append(dict(zip(names, values, strict=True)))
    return answers


def _changed(names: Sequence[str], first: Sequence[Arrays], second: Sequence[Arrays]) -> int:
    return sum(_unequal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in names)


def _unequal(first: Array, second: Array) -> int:
    if first.shape != second.shape:
        return max(first.size, second.size)
    same = first == second
    if first.dtype.kind == "f":
        same |= np.isnan(first) & np.isnan(second)
    return int(first.size - np.count_nonzero(same))


def _integers(values: Array, size: int) -> _Held:
    """Whole numbers of the first sample; what is no number counts as far away.

    A network that insists on a batch of `size` gets its sample so many times; an array without a batch axis is whole.
    """
    if size > 1 and values.ndim and len(values) == size:
        values = values[:1]
    if values.dtype.kind == "f":
        values = np.rint(np.nan_to_num(values, nan=_FAR, posinf=_FAR, neginf=-_FAR))
    return np.clip(values, -_FAR, _FAR).astype(np.int16) if values.dtype.itemsize > 1 else values.astype(np.int16)


def _differences(
    quantized: ModelProto,
    points: Sequence[Point],
    counts: Mapping[str, _Count],
    feeds: Sequence[Feed],
    arithmetic: Arithmetic | None,
) -> Iterator[LayerDifference]:
    graph = Graph(quantized)
    board = {name: count.board for name, count in counts.items()}
    for point in points:
        count = counts[point.tensor]
        apart = [a.astype(np.int32) - b for a, b in zip(count.board, count.reference, strict=True)]
        own = sum(int(np.count_nonzero(a != b)) for a, b in zip(count.board, count.alone, strict=True))
        kinds, unknown = _kinds(graph, point, board, count, feeds, arithmetic) if own else ((), "")
        sizes = np.abs(np.concatenate([one.reshape(-1) for one in apart]))
        differing = int(np.count_nonzero(sizes))
        yield LayerDifference(
            point.layer,
            point.op_type,
            point.tensor,
            int(sizes.size),
            differing,
            sum(bool(np.any(one)) for one in apart),
            int(sizes.max(initial=0)),
            float(sizes.sum() / differing) if differing else 0.0,
            own,
            _histogram(apart),
            _channels(apart),
            kinds,
            unknown,
        )


def _histogram(apart: Sequence[_Apart]) -> dict[int, int]:
    edge = HISTOGRAM_EDGE_LSB
    steps, numbers = np.unique(
        np.clip(np.concatenate([one.reshape(-1) for one in apart]), -edge, edge), return_counts=True
    )
    return {int(step): int(number) for step, number in zip(steps, numbers, strict=True)}


def _channels(apart: Sequence[_Apart]) -> tuple[int, ...]:
    if apart[0].ndim < 2:
        return ()
    each = [np.count_nonzero(one, axis=tuple(axis for axis in range(one.ndim) if axis != 1)) for one in apart]
    if len({one.shape for one in each}) > 1:
        return ()
    return tuple(int(number) for number in np.sum(each, axis=0))


def _kinds(
    graph: Graph,
    point: Point,
    board: Mapping[str, list[_Held]],
    count: _Count,
    feeds: Sequence[Feed],
    arithmetic: Arithmetic | None,
) -> tuple[tuple[Kind, ...], str]:
    """The mistakes that explain a layer, or why none is named."""
    layer = read_layer(graph, point.tensor)
    if layer is None:
        return (), "more than one operator between integers, which is not recomputed"
    read = layer.operands if layer.shortcut is None else (*layer.operands, layer.shortcut)
    needed = [one.tensor for one in read if one.tensor is not None]
    if any(name not in board for name in needed):
        return (), "its inputs could not be compared"
    found = _recomputed(graph, layer, needed, board, feeds, arithmetic)
    if found is None:
        return (), f"{point.op_type} is not among the operators that are recomputed"
    got = _stacked(count.board)
    right = found.integers(found.whole, found.way)
    if got is None or right is None or right.size != got.size:
        return (), f"this form of {point.op_type} is not recomputed"
    kinds = explain(found, got)
    if kinds:
        return kinds, ""
    off = int(np.count_nonzero(right != _flat(count.alone)))
    if off:
        return (), f"recomputing the layer here misses the reference in {off:,} values, so no mistake was looked for"
    if near_halves(found, right, got):
        return (), (
            "every value that differs lies next to a rounding boundary, as it happens where single-precision sums are "
            "added in another order"
        )
    return (), "no mistake that is known gives the board's integers"


def _recomputed(
    graph: Graph,
    layer: Layer,
    needed: Sequence[str],
    board: Mapping[str, list[_Held]],
    feeds: Sequence[Feed],
    arithmetic: Arithmetic | None,
) -> Recomputation | None:
    given: dict[str, Int64] = {}
    for name in needed:
        stacked = _stacked(board[name])
        if stacked is None:
            return None
        given[name] = stacked
    source = None
    if layer.source is not None:
        if any(layer.source not in feed for feed in feeds):
            return None
        source = np.concatenate([np.asarray(feed[layer.source], np.float64) for feed in feeds])
    parameters = () if layer.node is None else parameters_of_layer(graph, layer)
    return recompute(layer, given, parameters, arithmetic, source)


def parameters_of_layer(graph: Graph, layer: Layer) -> tuple[NDArray[np.float64], ...] | None:
    """Stored inputs of a function that stands alone; () for operators that have none."""
    assert layer.node is not None
    return parameters_of(graph, layer.node) if len(layer.operands) == 1 else ()


def _stacked(parts: Sequence[_Held]) -> Int64 | None:
    """All samples along the first axis; None where they do not fit together."""
    if parts[0].ndim == 0 or len({part.shape[1:] for part in parts}) > 1:
        return None
    return np.concatenate(parts).astype(np.int64)


def _flat(parts: Sequence[_Held]) -> Int64:
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.int64)
