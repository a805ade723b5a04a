"""Every built-in metric against another implementation, and the two things that rows are for: chunks and multisets."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.metrics import Labels, Metric, Rows, join_rows, recompute, resolve_metrics
from harness.judge.metrics.names import BUILT_IN

N = 12
RNG = np.random.default_rng(7)
NAMES = ("accuracy_top1", "accuracy_top2", *BUILT_IN)

Arrays = dict[str, NDArray[Any]]


def named(name: str) -> Metric:
    (metric,) = resolve_metrics([name], lambda _: pytest.fail("no import"))
    return metric


def boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    corner = rng.random((count, 2)) * 0.7
    return np.hstack([corner, corner + 0.05 + rng.random((count, 2)) * 0.25])


def detector(
    seed: int = 3, images: int = N, crowd: bool = False, ties: bool = False
) -> tuple[Arrays, list[NDArray[np.float64]]]:
    """Labelled boxes, and detections of which about half lie near one."""
    rng = np.random.default_rng(seed)
    truths, found = [], np.zeros((images, 14, 6))
    for image in range(images):
        known = boxes(rng, int(rng.integers(0, 5)))
        extra = (rng.random(len(known)) < (0.3 if crowd else 0)).astype(float)
        truths.append(np.column_stack([known, rng.integers(0, 3, len(known)), extra]))
        near = known[rng.random(len(known)) < 0.8]
        near = near + rng.normal(0, 0.02, near.shape)
        claims = np.vstack([near, boxes(rng, int(rng.integers(0, 6)))])
        labels = np.concatenate([truths[-1][: len(near), 4], rng.integers(0, 4, len(claims) - len(near))])
        scores = rng.integers(1, 6, len(claims)) / 10 if ties else rng.random(len(claims))
        found[image, : len(claims)] = np.column_stack([claims, scores, labels])
    return {"boxes": found}, truths


def case(name: str) -> tuple[Arrays, Labels]:
    """Outputs and labels that the metric takes, 12 samples."""
    rng = np.random.default_rng(11)
    kind = named(name).takes
    if kind == "classes":
        return {"x": rng.normal(size=(N, 4))}, rng.integers(0, 4, N)
    if kind == "masks":
        masks = [rng.integers(0, 3, (6, 5 + i % 3)) for i in range(N)]
        return {"x": rng.integers(0, 4, (N, 6, 6))}, masks
    if kind == "targets":
        target = rng.normal(size=(N, 3, 2))
        return {"x": target + rng.normal(0, 0.3, target.shape)}, target
    return detector()


def pick(outputs: Arrays, labels: Labels, chosen: Sequence[int]) -> tuple[Arrays, Labels]:
    part = [labels[i] for i in chosen] if isinstance(labels, list) else labels[list(chosen)]
    return {name: array[list(chosen)] for name, array in outputs.items()}, part


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 5])
def test_the_cut_into_chunks_does_not_matter(name: str, size: int) -> None:
    metric, (outputs, labels) = named(name), case(name)
    assert metric.rows is not None
    chunks = [range(start, min(start + size, N)) for start in range(0, N, size)]
    joined = join_rows([metric.rows(*pick(outputs, labels, chunk)) for chunk in chunks])
    assert len(joined) == N
    assert recompute(name, joined) == pytest.approx(metric.compute(outputs, labels), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=2 * N), st.sampled_from(NAMES))
def test_weights_are_repetitions(chosen: list[int], name: str) -> None:
    """A weighted value is that of data in which each sample stands as often as its weight says."""
    metric, (outputs, labels) = named(name), case(name)
    assert metric.rows is not None
    rows = metric.rows(outputs, labels)
    weights = np.bincount(chosen, minlength=N).astype(float)[None]
    in_order = sorted(chosen)  # ties between an image and itself are broken in the order of the images
    repeated = metric.rows(*pick(outputs, labels, in_order))
    expected = metric.formula.value(repeated)
    assert metric.formula.values(rows, weights)[0] == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert metric.formula.value(rows.take(in_order)) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_mean_accuracy_is_balanced_accuracy() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, labels = RNG.normal(size=(400, 6)), RNG.integers(0, 6, 400) // 2
    expected = metrics.balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert named("mean_accuracy").compute({"x": scores}, labels) == pytest.approx(expected)


def test_miou_is_the_macro_jaccard_score_of_all_pixels_together() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    truth, predicted = RNG.integers(0, 5, (4, 30, 30)), RNG.integers(0, 6, (4, 30, 30))
    present = np.unique(truth)
    expected = metrics.jaccard_score(truth.ravel(), predicted.ravel(), average="macro", labels=present)
    assert named("miou").compute({"x": predicted}, truth) == pytest.approx(expected)


def test_closeness_worked_out_by_hand() -> None:
    outputs, targets = {"x": np.array([[1.0, 2.0], [0.0, 2.0]])}, np.array([[1.0, 0.0], [0.0, 2.0]])
    assert named("mse").compute(outputs, targets) == 1.0
    assert named("sqnr").compute(outputs, targets) == pytest.approx(10 * np.log10(5 / 4))
    assert named("cosine").compute(outputs, targets) == pytest.approx(5 / np.sqrt(9 * 5))
    assert not named("mse").higher_is_better
    assert np.isnan(named("sqnr").compute({"x": targets}, targets))


def coco(outputs: Arrays, truths: list[NDArray[np.float64]], thresholds: NDArray[np.float64]) -> float:
    """COCO's average precision the way its own documentation calls pycocotools, over the whole set at once."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known, claims = [], []
    for image, rows in enumerate(truths):
        for left, top, right, bottom, label, crowd in rows:
            box = [left, top, right - left, bottom - top]
            area = box[2] * box[3]
            known.append({"image_id": image, "category_id": int(label), "bbox": box, "area": area})
            known[-1] |= {"id": len(known), "iscrowd": int(crowd)}
    for image, rows in enumerate(outputs["boxes"]):
        for left, top, right, bottom, score, label in rows[rows[:, 4] > 0]:
            box = [left, top, right - left, bottom - top]
            claims.append({"image_id": image, "category_id": int(label), "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truths))],
            "annotations": known,
            "categories": [{"id": label} for label in range(4)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(claims), "bbox")
        evaluation.params.iouThrs = thresholds
        evaluation.evaluate()
        evaluation.accumulate()
    found = evaluation.eval["precision"][..., 0, -1]  # all areas, 100 detections
    return float(found[found > -1].mean())


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize(
    ("name", "thresholds"),
    [("map", np.linspace(0.5, 0.95, 10)), ("map50", np.array([0.5])), ("map75", np.array([0.75]))],
)
def test_map_is_pycocotools_over_the_whole_set(name: str, thresholds: NDArray[np.float64], crowd: bool) -> None:
    outputs, truths = detector(seed=5, images=40, crowd=crowd, ties=True)
    expected = coco(outputs, truths, thresholds)
    metric = named(name)
    assert metric.rows is not None
    rows = metric.rows(outputs, truths)
    assert 0.05 < expected < 0.9
    assert metric.formula.value(rows) == pytest.approx(expected, rel=1e-12)
    assert metric.formula.values(rows, np.ones((2, 40))) == pytest.approx([expected] * 2, rel=1e-12)


def test_area_under_a_curve_worked_out_by_hand() -> None:
    """Precision after each detection: 1, 1/2, 2/3, 1/2, 3/5; made monotone: 1, 2/3, 2/3, 3/5, 3/5; of 4 boxes."""
    truth = np.array([[x, 0, x + 0.1, 0.1, 0] for x in (0.0, 0.2, 0.4, 0.6)])
    claims = np.array([truth[0], [0, 0.8, 0.1, 0.9, 0], truth[1], [0.5, 0.8, 0.6, 0.9, 0], truth[2]])
    found = np.column_stack([claims[:, :4], [0.9, 0.8, 0.7, 0.6, 0.5], claims[:, 4]])
    assert named("map50_voc").compute({"x": found[None]}, [truth]) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


def test_three_outputs_are_one_table_and_padding_counts_for_nothing() -> None:
    outputs, truths = detector()
    whole = outputs["boxes"]
    apart = {"boxes": whole[..., :4], "scores": whole[..., 4], "classes": whole[..., 5]}
    padded = np.pad(whole, ((0, 0), (0, 3), (0, 0)))
    value = named("map50").compute(outputs, truths)
    assert named("map50").compute(apart, truths) == value
    assert named("map50").compute({"x": padded}, truths) == value


def test_without_a_labelled_box_there_is_no_map() -> None:
    outputs, _ = detector()
    assert np.isnan(named("map").compute(outputs, [np.empty((0, 5))] * N))
    nothing = {"x": np.zeros((N, 0, 6))}
    assert named("map").compute(nothing, detector()[1]) == 0


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "message"),
    [
        ("map", {"x": np.zeros((1, 3, 5))}, [np.empty((0, 5))], r"give|return \[N, K, 6\]"),
        ("map", {"x": np.zeros((1, 3, 6))}, [np.zeros((2, 4))], r"labels of shape \[2, 4\]"),
        ("map", {"a": np.zeros((1, 3)), "b": np.zeros((1, 3))}, [np.empty((0, 5))], "outputs a, b"),
        ("miou", {"x": np.zeros((1, 4, 4), int)}, [np.zeros((4, 4))], "mask of integers"),
        ("miou", {"x": np.zeros((2, 4, 4), int)}, [np.zeros((4, 4), int)], "2 predictions for 1 masks"),
        ("mse", {"x": np.zeros((2, 4))}, np.zeros((2, 3)), "targets of shape"),
    ],
)
def test_what_does_not_fit_is_named(name: str, outputs: Arrays, labels: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named(name).compute(outputs, labels)


def test_rows_of_another_metric_are_refused() -> None:
    with pytest.raises(UserError, match="lack the column"):
        recompute("miou", Rows({"rank": np.zeros(3, np.int32)}))
    with pytest.raises(UserError, match="those of no metric known here"):
        recompute("loudness", Rows({"level": np.zeros(3)}))
    assert recompute("loudness", Rows({"value": np.array([1.0, 2.0])})) == 1.5
