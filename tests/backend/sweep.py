"""A network of the backend tests through prepare → calibrate → quantize for every environment, and what came of it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from harness.errors import UserError
from harness.quantize import calibrate, prepare, quantize
from harness.quantize.rulebooks.rules import STEPS
from tests.backend.cases import Case, Feed, all_cases, feeds

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")
#: A refusal is one line that a terminal shows without scrolling.
LONGEST_LINE = 500

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


class Verdict(StrEnum):
    """What came of a network in an environment; the value is how the published table calls it."""

    QUANTIZED = "quantized: loads, runs, finite"
    NOTHING = "nothing to quantize: outputs equal"
    NO_RUNTIME = "refused: ONNX Runtime cannot run the float network"
    NO_TENSOR = "refused: takes text, a sequence, an optional or a type that NumPy lacks"
    ALREADY = "refused: holds quantized operators already"
    NOT_FINITE = "refused: activations are NaN or infinite"
    NOT_LIFTED = "refused: no rule to lift its opset to 13"


@dataclass(frozen=True)
class Outcome:
    """Verdict on one network in one environment.

    Args:
        case: identity of the network.
        environment: gpu, cpu, fpga or host.
        verdict: what came of it; None when it is none of those allowed.
        reason: the refusal's line, or what went wrong.
    """

    case: str
    environment: str
    verdict: Verdict | None
    reason: str


@dataclass(frozen=True)
class Float:
    """What the network as given computes, None where the runtime does not run it."""

    outputs: list[Any] | None
    random: bool
    half: bool


def examine(case: Case, folder: Path) -> list[Outcome]:
    """All environments' outcomes, and one named "prepare" when preparing the network went wrong."""
    model = case.model()
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow are what some of the networks are about
        data = feeds(case, model)
        given = _given(model, data[0])
        outcomes = [
            Outcome(case.identity, "prepare", None, problem)
            for problem in _prepare_problems(path, folder, data[0], given)
        ]
        outcomes.extend(_outcome(case, path, folder, data, environment, given) for environment in ENVIRONMENTS)
    return outcomes


def examine_named(identity: str) -> list[Outcome]:
    """`examine` in a folder of its own; what worker processes are sent."""
    case = next(case for case in all_cases() if case.identity == identity)
    with tempfile.TemporaryDirectory() as folder:
        return examine(case, Path(folder))


