"""A board's outputs beside the exact reference: what differs by k steps is found as k LSB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from harness.emulation import lower
from harness.emulation.arithmetic import find_arithmetic
from harness.evidence.again import distances_again, same
from harness.job import parse_job
from harness.judge.reference import apart_file, outputs_file, read_apart, read_reference
from harness.quantize import calibrate, quantize
from harness.record.figure import Figure, Network, Source
from harness.record.networks import QuantizedRecord
from harness.record.target import TargetRecord
from harness.runs.outputs import OutputStore
from harness.runs.plan import Plan, make_plan
from harness.runs.profile import QUICK
from harness.runs.reference import reference_figures
from harness.runs.samples import SampleReader
from harness.store import Store, open_store
from harness.targets.lab import load_lab
from tests.e2e.whole_run import tiny_network

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Case:
    """A run of a tiny network on a real (or stand-in) board, up to its outputs."""

    def __init__(self, folder: Path, environment: str) -> None:
        self.environment = environment
        model = folder / "tiny.onnx"
        tiny_network(model)
        x = np.random.default_rng(1).standard_normal((70, 3, 8, 8)).astype(np.float32)
        np.savez(folder / "data.npz", x=x, labels=np.zeros(70, np.int64))
        made = quantize(
            model, calibrate(model, [{"x": x[:20]}], environment=environment, layers="needed"),
            environment=environment, out=folder / "int8.onnx",
        )  # fmt: skip
        self.int8 = made.path
        self.disabled = tuple(made.disabled_optimizers)
        (folder / "targets.yaml").write_text(
            f"targets:\n  board: {{board: generic, environment: {environment}, via: local}}\n"
        )
        job = parse_job(
            "name: tiny\nmodel: tiny.onnx\nquantized: int8.onnx\n"
            "data: {source: data.npz, calibration: 20}\ngates: {lsb: {at_most: 1}}\n",
            folder / "job.yaml",
        )
        self.plan: Plan = make_plan(job, load_lab(folder / "targets.yaml"), None, profile=QUICK, out=folder / "out")
        self.plan.out.mkdir()
        self.store: Store = open_store(str(folder / "q.db"))
        self.record = TargetRecord(
            "board", "generic", environment, "local", Source.MEASURED, "done",
            quantized=QuantizedRecord(environment, "0" * 64, "minmax", 5, (), (), self.disabled),
        )  # fmt: skip
        self.x = x[list(self.plan.samples)]

    def right(self) -> Array:
        """What the arithmetic says, by ONNX Runtime alone."""
        path = self.int8
        disabled = self.disabled
        if self.environment != "cpu":
            made = lower(self.int8, find_arithmetic(self.environment))
            path = self.plan.out / "lowered.onnx"
            made.save(path)
            disabled = tuple(made.disabled_optimizers)
        options = onnxruntime.SessionOptions()
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled) or None
        )
        (y,) = session.run(None, {"x": self.x})
        return np.asarray(y)

    def figure(self, outputs: Array) -> Figure:
        """The row, for a board that answered this."""
        self.store.create_run(
            self.plan.run_id, job_name="tiny", started="", out=self.plan.out, model_digest="", request={}
        )
        self.store.save_target(self.plan.run_id, self.record)
        reader = SampleReader(self.plan.data, self.plan.samples)
        kept = OutputStore(self.store, self.plan.run_id, "board", self.plan.out)
        for chunk in reader.chunks:
            start = chunk * reader.chunk_samples
            kept.add(Network.QUANTIZED, chunk, {"y": outputs[start : start + reader.chunk_samples]})
        (found,) = reference_figures(self.plan, self.store, [self.record], reader)
        self.store.close()
        return found


@pytest.mark.parametrize("environment", ["cpu", "fpga"])
def test_the_references_own_outputs_are_0_lsb_away(tmp_path: Path, environment: str) -> None:
    case = Case(tmp_path, environment)
    found = case.figure(case.right())
    assert (found.value, found.n, found.unit, found.source) == (0.0, 50, "LSB", Source.MEASURED)
    assert "0 of 200 values differ" in found.note


def test_a_value_three_steps_off_is_3_lsb(tmp_path: Path) -> None:
    case = Case(tmp_path, "fpga")
    model = onnx.load(case.int8)
    (last,) = [node for node in model.graph.node if "y" in node.output]
    assert last.op_type == "DequantizeLinear"
    scale = next(float(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name == last.input[1])
    outputs = case.right().copy()
    outputs[7, 2] += np.float32(3 * scale)
    outputs[40, 1] -= np.float32(scale)
    found = case.figure(outputs)
    assert found.value == pytest.approx(3, rel=1e-4)
    assert "2 of 200 values differ" in found.note
    assert "own quantization step" in found.note
    apart = read_apart((case.plan.out / apart_file("board")).read_bytes())
    assert apart.ids == tuple(case.plan.data.ids[i] for i in case.plan.samples)
    assert np.flatnonzero(apart.differing[:, 0]).tolist() == [7, 40]


def test_an_output_that_stays_float_counts_in_127ths_of_its_largest(tmp_path: Path) -> None:
    case = Case(tmp_path, "cpu")
    outputs = case.right().copy()
    largest = float(np.abs(outputs).max())
    outputs[3, 3] += np.float32(largest / 127 * 2.5)
    found = case.figure(outputs)
    assert found.value == pytest.approx(2.5, rel=1e-4)
    assert "stays float" in found.note


@pytest.mark.parametrize("environment", ["cpu", "fpga"])
def test_the_references_outputs_are_kept_and_bear_the_distances_out(tmp_path: Path, environment: str) -> None:
    case = Case(tmp_path, environment)
    outputs = case.right().copy()
    outputs[7, 2] += np.float32(0.3)
    case.figure(outputs)
    kept = read_apart((case.plan.out / apart_file("board")).read_bytes())
    reference = read_reference((case.plan.out / outputs_file("board")).read_bytes())
    np.testing.assert_array_equal(reference["y"], case.right())
    board = [{"y": outputs[:20]}, {"y": outputs[20:]}]
    again, why = distances_again(kept, reference, board, case.int8.read_bytes())
    assert again is not None, why
    assert same(again, kept)
    less, why = distances_again(kept, reference, [board[0], None], case.int8.read_bytes())
    assert less is None
    assert "board's outputs" in why
    with pytest.raises(ValueError, match="shape"):
        distances_again(kept, reference, board[:1], case.int8.read_bytes())


def test_another_shape_is_not_compared(tmp_path: Path) -> None:
    case = Case(tmp_path, "cpu")
    found = case.figure(case.right()[:, :2])
    assert found.value is None
    assert "another shape" in found.note


def test_evidence_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for names in ("other", "ids"):
        np.savez(path, np.zeros(3), **{names: np.zeros(3)})  # type: ignore[arg-type] # numpy's stub takes these for flags
        with pytest.raises(ValueError, match="no evidence"):
            read_apart(path.read_bytes())
