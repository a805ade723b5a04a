"""`harness.Quantizer.validate` on real agents: a measured target, a stand-in, and boards that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import harness
from harness.errors import BadResult, Unreachable, UserError
from harness.quantize.validation import MetricFunction, ValidationResult
from harness.targets.lab import load_lab
from tests.e2e.whole_run import labels_of, tiny_network

FLOAT, INT8 = "Floating-Point", "Quantized"
SAMPLES = 90

Images = npt.NDArray[np.float32]
Truth = npt.NDArray[np.int64]

LAB = """\
targets:
  here: {board: generic, environment: cpu, via: local}
  stand-in: {board: raspberry-pi-4, environment: cpu, via: emulated}
  fabric: {board: zcu102, environment: fpga, via: emulated}
  gone: {board: generic, environment: cpu, via: {address: "127.0.0.1:9"}}
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab is found in the current folder; agents keep their data apart from the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("QUANTRIG_STORE", str(tmp_path / "must-not-exist.db"))
    (tmp_path / "targets.yaml").write_text(LAB)


@pytest.fixture
def x() -> Images:
    return np.random.default_rng(1).standard_normal((SAMPLES, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def truth(tmp_path: Path, x: Images) -> Truth:
    tiny_network(tmp_path / "tiny.onnx")
    labels = labels_of(tmp_path / "tiny.onnx", x)
    labels[: SAMPLES // 3] = (labels[: SAMPLES // 3] + 1) % 4  # the float network is right on two thirds
    return labels


@pytest.fixture
def quantizer(tmp_path: Path, x: Images, truth: Truth) -> harness.Quantizer:
    made = harness.Quantizer("tiny.onnx", environment="cpu")
    made.calibrate([{"x": x[:40]}])
    made.quantize(tmp_path / "tiny.int8.onnx", method="minmax")
    return made


def by_network(result: ValidationResult, metric: str) -> dict[str, float]:
    table = result.MetricResults[result.MetricResults.Metric == metric]
    assert list(table.NetworkImplementation) == [FLOAT, INT8]
    return dict(zip(table.NetworkImplementation, table.MetricOutput, strict=True))


def test_a_stand_in_gives_accuracy_and_no_time(quantizer: harness.Quantizer, x: Images, truth: Truth) -> None:
    result = quantizer.validate([(x[:50], truth[:50]), (x[50:], truth[50:])], target="stand-in")

    assert result.NumSamples == SAMPLES
    assert by_network(result, "accuracy_top1")[FLOAT] == pytest.approx(2 / 3)
    assert list(result.Statistics.NetworkImplementation) == [FLOAT, INT8]
    assert result.Statistics.FramesPerSecond.isna().all()
    memory = result.Statistics["LearnableParameterMemory(bytes)"]
    assert memory[0] == 4 * (16 * 27 + 16 + 4 * 16 + 4)
    assert memory[1] < memory[0] / 2
    assert result.sqnr_db > 15
    assert result.top1_agreement is not None
    assert result.top1_agreement > 0.9


def test_the_stand_in_and_this_machine_agree(quantizer: harness.Quantizer, x: Images, truth: Truth) -> None:
    """Emulated by the agent or by the session itself: the same two files, the same runtime, the same numbers."""

    def sure(scores: Images, labels: Truth) -> float:
        return float(scores[np.arange(len(labels)), labels].mean())

    metrics: list[str | MetricFunction] = ["accuracy_top2", sure]
    there = quantizer.validate([(x, truth)], target="stand-in", metrics=metrics)
    here = quantizer.validate([(x, truth)], metrics=metrics)

    assert by_network(there, "accuracy_top2") == by_network(here, "accuracy_top2")
    for arm, value in by_network(there, "sure").items():
        assert value == pytest.approx(by_network(here, "sure")[arm], rel=1e-5)
    assert there.sqnr_db == pytest.approx(here.sqnr_db, abs=0.01)
    assert there.top1_agreement == here.top1_agreement


def test_a_real_target_is_timed(quantizer: harness.Quantizer, tmp_path: Path, x: Images, truth: Truth) -> None:
    np.savez(tmp_path / "data.npz", x=x, labels=truth)
    result = quantizer.validate("data.npz", target="here", out="kept")

    assert (result.Statistics.FramesPerSecond > 0).all()
    assert (result.Statistics["CPU Utilization (%)"] > 0).all()
    record = json.loads((tmp_path / "kept" / "run.json").read_text())
    (target,) = record["targets"]
    assert target["quantized"]["digest"] == quantizer.quantized.digest  # type: ignore[union-attr]
    assert record["samples"] == SAMPLES
    published = {(f["network"], f["metric"]): f["value"] for f in record["figures"]}
    assert published[INT8, "accuracy_top1"] == by_network(result, "accuracy_top1")[INT8]
    assert (tmp_path / "kept" / "quantrig.db").exists()
    assert not (tmp_path / "must-not-exist.db").exists()


def test_without_out_nothing_is_kept(quantizer: harness.Quantizer, tmp_path: Path, x: Images, truth: Truth) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    quantizer.validate([(x, truth)], target="stand-in")
    assert {path.name for path in tmp_path.iterdir()} - before <= {"cache"}


def test_a_target_may_be_handed_over_as_it_is(
    quantizer: harness.Quantizer, tmp_path: Path, x: Images, truth: Truth
) -> None:
    target = load_lab(tmp_path / "targets.yaml").targets["fabric"]
    (tmp_path / "targets.yaml").unlink()
    result = quantizer.validate([(x, truth)], target=target, out="kept")

    fabric = ["Number of Threads (Convolution)", "LUT Utilization (%)", "DSP Utilization (%)"]
    assert not set(fabric) & set(result.Statistics.columns)  # the session's rules are a CPU's
    (record,) = json.loads((tmp_path / "kept" / "run.json").read_text())["targets"]
    assert (record["board"], record["environment"]) == ("zcu102", "cpu")


def test_an_fpga_has_its_own_columns_with_their_sources_on_a_stand_in(tmp_path: Path, x: Images, truth: Truth) -> None:
    quantizer = harness.Quantizer("tiny.onnx", environment="fpga")
    quantizer.calibrate([{"x": x[:40]}])
    quantizer.quantize(tmp_path / "q.onnx", method="minmax")
    statistics = quantizer.validate([(x, truth)], target="fabric", lab=tmp_path / "targets.yaml").Statistics
    assert statistics["Number of Threads (Fully Connected)"].isna().all()  # a DPU has none
    assert statistics["FramesPerSecond"].isna().tolist() == [True, False]  # … and no float network
    assert statistics["Source (FramesPerSecond)"].tolist() == [None, "modelled"]
    assert statistics["BlockRAM Utilization (%)"].isna().tolist() == [True, False]
    assert statistics["Source (Utilization)"].tolist() == [None, "modelled"]  # three cores: three times one's
    assert statistics["Clock (MHz)"].tolist()[1] == 281


def test_data_without_labels_still_compares_outputs(quantizer: harness.Quantizer, x: Images) -> None:
    result = quantizer.validate([{"x": x}], target="stand-in")
    assert len(result.MetricResults) == 0
    assert result.sqnr_db > 15
    with pytest.raises(UserError, match="one label per sample"):
        quantizer.validate([{"x": x}], target="stand-in", metrics=["accuracy_top1"])


def test_a_function_that_gives_nan_is_told_before_a_board_is_asked(
    quantizer: harness.Quantizer, x: Images, truth: Truth
) -> None:
    def lost(scores: Images, labels: Truth) -> float:
        return float("nan") * float(scores[0, labels[0]])

    with pytest.raises(UserError, match=r"^metric lost: it returned nan for all \d+ samples of Floating-Point on this"):
        quantizer.validate([(x, truth)], target="stand-in", metrics=[lost])


def test_a_metric_of_a_module_means_the_same_here_and_there(
    quantizer: harness.Quantizer, tmp_path: Path, x: Images, truth: Truth
) -> None:
    (tmp_path / "ours.py").write_text(
        "def margin(outputs, labels):\n"
        "    scores = outputs['y']\n"
        "    return scores[range(len(labels)), labels] - scores.min(axis=1)\n"
    )
    session = onnxruntime.InferenceSession("tiny.onnx", providers=["CPUExecutionProvider"])
    y = np.asarray(session.run(None, {"x": x})[0])
    expected = float((y[np.arange(SAMPLES), truth] - y.min(axis=1)).mean())
    for target in (None, "stand-in"):
        result = quantizer.validate([(x, truth)], target=target, metrics=["ours:margin"])
        assert by_network(result, "margin")[FLOAT] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("where", [None, "stand-in"])
def test_bad_metrics_are_one_line_before_anything_runs(
    quantizer: harness.Quantizer, tmp_path: Path, x: Images, truth: Truth, where: str | None
) -> None:
    def broken(outputs: Images, labels: Truth) -> float:
        raise KeyError("boxes")

    with pytest.raises(UserError, match="did you mean accuracy_top1"):
        quantizer.validate([(x, truth)], target=where, metrics=["acuracy_top1"])
    with pytest.raises(UserError, match="only 4 classes"):
        quantizer.validate([(x, truth)], target=where, metrics=["accuracy_top9"])
    with pytest.raises(UserError, match=r"metric broken: it raised KeyError"):
        quantizer.validate([(x, truth)], target=where, metrics=[broken])


def test_unreachable_boards_and_impossible_outputs_have_their_class(
    quantizer: harness.Quantizer, x: Images, truth: Truth
) -> None:
    with pytest.raises(Unreachable, match=r"^gone: ") as caught:
        quantizer.validate([(x, truth)], target="gone")
    assert "\n" not in str(caught.value)
    huge = x.copy()
    huge[7] = 3e38
    with pytest.raises(BadResult, match="NaN or infinity for sample 7"):
        quantizer.validate([(huge, truth)], target="stand-in")


def test_what_is_missing_is_said(quantizer: harness.Quantizer, tmp_path: Path, x: Images, truth: Truth) -> None:
    fresh = harness.Quantizer("tiny.onnx")
    with pytest.raises(UserError, match="call quantize"):
        fresh.validate([(x, truth)], target="stand-in")
    with pytest.raises(UserError, match="no target 'stand'"):
        quantizer.validate([(x, truth)], target="stand")
    with pytest.raises(UserError, match="outside the 4 classes"):
        quantizer.validate([(x, truth + 9)], target="stand-in")
    with pytest.raises(UserError, match="such data"):
        quantizer.validate("nowhere.npz", target="stand-in")
    (tmp_path / "targets.yaml").unlink()
    with pytest.raises(UserError, match=r"no targets\.yaml here"):
        quantizer.validate([(x, truth)], target="stand-in")


def test_an_iterable_is_read_once_as_a_stream(quantizer: harness.Quantizer, x: Images, truth: Truth) -> None:
    seen: list[int] = []

    def pieces() -> Iterator[tuple[dict[str, Images], Truth]]:
        for start in range(0, SAMPLES, 7):
            seen.append(start)
            yield {"x": x[start : start + 7]}, truth[start : start + 7]

    result = quantizer.validate(pieces(), target="stand-in")
    assert result.NumSamples == SAMPLES
    assert by_network(result, "accuracy_top1")[FLOAT] == pytest.approx(2 / 3)
    assert seen == list(range(0, SAMPLES, 7))


def test_a_loaded_session_is_of_the_same_class(quantizer: harness.Quantizer, tmp_path: Path) -> None:
    assert type(harness.Quantizer.load(quantizer.save(tmp_path / "s.quantrig"))) is harness.Quantizer
