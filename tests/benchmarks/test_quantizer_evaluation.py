"""The yardstick itself: what is compared, counts worked out by hand, and a network against itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import quantizer_accuracy, quantizer_networks, quantizer_slices
from benchmarks.quantizer_evaluation import Comparison, Evaluator, scores_of
from harness.judge.statistics import tango

SHARED = Path(__file__).parents[3] / "shared/data"
needs_networks = pytest.mark.skipif(not SHARED.is_dir(), reason="the networks are not beside the repository")


def chain(*operators: str) -> onnx.ModelProto:
    """A graph x → t0 → t1 … of these operators."""
    scales = [
        numpy_helper.from_array(np.array(1 / 256, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    nodes = []
    for index, operator in enumerate(operators):
        extra = ["scale", "zero"] if operator.endswith("Linear") else []
        nodes.append(helper.make_node(operator, [f"t{index - 1}" if index else "x", *extra], [f"t{index}"]))
    value = helper.make_tensor_value_info
    last = f"t{len(operators) - 1}"
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 4])], [value(last, TensorProto.FLOAT, [1, 4])], scales
    )
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("operators", "scored"),
    [
        (("Relu", "Softmax"), "t0"),
        (("Relu", "Softmax", "Flatten"), "t0"),
        (("Relu", "QuantizeLinear", "DequantizeLinear", "Softmax", "QuantizeLinear", "DequantizeLinear"), "t2"),
        (("Softmax", "Relu"), "t1"),
        (("Relu", "QuantizeLinear", "DequantizeLinear"), "t2"),
    ],
)
def test_scores_are_what_the_last_softmax_reads(operators: tuple[str, ...], scored: str) -> None:
    assert scores_of(chain(*operators)) == (scored,)


def test_points_lost_are_counted_not_subtracted() -> None:
    result = Comparison(n=100, agreement=0.99, sqnr_db=30.0, float_score=0.87, int8_score=0.86, b=1, c=0)
    assert result.lost_points == 1.0  # 100 * (0.87 - 0.86) is 1.0000000000000009
    assert result.proven_lost_points == pytest.approx(100 * tango(1, 0, 100).low)


def test_a_large_loss_is_proven_and_a_small_one_is_not() -> None:
    def comparison(b: int) -> Comparison:
        return Comparison(400, 0.9, 20.0, 0.6, 0.6 - b / 400, b, 0)

    proven = [comparison(b).proven_lost_points for b in (3, 30)]
    assert proven[0] is not None
    assert proven[1] is not None
    assert proven[0] < 1.0 < proven[1] < 7.5


def test_samples_that_score_the_choices_give_no_ranges() -> None:
    samples = {"x": np.arange(20)}
    ranged, held = quantizer_slices.cut(samples)
    assert len(held["x"]) == 5
    assert sorted([*ranged["x"], *held["x"]]) == list(range(20))
    assert np.concatenate([piece["x"] for piece in quantizer_slices.batches(samples)]).tolist() == list(range(20))


@needs_networks
def test_the_float_network_loses_nothing_against_itself() -> None:
    evaluator = Evaluator(quantizer_networks.load("kws"), limit=50)
    result = evaluator.compare(evaluator.network.model)
    assert (result.agreement, result.b, result.c, result.n) == (1.0, 0, 0, 50)
    assert result.sqnr_db == float("inf")
    assert result.lost_points == 0


@needs_networks
def test_a_network_that_answers_zero_is_seen_through(tmp_path: Path) -> None:
    evaluator = Evaluator(quantizer_networks.load("kws"), limit=100)
    broken = onnx.load(str(evaluator.network.model))
    for tensor in broken.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(broken, str(tmp_path / "zero.onnx"))

    result = evaluator.compare(tmp_path / "zero.onnx")

    labels = np.asarray(evaluator.network.labels_of(tuple(evaluator.indices)))
    right_by_chance = int(np.sum(labels == 0))  # of equal scores the first class
    assert result.sqnr_db == pytest.approx(0.0)  # the noise is the signal
    assert result.int8_score == right_by_chance / 100
    assert result.b is not None
    assert result.c is not None
    assert result.b - result.c == round(100 * result.float_score) - right_by_chance


@needs_networks
def test_one_network_from_float_to_rows(tmp_path: Path) -> None:
    evaluator = Evaluator(quantizer_networks.load("kws"))
    outcome = quantizer_accuracy.measure(evaluator, "cpu", tmp_path / "kws.onnx")
    rows = list(quantizer_accuracy.rows([outcome]))

    assert outcome.comparison.sqnr_db > 20
    assert outcome.cpu_s > 0
    assert rows[0].figure == "kws, cpu: label top-1 lost"
    assert rows[0].median == outcome.comparison.lost_points
    assert rows[0].goal is not None
    assert rows[-1].figure.startswith("cpu: largest loss of label top-1 that is proven")
    assert (outcome.verdict == "ok") == all(row.met for row in rows)
