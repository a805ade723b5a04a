"""Top-k against scikit-learn and a sort, own functions, and every way a job can name a metric wrongly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import top_k_accuracy_score

from harness.errors import UserError
from harness.judge.metrics import Metric, accuracy, choose_scores, correct_within, own_metric, resolve_metrics


def no_import(name: str) -> Callable[..., object]:
    raise AssertionError(name)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(k)
    scores, labels = rng.normal(size=(500, 12)), rng.integers(0, 12, 500)
    expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(12))
    assert accuracy(k).compute({"logits": scores}, labels) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_ties_go_to_the_lower_class_as_in_a_stable_sort(k: int) -> None:
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 3, size=(300, 6)).astype(np.float32), rng.integers(0, 6, 300)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = (best == labels[:, None]).any(axis=1)
    assert correct_within(scores, labels, k).astype(bool).tolist() == expected.tolist()


def test_trailing_axes_of_size_one_are_classes_too() -> None:
    scores = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    assert correct_within(scores, np.arange(4), 1).sum() == 4


@pytest.mark.parametrize(
    ("scores", "labels", "k", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), 1, "label 3: the network has classes 0…2"),
        (np.zeros((2, 3)), np.array([-1, 0]), 1, "label -1"),
        (np.zeros((2, 3)), np.array([0, 1]), 4, "only 3 classes"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), 1, "one integer a sample"),
        (np.zeros((2, 3)), np.array([0]), 1, "one integer a sample"),
        (np.zeros((2, 3, 8, 8)), np.array([0, 1]), 1, "not samples x classes"),
    ],
)
def test_what_does_not_fit_is_the_users_to_fix(
    scores: NDArray[np.float64], labels: NDArray[np.float64], k: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        correct_within(scores, labels, k)


def test_choice_of_the_scores() -> None:
    assert choose_scores(["only"]) == "only"
    assert choose_scores(["a", "b"], "b") == "b"
    with pytest.raises(UserError, match=r"2 outputs \(a, b\)"):
        choose_scores(["a", "b"])
    with pytest.raises(UserError, match="no such output"):
        choose_scores(["a"], "c")


def test_resolving_keeps_the_jobs_order_and_imports_own_functions() -> None:
    asked: list[str] = []

    def bring(name: str) -> Callable[..., object]:
        asked.append(name)
        return lambda _outputs, _labels: 0.5

    metrics = resolve_metrics(["accuracy_top5", "pkg.mod:mean_iou", "accuracy_top1"], bring)
    assert [m.name for m in metrics] == ["accuracy_top5", "mean_iou", "accuracy_top1"]
    assert asked == ["pkg.mod:mean_iou"]
    assert metrics[1].compute({"x": np.zeros((2, 1))}, np.zeros(2)) == 0.5


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["acuracy_top1"], "did you mean accuracy_top1"),
        (["accuracy_top0"], "did you mean"),
        (["zzz"], "module:function"),
        (["accuracy_top1", "accuracy_top1"], "named twice"),
    ],
)
def test_unknown_metrics_are_refused_with_a_remedy(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_metrics(names, no_import)


def own(function: Callable[..., object]) -> Metric:
    return own_metric("mod:f", function)


def test_own_metric_may_return_one_value_a_sample() -> None:
    result = own(lambda _outputs, _labels: [0.0, 1.0]).compute({"x": np.zeros((2, 3))}, np.zeros(2))
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [0.0, 1.0]


def explode(outputs: object, labels: object) -> float:
    raise KeyError("boxes")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _outputs, _labels: [1.0], "shape"),
        (lambda _outputs, _labels: np.zeros((2, 2)), "shape"),
        (lambda _outputs, _labels: float("nan"), "returned nan for all 2 samples"),
        (lambda _outputs, _labels: [0.5, float("inf")], "returned inf for sample number 2 of 2"),
        (lambda _outputs, _labels: "many", "ValueError"),
        (explode, "KeyError: 'boxes'"),
    ],
)
def test_own_metric_that_misbehaves_is_named(function: Callable[..., object], message: str) -> None:
    with pytest.raises(UserError, match=f"metric mod:f: .*{message}"):
        own(function).compute({"x": np.zeros((2, 3))}, np.zeros(2))
