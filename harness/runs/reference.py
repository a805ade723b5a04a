"""How far a board's int8 outputs are from the exact reference on this host, in steps of the output's quantization.

Only where a gate asks for it: the reference costs the host one pass over the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from harness.errors import BadResult, UserError
from harness.judge.context import TargetContext
from harness.judge.gates_units import LSB
from harness.judge.gates_values import Place
from harness.judge.reference import Apart, distances, save_apart, save_reference
from harness.quantize.graph import Graph, read_model
from harness.quantize.runtime import open_session, run_session
from harness.record.figure import Figure, Network
from harness.record.target import TargetRecord
from harness.runs.diagnosis import exact_here, int8_network
from harness.runs.lowering import arithmetic_of
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan
from harness.runs.samples import SampleReader, feeds, join
from harness.store import Store
from harness.targets.target import Target

#: The reference's outputs are kept up to this size a target, so that its distances can be verified from a bundle.
MOST_KEPT_BYTES = 64 << 20
#: What moves values and changes none.
_MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})


@dataclass(frozen=True, eq=False)
class _Reference:
    """What is right: a graph that runs here."""

    model: ModelProto
    disabled_optimizers: tuple[str, ...]
    text: str
    precise: bool


def reference_figures(
    plan: Plan, store: Store, records: Sequence[TargetRecord], reader: SampleReader
) -> tuple[Figure, ...]:
    """A row `reference_lsb` for each target on which a gate asks for it; its evidence goes to `samples/`.

    Args:
        plan: the run's.
        store: holds the outputs.
        records: of the targets, as judged.
        reader: of the samples.
    """
    targets = {target.name: target for target in plan.targets}
    found: list[Figure] = []
    for record in records:
        place = Place(record.entry_name, record.board, record.environment, record.tags)
        asked = any(gate.metric == LSB and gate.on(place) is not None for gate in plan.job.gates)
        if not asked or record.status not in {"done", "throttled"} or record.name not in targets:
            continue
        context = TargetContext.of(record)
        try:
            apart, kept = _compare(plan, targets[record.name], record, reader, store)
        except (UserError, BadResult) as error:
            reason = str(error)
            found.append(context.figure(Network.QUANTIZED, LSB, None, "LSB", notes=(reason,), about_outputs=True))
            continue
        save_apart(plan.out, record.name, apart)
        save_reference(plan.out, record.name, kept)
        found.append(apart.figure(context))
    return tuple(found)


def _compare(
    plan: Plan, target: Target, record: TargetRecord, reader: SampleReader, store: Store
) -> tuple[Apart, dict[str, NDArray[np.generic]] | None]:
    """The distances, and the reference's outputs where they are small enough to keep."""
    if plan.job.state:
        raise UserError("a recurrent network's outputs depend on those before: not compared with the reference")
    quantized = int8_network(plan, target)
    model = read_model(quantized)
    reference = _reference(target, record, quantized, model)
    session = open_session(
        reference.model,
        f"reference ({reference.text})",
        disabled_optimizers=reference.disabled_optimizers,
        precise_x86_int8=reference.precise,
    )
    names = [value.name for value in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}
    outputs = OutputStore(store, plan.run_id, record.name, plan.out)
    furthest: list[NDArray[np.float64]] = []
    differing: list[NDArray[np.int64]] = []
    largest = np.zeros(len(names))
    values = held_bytes = 0
    held: list[dict[str, NDArray[np.generic]]] = []
    chunks = list(reader.chunks)
    for chunk, theirs in zip(chunks, outputs.read(Network.QUANTIZED, chunks), strict=True):
        parts = []
        for feed, real in feeds(reader.chunk(chunk).inputs, plan.fixed_batch):
            fed = {name: x for name, x in feed.items() if name in taken}
            answer = run_session(session, fed, f"reference ({reference.text})")
            parts.append((dict(zip(names, answer, strict=True)), real))
        ours = join(parts)
        for name in names:
            if name not in theirs or theirs[name].shape != ours[name].shape:
                raise UserError(f"output '{name}' of the board has another shape than the reference's: not compared")
        apart = [distances(ours[name], theirs[name]) for name in names]
        furthest.append(np.stack([one[0] for one in apart], axis=1))
        differing.append(np.stack([one[1] for one in apart], axis=1))
        largest = np.maximum(largest, [one[2] for one in apart])
        values += sum(ours[name].size for name in names)
        held_bytes += sum(array.nbytes for array in ours.values())
        held = [*held, ours] if held_bytes <= MOST_KEPT_BYTES else []
    steps, basis = output_steps(model, names, largest)
    ids = tuple(plan.data.ids[index] for index in plan.samples)
    made = Apart(
        ids, tuple(names), np.concatenate(furthest), np.concatenate(differing), steps, values, basis, reference.text
    )
    kept = {name: np.concatenate([one[name] for one in held]) for name in names} if held else None
    return made, kept


def _reference(target: Target, record: TargetRecord, quantized: Path, model: ModelProto) -> _Reference:
    arithmetic = arithmetic_of(target)
    disabled = record.quantized.disabled_optimizers if record.quantized is not None else ()
    if arithmetic is None:
        precise, _ = exact_here(True)
        return _Reference(model, disabled, "Q/DQ through ONNX Runtime on this host", precise)
    from harness.emulation import lower

    made = lower(quantized, arithmetic)
    return _Reference(made.model, tuple(made.disabled_optimizers), f"lowered, {arithmetic.title}", False)


def output_steps(
    model: ModelProto, names: Sequence[str], largest: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str]:
    """The quantization step of each output and what it is, for a reader.

    Args:
        model: the int8 network, Q/DQ.
        names: of its outputs.
        largest: the reference's largest absolute value of each, float64 [M].
    """
    graph = Graph(model)
    makers = {name: node for node in graph.nodes for name in node.output}
    steps, bases = [], []
    for name, most in zip(names, largest, strict=True):
        own = _own_step(graph, makers, name)
        if own is not None:
            steps.append(own)
            bases.append("the output's own quantization step")
        else:
            # An output that stays float has no step: that of eight bits over its range takes its place.
            steps.append(most / 127 if most > 0 else 1.0)
            bases.append("1/127 of the reference's largest output, which stays float")
    return np.asarray(steps), "; ".join(dict.fromkeys(bases))


def _own_step(graph: Graph, makers: dict[str, NodeProto], name: str) -> float | None:
    node = makers.get(name)
    while node is not None and node.op_type in _MOVES:
        node = makers.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear" or not graph.is_constant(node.input[1]):
        return None
    scale = graph.array(node.input[1])
    return float(scale.reshape(-1)[0]) if scale.size == 1 else None
