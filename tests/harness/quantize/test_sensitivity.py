"""What each layer costs: figures against networks made and run here, and a sweep that is killed and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize import Calibration, calibrate, quantize
from harness.quantize.fidelity import Score, gain_error_db
from harness.quantize.graph import read_model
from harness.quantize.journal import Journal, fingerprint
from harness.quantize.sensitivity import COLUMNS, sensitivity

REPOSITORY = Path(__file__).parents[3]
Images = NDArray[np.float32]


def outputs_of(model: Path, x: Images, run: Callable[..., Any]) -> Images:
    network = read_model(model)
    # What the softmax reads: int8 logits after their rounding.
    logits = next(node.input[0] for node in network.graph.node if node.name == "scores")
    network.graph.output.append(onnx.ValueInfoProto(name=logits))
    result: Images = run(network, {"image": x}, [logits])[0]
    return result


def db(reference: Images, other: Images) -> float:
    return float(10 * np.log10(np.sum(reference.astype(float) ** 2) / np.sum((reference.astype(float) - other) ** 2)))


@pytest.fixture
def x(images: Callable[..., Images]) -> Images:
    return images(12, seed=5)


@pytest.fixture
def calibration(branched: Path, images: Callable[..., Images]) -> Calibration:
    return calibrate(branched, [{"image": images(16)}], environment="fpga", layers="all")


def ranked(branched: Path, calibration: Calibration, x: Images, **options: Any) -> pd.DataFrame:  # noqa: ANN401 (as sensitivity)
    return sensitivity(branched, calibration, environment="fpga", method="minmax", held_back=[{"image": x}], **options)


def test_figures_are_those_of_networks_made_and_run_by_hand(
    branched: Path, tmp_path: Path, calibration: Calibration, x: Images, run: Callable[..., Any]
) -> None:
    table = ranked(branched, calibration, x)
    reference = outputs_of(branched, x, run)

    def made(*floats: str) -> float:
        out = quantize(
            branched, calibration, environment="fpga", method="minmax", exclude=floats, recover=["bias-correction"],
            out=tmp_path / "q.onnx", held_back=[{"image": x}],
        )  # fmt: skip
        return db(reference, outputs_of(out.path, x, run))

    assert list(table.columns) == list(COLUMNS)
    layers = list(table["Layer"])
    assert {"stem", "depthwise", "pointwise", "sum", "left", "right", "logits"} <= set(layers)
    assert "pool" not in layers  # moves values only
    all_int8 = made()
    assert table.attrs["int8_db"] == pytest.approx(all_int8, abs=0.02)
    for row in table.to_dict("records"):
        assert row["gain_db"] == pytest.approx(made(row["Layer"]) - all_int8, abs=0.02), row["Layer"]
        if not np.isnan(row["alone_db"]):
            alone = made(*(name for name in layers if name != row["Layer"]))
            assert row["alone_db"] == pytest.approx(alone, abs=0.02), row["Layer"]
    assert list(table["gain_db"]) == sorted(table["gain_db"], reverse=True)


def test_the_layer_that_was_spoilt_comes_first(
    tmp_path: Path, builder: Callable[..., Any], images: Callable[..., Images]
) -> None:
    """Weights that nothing ever reaches are large: under one scale per tensor the others round to almost nothing."""
    net = builder(3)
    data = "image"
    for name in ("one", "two", "three", "four"):
        w = (net.rng.normal(size=(3, 3, 3, 3)) * 0.3).astype(np.float32)
        if name == "two":
            w[2] = 0  # so that channel 2 of what the third layer reads is 0
        if name == "three":
            w[:, 2] = 30
        net.constant(f"{name}.w", w)
        net.add("Conv", [data, f"{name}.w"], name, pads=[1] * 4)
        data = net.add("Relu", [name], f"{name}.relu")
    path = tmp_path / "net.onnx"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"four.relu": ["N", 3, 8, 8]}), path)
    calibration = calibrate(path, [{"image": images(16)}], environment="fpga", layers="all")
    table = sensitivity(path, calibration, environment="fpga", method="minmax", held_back=[{"image": images(8, 7)}])
    assert table["Layer"][0] == "three"
    assert table["gain_db"][0] > 5 > table["gain_db"][1]
    assert table["alone_db"].idxmin() == 0


@pytest.mark.parametrize("environment", ["gpu", "cpu", "fpga", "host"])
def test_every_environment_and_a_calibration_of_the_needed_tensors(
    branched: Path, images: Callable[..., Images], x: Images, environment: str
) -> None:
    """Without what joins tensors (a concatenation, a residual sum) others are quantized than were observed."""
    calibration = calibrate(branched, [{"image": images(16)}], environment=environment)
    table = sensitivity(branched, calibration, environment=environment, held_back=[{"image": x}])
    assert len(table) >= 6
    assert np.isfinite(table["gain_db"]).all()
    for row in table.to_dict("records"):
        assert np.isfinite(row["alone_db"]) or row["Note"].startswith("not int8 alone: ")


def test_what_becomes_float_together_is_said(branched: Path, images: Callable[..., Images], x: Images) -> None:
    """On a GPU a residual sum is int8 only inside the convolution before it."""
    calibration = calibrate(branched, [{"image": images(16)}], environment="gpu")
    table = sensitivity(branched, calibration, environment="gpu", method="minmax", held_back=[{"image": x}])
    rows = table.set_index("Layer")
    assert "sum" in str(rows.loc["pointwise", "Also float"]).split("+")
    assert rows.loc["depthwise", "Fused"] == "depthwise+clip"


def test_labels_give_accuracy_in_points_and_scores_an_agreement(
    branched: Path, calibration: Calibration, x: Images, run: Callable[..., Any]
) -> None:
    float_classes = run(branched, {"image": x})[0].argmax(axis=1)
    table = ranked(branched, calibration, x, labels=float_classes)
    # Labels are the float network's own classes: its accuracy is 1, an accuracy is an agreement, in points.
    assert table["gain_points"].to_numpy() == pytest.approx(100 * table["agreement_gain"].to_numpy())
    alone = table["alone_loss_points"].dropna()
    assert alone.to_numpy() == pytest.approx(100 * (1 - table["alone_agreement"].dropna().to_numpy()))
    without = ranked(branched, calibration, x)
    assert without["gain_points"].isna().all()
    with pytest.raises(UserError, match="5 labels for 12 samples"):
        ranked(branched, calibration, x, labels=float_classes[:5])
    with pytest.raises(UserError, match="metric 'top1' is unknown"):
        ranked(branched, calibration, x, labels=float_classes, metric="top1")


def test_processes_change_nothing_but_time(branched: Path, calibration: Calibration, x: Images) -> None:
    seen: list[tuple[int, int]] = []
    alone = ranked(branched, calibration, x)
    several = ranked(branched, calibration, x, processes=3, progress=lambda done, total, _: seen.append((done, total)))
    pd.testing.assert_frame_equal(alone, several)
    assert seen == [(done, len(alone)) for done in range(1, len(alone) + 1)]


def test_scripts_need_no_main_guard(branched: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, numpy as np\n"
        "from harness.quantize import calibrate\n"
        "from harness.quantize.sensitivity import sensitivity\n"
        "x = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)\n"
        f"model = pathlib.Path({str(branched)!r})\n"
        "c = calibrate(model, [{'image': x}], layers='all')\n"
        "print(len(sensitivity(model, c, held_back=[{'image': x}], processes=2, method='minmax')))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6


def test_a_worker_that_dies_is_one_line(branched: Path, calibration: Calibration, x: Images) -> None:
    with pytest.raises(UserError, match=r"a worker process died at '\w+' \(exit [17]"):
        # Sent by its name: whether the child finds the function or cannot import it, it dies.
        ranked(branched, calibration, x, labels=np.zeros(12, int), metric=_Fatal(), processes=2)
    with pytest.raises(UserError, match="cannot be sent to another process"):
        ranked(branched, calibration, x, labels=np.zeros(12, int), metric=lambda *_: 0.0, processes=2)


class _Fatal:
    """Harmless here, deadly in a child."""

    __qualname__ = "_Fatal"

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __call__(self, outputs: Images, labels: Images) -> float:
        if os.getpid() != self.parent:
            os._exit(7)
        return 0.0


# -- the journal ------------------------------------------------------------------------------------------------------


def lines_of(journal: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


SWEEP = """
import pathlib, pickle, sys
from harness.quantize.sensitivity import sensitivity
arguments = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
sensitivity(**arguments, progress=lambda done, total, layer: print(done, flush=True))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_sweep_goes_on_where_it_was(
    branched: Path, tmp_path: Path, calibration: Calibration, x: Images, processes: int
) -> None:
    import pickle

    journal = tmp_path / "sweep.jsonl"
    arguments: dict[str, Any] = {
        "model": branched, "calibration": calibration, "environment": "fpga", "method": "minmax",
        "held_back": [{"image": x}], "resume": journal, "processes": processes,
    }  # fmt: skip
    (tmp_path / "arguments").write_bytes(pickle.dumps(arguments))
    child = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(tmp_path / "arguments")], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"1\n"
    assert child.stdout.readline() == b"2\n"
    child.kill()
    child.wait()
    child.stdout.close()
    done = [line["piece"] for line in lines_of(journal)]
    whole = ranked(branched, calibration, x)
    assert 2 <= len(done) < len(whole)

    measured: list[tuple[int, str]] = []
    resumed = sensitivity(**arguments, progress=lambda count, _, layer: measured.append((count, layer)))
    pd.testing.assert_frame_equal(whole, resumed)
    assert {layer for _, layer in measured[: len(done)]} == set(done)
    pieces = [line["piece"] for line in lines_of(journal)]
    assert pieces[: len(done)] == done
    assert sorted(pieces) == sorted(whole["Layer"])  # none twice


