"""What a run keeps of each sample: written, read, recomputed, the same bytes each time, and damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.judge.evaluate import Evaluation, evaluate
from harness.judge.metrics import own_metric, resolve_metrics
from harness.judge.samples import read_samples, recompute_all, write_samples
from harness.record.figure import Network

RNG = np.random.default_rng(9)
SCORES, LABELS = RNG.normal(size=(30, 5)), RNG.integers(0, 5, 30)
IDS = [f"Bild {index} ä.png" for index in range(30)]


def evaluation() -> Evaluation:
    metrics = [
        *resolve_metrics(["accuracy_top1", "accuracy_top3", "mean_accuracy"], lambda _: pytest.fail("no import")),
        own_metric("m:margin", lambda outputs, _labels: np.sort(outputs["x"], axis=1)[:, -1]),
        own_metric("m:spread", lambda outputs, _labels: float(outputs["x"].std())),
    ]
    chunks = [(IDS[i : i + 8], {"x": SCORES[i : i + 8]}, LABELS[i : i + 8]) for i in range(0, 30, 8)]
    return evaluate(chunks, metrics, target="t", network=Network.FLOAT)


def test_the_file_gives_every_value_back_but_that_of_the_whole_set(tmp_path: Path) -> None:
    made = evaluation()
    path, digest = write_samples(tmp_path, "this-machine", made, LABELS)
    assert path == "samples/this-machine.Floating-Point.npz"
    values = {result.name: result.value for result in made.results}
    del values["spread"]  # one number over the whole set
    assert recompute_all(tmp_path / path) == values
    assert recompute_all((tmp_path / path).read_bytes()) == values
    kept = read_samples(tmp_path / path)
    assert kept.ids == tuple(IDS)
    assert kept.labels is not None
    np.testing.assert_array_equal(kept.labels, LABELS)
    right = kept.rows["accuracy_top1"]["rank"] == 0
    np.testing.assert_array_equal(right, SCORES.argmax(axis=1) == LABELS)
    again = write_samples(tmp_path / "other", "this-machine", evaluation(), LABELS)
    assert again == (path, digest)


def test_a_changed_row_changes_the_value(tmp_path: Path) -> None:
    path = tmp_path / write_samples(tmp_path, "t", evaluation(), None)[0]
    with np.load(path) as archive:
        arrays: dict[str, Any] = dict(archive)
    arrays["accuracy_top1/rank"][:3] += 1
    np.savez(path, allow_pickle=False, **arrays)
    assert recompute_all(path)["accuracy_top1"] < recompute_all(path)["accuracy_top3"]
    assert recompute_all(path)["accuracy_top1"] <= evaluation().results[0].value


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_damage_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.npz: not a readable file of samples"):
        read_samples(tmp_path / "t.npz")


def test_python_objects_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not a readable"):
        read_samples(tmp_path / "t.npz")
    rows: dict[str, Any] = {"map/detections": np.array([{}], dtype=object)}
    np.savez(tmp_path / "u.npz", allow_pickle=True, ids=np.array(["a"]), **rows)
    with pytest.raises(UserError, match="not a readable"):
        read_samples(tmp_path / "u.npz")


def test_a_full_disk_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_samples(tmp_path, "t", evaluation(), None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"accuracy_top1/rank": np.zeros(2, np.int32)}, "has 2 samples, there are 3"),
        ({"x/value": np.array([1, np.nan, 2])}, "NaN"),
        ({"x/value": np.array(1.0)}, "column value is"),
        ({"miou/pairs.count": np.array([1, 1, 1]), "miou/pairs.truth": np.zeros(9, int)}, "has 9 entries"),
        ({"miou/pairs.count": np.array([2, -1, 1]), "miou/pairs.truth": np.zeros(2, int)}, "less than nothing"),
        ({"miou/pairs.truth": np.zeros(3, int)}, "has 3 entries"),
        ({"labels": np.zeros((3, 2))}, "labels are float64"),
    ],
)
def test_rows_that_cannot_be_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "t.npz", allow_pickle=False, ids=np.array(["a", "b", "c"]), **arrays)
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path / "t.npz")
