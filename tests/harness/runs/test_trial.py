"""What a job's own metric gets wrong is told before a board is asked."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from harness.errors import UserError
from harness.job import parse_job
from harness.judge.metrics import own_metric
from harness.runs.engine import start
from harness.runs.interrupt import Interrupted
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import QUICK
from harness.runs.trial import Trial, try_metrics
from harness.store import open_store
from harness.targets.lab import load_lab
from tests.e2e.whole_run import tiny_network

FUNCTIONS = """
import numpy as np

def right(outputs, labels):
    (y,) = outputs.values()
    return (y.reshape(len(y), -1).argmax(axis=1) == labels).astype(float)

def margin(outputs, labels):
    (y,) = outputs.values()
    return np.sort(y.reshape(len(y), -1), axis=1)[:, -1]

def odd(outputs, labels):
    values = np.ones(len(labels))
    values[labels == 7] = np.inf
    return values

def nothing(outputs, labels):
    return float("nan")

def needs_both(outputs, labels):
    return 1.0 / (labels == 3).sum() if (labels == 3).any() else float("nan")

def needs_both_or_raises(outputs, labels):
    if not (labels == 3).any():
        raise ValueError("only one class is present")
    return 1.0

def first_key(outputs, labels):
    return float(outputs["boxes"].sum())

def halves(outputs):
    return {name: y / 0.5 for name, y in outputs.items()}

def holes(outputs):
    return {name: np.full_like(y, np.nan) for name, y in outputs.items()}