def test_the_journal_is_of_one_network_data_and_method(
    branched: Path, tmp_path: Path, calibration: Calibration, x: Images, images: Callable[..., Images]
) -> None:
    journal = tmp_path / "j"
    first = ranked(branched, calibration, x, resume=journal)
    size = journal.stat().st_size
    pd.testing.assert_frame_equal(first, ranked(branched, calibration, x, resume=journal))
    assert journal.stat().st_size == size
    others: list[dict[str, Any]] = [
        {"held_back": [{"image": images(12, seed=9)}]},
        {"method": "mse"},
        {"exclude": ["stem"]},
    ]
    for change in others:
        arguments = {"environment": "fpga", "method": "minmax", "held_back": [{"image": x}], **change}
        sensitivity(branched, calibration, **arguments, resume=journal)
        assert journal.stat().st_size > size, change
        size = journal.stat().st_size
    again = calibrate(branched, [{"image": images(16)}], environment="fpga", layers="all")
    pd.testing.assert_frame_equal(first, ranked(branched, again, x, resume=journal))  # the same data, the same key
    assert journal.stat().st_size == size


def test_a_torn_line_costs_one_layer(branched: Path, tmp_path: Path, calibration: Calibration, x: Images) -> None:
    journal = tmp_path / "j"
    whole = ranked(branched, calibration, x, resume=journal)
    content = journal.read_bytes()
    journal.write_bytes(content[:-40])
    pd.testing.assert_frame_equal(whole, ranked(branched, calibration, x, resume=journal))
    key = lines_of_whole(journal)[0]["key"]
    assert set(Journal(journal, key).done) == set(whole["Layer"])


