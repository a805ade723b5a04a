"""Float and int8 side by side on the evaluation samples: the float outputs are computed once and kept.

Everything is compared before a final softmax, in each network's own graph: what its softmax reads. A softmax hides an
error (31 dB before it read 18 dB after it), and quantized by a peer it returns ties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.quantizer_networks import Arrays, Measured
from harness.judge.statistics import tango

_PASSED = frozenset({"QuantizeLinear", "DequantizeLinear", "Reshape", "Flatten", "Squeeze", "Transpose", "Identity"})
_BATCH = 32


def scores_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """For each output, the tensor that the softmax before it reads; the output itself where there is none."""
    producer = {name: node for node in model.graph.node for name in node.output}
    found = []
    for output in model.graph.output:
        name = output.name
        while (node := producer.get(name)) is not None and node.op_type in _PASSED:
            name = node.input[0]
        softmax = node is not None and node.op_type in {"Softmax", "LogSoftmax"}
        found.append(node.input[0] if softmax and node is not None else output.name)
    return tuple(found)


@dataclass(frozen=True)
class Outputs:
    """What a network made of the evaluation samples.

    Args:
        names: of the network's outputs.
        scores: per output, before a final softmax, [N, …].
    """

    names: tuple[str, ...]
    scores: tuple[NDArray[Any], ...]

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The best class of each sample [N]; of equal scores the first."""
        best: NDArray[np.int64] = self.scores[0].reshape(len(self.scores[0]), -1).argmax(axis=1)
        return best

    def by_name(self) -> Arrays:
        """As a job's postprocessing takes them."""
        return dict(zip(self.names, self.scores, strict=True))


@dataclass(frozen=True)
class Comparison:
    """int8 against float on the same samples.

    Args:
        n: samples.
        agreement: share of samples with the same best class; None where the metric is not one per sample.
        sqnr_db: 10 log10(sum f² / sum (f - q)²) over all scores.
        float_score: the job's metric, 0…1.
        int8_score: the same of the int8 network.
        b: samples that only the float network gets right; None where the metric is not one per sample.
        c: samples that only the int8 network gets right.
    """

    n: int
    agreement: float | None
    sqnr_db: float
    float_score: float
    int8_score: float
    b: int | None = None
    c: int | None = None

    @property
    def lost_points(self) -> float:
        """Best estimate of what int8 lost, in points of the metric (negative: gained)."""
        if self.b is not None and self.c is not None:  # of counts: 1 of 100 is 1, not 1 and a rounding error
            return 100 * (self.b - self.c) / self.n
        return 100 * (self.float_score - self.int8_score)

    @property
    def proven_lost_points(self) -> float | None:
        """The loss that the data prove: lower end of Tango's paired 95 % interval of float - int8, in points."""
        if self.b is None or self.c is None:
            return None
        return 100 * tango(self.b, self.c, self.n).low


class Evaluator:
    """One network's evaluation samples, its float outputs among them.

    Args:
        network: from `quantizer_networks.load`.
        limit: at most so many evaluation samples; None: all.
        indices: which samples instead of the evaluation's.
    """

    def __init__(
        self, network: Measured, limit: int | None = None, indices: tuple[int, ...] | range | None = None
    ) -> None:
        self.network = network
        self.indices = (network.evaluation_indices if indices is None else indices)[:limit]
        self.reference = self.run(network.model)
        self.float_score = network.score(self.reference.by_name(), self.indices)

    def run(self, model: Path, disabled_optimizers: Sequence[str] = ()) -> Outputs:
        """Scores of a network of the same task on the evaluation samples, through ONNX Runtime on this machine."""
        loaded = onnx.load(str(model))
        names = tuple(output.name for output in loaded.graph.output)
        wanted = scores_of(loaded)
        session = _session(loaded, wanted, disabled_optimizers)
        runs = [session.run(list(wanted), batch) for batch in self._batches(session)]
        return Outputs(names, tuple(np.concatenate(parts) for parts in zip(*runs, strict=True)))

    def compare(self, model: Path, disabled_optimizers: Sequence[str] = ()) -> Comparison:
        """An int8 network against the float one."""
        other = self.run(model, disabled_optimizers)
        n = len(self.indices)
        sqnr = _sqnr_db(self.reference.scores, other.scores)
        score = self.network.score(other.by_name(), self.indices)
        if not self.network.is_classifier:
            return Comparison(n, None, sqnr, self.float_score, score)
        labels = np.asarray(self.network.labels_of(tuple(self.indices)))
        first, second = self.reference.classes == labels, other.classes == labels
        return Comparison(
            n,
            float(np.mean(self.reference.classes == other.classes)),
            sqnr,
            self.float_score,
            score,
            int(np.sum(first & ~second)),
            int(np.sum(~first & second)),
        )

    def _batches(self, session: onnxruntime.InferenceSession) -> Iterator[Arrays]:
        fixed = {value.shape[0] for value in session.get_inputs() if isinstance(value.shape[0], int)}
        size = fixed.pop() if fixed else _BATCH
        for start in range(0, len(self.indices), size):
            yield self.network.take(tuple(self.indices[start : start + size]))


def _session(model: onnx.ModelProto, wanted: Sequence[str], disabled: Sequence[str]) -> onnxruntime.InferenceSession:
    """Of the network with just these tensors as outputs: what only fed the softmax's result is gone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(wanted))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )


def _sqnr_db(reference: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    signal = sum(float(np.sum(np.square(value, dtype=np.float64))) for value in reference)
    noise = sum(
        float(np.sum(np.square(value.astype(np.float64) - seen.reshape(value.shape))))
        for value, seen in zip(reference, other, strict=True)
    )
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")