"""


def plan_of(folder: Path, text: str, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Plan:
    tiny_network(folder / "tiny.onnx")
    x = np.random.default_rng(1).standard_normal((len(labels), 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=labels)
    (folder / "own.py").write_text(FUNCTIONS)
    (folder / "targets.yaml").write_text("targets:\n  board: {board: generic, environment: cpu, via: local}\n")
    text = f"name: tiny\nmodel: tiny.onnx\ndata: {{source: data.npz, calibration: 4}}\n{text}"
    job = parse_job(text, folder / "job.yaml")
    return make_plan(job, load_lab(folder / "targets.yaml"), None, profile=QUICK, split_name="all", out=folder / "out")


def zeros(count: int, **others: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = np.zeros(count, np.int64)
    for at, label in others.items():
        labels[int(at.removeprefix("at"))] = label
    return labels


def test_a_value_that_is_no_number_names_function_sample_and_value(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "metrics: ['own:odd']\n", zeros(30, at29=7))
    with pytest.raises(UserError, match=r"^metric f: it returned nan for all 30 samples"):
        try_metrics(plan, metrics=[own_metric("f", lambda _outputs, _labels: np.nan)])
    with pytest.raises(UserError, match=r"^metric own:odd: it returned inf for sample '29' of Floating-Point"):
        try_metrics(plan)


def test_no_board_is_asked_before_the_metric_is_known_to_work(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "metrics: ['own:nothing']\n", zeros(12))
    store = open_store(str(tmp_path / "q.db"))
    with pytest.raises(UserError, match=r"own:nothing: it returned nan for all 12 samples"):
        start(plan, store)
    (record,) = store.targets(plan.run_id)
    assert record.status == "pending"
    assert record.description is None
    assert not list((plan.out / "artifacts").iterdir())  # nor was anything quantized
    store.close()


@pytest.mark.parametrize("metric", ["needs_both", "needs_both_or_raises"])
@pytest.mark.parametrize("count", [30, 200])
def test_a_number_that_needs_more_than_a_few_samples_gets_them(tmp_path: Path, metric: str, count: int) -> None:
    assert try_metrics(plan_of(tmp_path, f"metrics: ['own:{metric}']\n", zeros(count, at1=3))) == Trial()


def test_what_some_samples_cannot_tell_is_said_and_not_refused(tmp_path: Path) -> None:
    found = try_metrics(plan_of(tmp_path, "metrics: ['own:needs_both']\n", zeros(600, at6=3)))
    (note,) = found.notes
    assert "own:needs_both: it returned nan for all 512 samples" in note
    assert "512 of 600 samples" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics: ['own:first_key']\n", r"metric own:first_key: it raised KeyError: 'boxes'"),
        ("metrics: ['own:right']\npostprocess: own:holes\n", r"after postprocess: NaN or infinite values in output"),
        ("metrics: ['accuracy_top1']\npostprocess: own:first_key\n", r"own:first_key failed: TypeError"),
    ],
)
def test_functions_that_fail_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        try_metrics(plan_of(tmp_path, text, zeros(20)))


def test_a_metric_that_is_right_or_wrong_is_known_as_one(tmp_path: Path) -> None:
    labels = np.arange(30, dtype=np.int64) % 4
    text = "metrics: [accuracy_top1, 'own:right', 'own:margin']\npostprocess: own:halves\n"
    assert try_metrics(plan_of(tmp_path, text, labels)).right_or_wrong == {"accuracy_top1", "right"}


def test_a_recurrent_network_carries_its_state_to_the_metric(tmp_path: Path) -> None:
    """y = x + h, h' = y: the outputs are running sums, which a metric sees in the order of time."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Identity", ["y"], ["h2"])],
        "sum",
        [value("x", TensorProto.FLOAT, [1, 1]), value("h", TensorProto.FLOAT, [1, 1])],
        [value("y", TensorProto.FLOAT, [1, 1]), value("h2", TensorProto.FLOAT, [1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((10, 1), np.float32), labels=np.arange(10))
    (tmp_path / "own.py").write_text(
        "import numpy as np\n\ndef sums(outputs, labels):\n"
        "    assert list(outputs) == ['y'], list(outputs)\n"
        "    return (outputs['y'].ravel() == labels + 1).astype(float)\n"
        "\ndef lost(outputs, labels):\n    return np.where(outputs['y'].ravel() > 5, np.nan, 1.0)\n"
    )
    (tmp_path / "targets.yaml").write_text("targets:\n  board: {board: generic, environment: cpu, via: local}\n")
    text = "name: s\nmodel: s.onnx\ndata: {source: data.npz, calibration: 2}\nstate: {h: h2}\n"

    def tried(metric: str) -> Trial:
        job = parse_job(f"{text}metrics: ['own:{metric}']\n", tmp_path / "job.yaml")
        lab = load_lab(tmp_path / "targets.yaml")
        return try_metrics(make_plan(job, lab, None, profile=QUICK, split_name="all", out=tmp_path / "out"))

    assert tried("sums").right_or_wrong == {"sums"}
    with pytest.raises(UserError, match=r"own:lost: it returned nan for sample '5'"):
        tried("lost")


def test_a_run_that_is_stopped_stops_trying(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "metrics: ['own:margin']\n", zeros(40))
    store = open_store(str(tmp_path / "q.db"))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="quantrig resume"):
        start(plan, store, stop=stop)
    assert store.run(plan.run_id).status == "interrupted"
    store.close()


def test_class_scores_that_nobody_can_find_are_told_too(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])],
        "two",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("a", TensorProto.FLOAT, ["N", 4]), value("b", TensorProto.FLOAT, ["N", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "t.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((10, 4), np.float32), labels=np.zeros(10, np.int64))
    (tmp_path / "targets.yaml").write_text("targets:\n  board: {board: generic, environment: cpu, via: local}\n")
    job = parse_job("name: t\nmodel: t.onnx\ndata: {source: data.npz, calibration: 2}\n", tmp_path / "job.yaml")
    plan = make_plan(job, load_lab(tmp_path / "targets.yaml"), None, profile=QUICK, out=tmp_path / "out")
    with pytest.raises(UserError, match=r"2 outputs \(a, b\): let postprocess return the one with the class scores"):
        try_metrics(plan)