def lines_of_whole(journal: Path) -> list[dict[str, Any]]:
    """The lines that are whole: a torn one stays between them."""
    return [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}}")]


def test_what_is_no_journal_is_refused(branched: Path, tmp_path: Path, calibration: Calibration, x: Images) -> None:
    (tmp_path / "notes.txt").write_text("my notes\nof today\n")
    with pytest.raises(UserError, match=r"notes\.txt, line 1: not a journal"):
        ranked(branched, calibration, x, resume=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "my notes\nof today\n"
    with pytest.raises(UserError, match="cannot be written"):
        ranked(branched, calibration, x, resume=tmp_path / "no" / "j")


def test_fingerprints_tell_values_apart() -> None:
    values: list[object] = [
        1, "1", 1.0, None, [1], [[1]], {"a": 1}, {"a": "1"}, np.zeros(2), np.zeros(2, np.float32), np.zeros((2, 1)),
        ["ab", "c"], ["a", "bc"],
    ]  # fmt: skip
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    with pytest.raises(TypeError, match="no fingerprint of a object"):
        fingerprint(object())


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_children(branched: Path, tmp_path: Path, x: Images) -> None:
    np.savez(tmp_path / "data.npz", image=np.concatenate([x] * 20))
    journal = tmp_path / "j"
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "sensitivity", str(branched), "--data", str(tmp_path / "data.npz"),
         "--environment", "cpu", "--processes", "2", "--held-back", "120", "--journal", str(journal)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    children: list[int] = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not (journal.exists() and len(children) == 2):
        children = children_of(process.pid)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert lines_of(journal)


def children_of(parent: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except FileNotFoundError:
        return []


def test_the_error_of_a_gain_against_resampling() -> None:
    """The jackknife beside the spread of the same gain over fresh draws of samples."""
    rng = np.random.default_rng(4)

    def draw() -> tuple[Score, Score]:
        base = rng.gamma(4.0, size=40)
        better = base * rng.uniform(0.4, 0.6, size=40)
        return Score(0, None, None, (tuple(better),)), Score(0, None, None, (tuple(base),))

    def gain(better: Score, worse: Score) -> float:
        return float(10 * np.log10(sum(worse.noise[0]) / sum(better.noise[0])))

    draws = [draw() for _ in range(400)]
    spread = np.std([gain(*one) for one in draws])
    errors = [error for one in draws if (error := gain_error_db(*one)) is not None]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    assert gain_error_db(Score(0, None, None, ((1.0,),)), Score(0, None, None, ((2.0,),))) is None


def test_bad_arguments_are_one_line(branched: Path, calibration: Calibration, x: Images) -> None:
    with pytest.raises(UserError, match="processes=0"):
        ranked(branched, calibration, x, processes=0)
    with pytest.raises(UserError, match="no layer 'stm'; did you mean 'stem'"):
        ranked(branched, calibration, x, exclude=["stm"])
    with pytest.raises(UserError, match="labels belong to held_back"):
        sensitivity(branched, calibration, environment="fpga", labels=np.zeros(16))