def run(model: bytes, feed: Feed, disabled: Sequence[str] = ()) -> list[Any]:
    """Outputs by a plain session of ONNX Runtime, not by ours."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled) or None
    )
    outputs: list[Any] = session.run(None, feed)
    return outputs


def _given(model: ModelProto, feed: Feed) -> Float:
    operators = {node.op_type for node in _nodes(model.graph)}
    training = any(
        entry.name == "training_mode" and entry.i for node in _nodes(model.graph) for entry in node.attribute
    ) or ("Dropout" in operators and any(len(node.input) > 2 for node in model.graph.node if node.op_type == "Dropout"))
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    half = bool(kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
    try:
        outputs = run(model.SerializeToString(), feed)
    except Exception:  # noqa: BLE001  # whatever the runtime says of a network that is not ours
        return Float(None, bool(operators & _RANDOM) or training, half)
    return Float(outputs, bool(operators & _RANDOM) or training, half)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for entry in node.attribute:
            if entry.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(entry.g)


def _prepare_problems(path: Path, folder: Path, feed: Feed, given: Float) -> list[str]:
    try:
        first = prepare(path, folder / "first.onnx")
        second = prepare(first, folder / "second.onnx")
    except UserError as error:
        return [] if is_one_line(error) else [f"prepare refuses in several lines: {error}"]
    except Exception as error:  # noqa: BLE001  # the finding itself
        return [f"prepare crashed: {type(error).__name__}: {error}"]
    problems = []
    if first.read_bytes() != second.read_bytes():
        problems.append("preparing twice is not preparing once")
    if given.outputs is not None:
        try:
            problems.extend(_differences(given, run(first.read_bytes(), feed)))
        except Exception as error:  # noqa: BLE001  # the finding itself
            problems.append(f"the prepared network does not run: {error}")
    return problems


def _outcome(case: Case, path: Path, folder: Path, data: list[Feed], environment: str, given: Float) -> Outcome:
    def outcome(verdict: Verdict | None, reason: str = "") -> Outcome:
        return Outcome(case.identity, environment, verdict, reason)

    out = folder / f"{environment}.onnx"
    try:
        calibration = calibrate(path, data, environment=environment)
        result = quantize(path, calibration, environment=environment, out=out, recover=_steps(case))
    except UserError as error:
        line = str(error).replace(str(path), case.name)
        if not is_one_line(error):
            return outcome(None, f"refused in several lines: {line}")
        verdict = refusal(line)
        if verdict is Verdict.NO_RUNTIME and given.outputs is not None:
            return outcome(None, f"ONNX Runtime runs the float network, yet: {line}")
        return outcome(verdict, line)
    except Exception as error:  # noqa: BLE001  # the finding itself
        return outcome(None, f"crashed: {type(error).__name__}: {error}")
    try:
        mine = run(out.read_bytes(), data[0], result.disabled_optimizers)
    except Exception as error:  # noqa: BLE001  # the finding itself
        return outcome(None, f"the result does not run: {error}")
    verdict = Verdict.QUANTIZED if result.quantized_layers else Verdict.NOTHING
    if given.outputs is not None:
        compare = _overflows if result.quantized_layers else _differences
        problems = compare(given, mine)
        if problems:
            return outcome(None, "; ".join(problems))
    return outcome(verdict)


def _steps(case: Case) -> Collection[str]:
    """Nothing to recover in the light networks, whose weights are all the same: it would take minutes for each."""
    return () if case.kind == "light" else STEPS


def is_one_line(error: UserError) -> bool:
    """Whether a refusal is a line that a terminal shows."""
    line = str(error)
    return "\n" not in line and len(line) <= LONGEST_LINE and "Traceback" not in line


def refusal(line: str) -> Verdict | None:
    """Which kind of refusal a line is, None when it is none of those that a network may meet."""
    if "ONNX Runtime cannot load it" in line or "the network cannot run on this input" in line:
        return Verdict.NO_RUNTIME
    if "can be fed" in line:
        return Verdict.NO_TENSOR
    if "is quantized already" in line:
        return Verdict.ALREADY
    if " holds NaN" in line or " holds infinity" in line:
        return Verdict.NOT_FINITE
    return Verdict.NOT_LIFTED if "export it at a newer opset" in line else None


def _differences(given: Float, mine: list[Any]) -> list[str]:
    """Where outputs differ by more than rounding does."""
    tolerance = 4e-3 if given.half else 1e-4
    problems = []
    for index, (want, have) in enumerate(zip(given.outputs or [], mine, strict=True)):
        for expected, found in _pairs(want, have):
            problem = _shape_problem(expected, found)
            if problem is None and not given.random and not _close(expected, found, tolerance):
                problem = "values differ"
            if problem is not None:
                problems.append(f"output {index}: {problem}")
    return problems


def _overflows(given: Float, mine: list[Any]) -> list[str]:
    """Where outputs are not finite although the float network's are, or have another shape."""
    problems = []
    for index, (want, have) in enumerate(zip(given.outputs or [], mine, strict=True)):
        for expected, found in _pairs(want, have):
            problem = _shape_problem(expected, found)
            if problem is None and expected.dtype.kind == "f" and (np.isfinite(expected) & ~np.isfinite(found)).any():
                problem = "not finite where the float network is"
            if problem is not None:
                problems.append(f"output {index}: {problem}")
    return problems


def _pairs(want: Any, have: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:  # noqa: ANN401  # as wide as ONNX's types
    if isinstance(want, list | tuple):
        for first, second in zip(want, have, strict=True):
            yield from _pairs(first, second)
    elif isinstance(want, dict):
        yield np.array(sorted(want.items()), object), np.array(sorted(have.items()), object)
    elif want is not None:
        yield np.asarray(want), np.asarray(have)


def _shape_problem(want: NDArray[Any], have: NDArray[Any]) -> str | None:
    if want.shape != have.shape or want.dtype != have.dtype:
        return f"{have.dtype}{list(have.shape)} instead of {want.dtype}{list(want.shape)}"
    return None


def _close(want: NDArray[Any], have: NDArray[Any], tolerance: float) -> bool:
    if want.dtype.kind != "f":
        return bool(np.array_equal(want, have))
    finite = np.abs(want[np.isfinite(want)], dtype=np.float64)
    return bool(np.allclose(want, have, rtol=tolerance, atol=tolerance * finite.max(initial=1e-3), equal_nan=True))
