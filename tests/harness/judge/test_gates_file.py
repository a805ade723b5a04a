"""The gates section: units, what a reader may write, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.job import Job, job_from_mapping, parse_job
from harness.judge.gates_file import gates_as_json, read_gates
from harness.judge.gates_units import parse_value, percentile_of, unit_of
from harness.judge.gates_values import Gate
from harness.record.figure import Network, Source
from harness.record.gates import Rule


def job(tmp_path: Path, gates: str, metrics: str = "[accuracy_top1, accuracy_top5]") -> Job:
    (tmp_path / "net.onnx").touch()
    (tmp_path / "data.npz").touch()
    head = f"model: net.onnx\ndata: {{source: data.npz}}\nmetrics: {metrics}\ngates:\n"
    return parse_job(head + gates, tmp_path / "job.yaml")


def one(tmp_path: Path, gates: str) -> Gate:
    (found,) = job(tmp_path, gates).gates
    return found


@pytest.mark.parametrize(
    ("text", "metric", "rule", "threshold", "unit", "network"),
    [
        ("accuracy: {non_inferior_by: 1 pt}", "accuracy_top1", "non_inferior_by", 0.01, "fraction", "Ratio"),
        ("accuracy_top5: {non_inferior_by: 0.005}", "accuracy_top5", "non_inferior_by", 0.005, "fraction", "Ratio"),
        ("accuracy_top1: {at_least: 97 %}", "accuracy_top1", "at_least", 0.97, "fraction", "Quantized"),
        ("speedup: {at_least: 1.2 x}", "speedup", "at_least", 1.2, "x", "Ratio"),
        ("latency_p99: {at_most: 20 ms}", "latency_p99_ms", "at_most", 20.0, "ms", "Quantized"),
        ("latency_p99.9_ms: {at_most: 0.5 s}", "latency_p999_ms", "at_most", 500.0, "ms", "Quantized"),
        ("latency_p50: {at_most: 800 us}", "latency_p50_ms", "at_most", 0.8, "ms", "Quantized"),
        ("memory: {at_most: 200 MB}", "peak_memory_bytes", "at_most", 200e6, "bytes", "Quantized"),
        ("learnable_memory: {at_most: 1 MiB}", "learnable_memory_bytes", "at_most", 2.0**20, "bytes", "Quantized"),
        ("energy: {at_most: 5 mJ}", "energy_mj", "at_most", 5.0, "mJ", "Quantized"),
        ("lsb: {at_most: 1 LSB}", "reference_lsb", "at_most", 1.0, "LSB", "Quantized"),
        ("m: {metric: fps, at_least: 30 fps, network: Floating-Point}", "fps", "at_least", 30, "1/s", "Floating-Point"),
    ],
)  # fmt: skip
def test_what_a_reader_writes(
    tmp_path: Path, text: str, metric: str, rule: str, threshold: float, unit: str, network: str
) -> None:
    found = one(tmp_path, f"  {text}\n")
    assert (found.metric, found.rule, found.unit, found.network) == (metric, Rule(rule), unit, Network(network))
    assert found.threshold == pytest.approx(threshold, rel=1e-12)
    assert found.sources == (Source.MEASURED,)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("  speedup: {at_leest: 2}\n", 5, "did you mean 'at_least'?"),
        ("  speedup: {}\n", 5, "asks for nothing; give one of non_inferior_by, at_least, at_most"),
        ("  speedup: {at_least: 1, at_most: 2}\n", 5, "asks for at_least and at_most"),
        ("  speedup:\n    at_least: 2 ms\n", 6, "'ms' is no unit of this metric; write 1.2 x"),
        ("  accuracy:\n    non_inferior_by: 1 %\n", 6, "percent of what? write 1 pt or 0.01"),
        ("  accuracy: {non_inferior_by: 0}\n", 5, "a margin is more than 0"),
        ("  accuracy: {non_inferior_by: 1}\n", 5, "forgives any loss"),
        ("  accuracy: {non_inferior_by: 1 pt, network: Quantized}\n", 5, "remove `network`"),
        ("  latency: {at_most: 20 ms}\n", 5, "'latency' is no metric"),
        ("  accuracy_top3: {non_inferior_by: 1 pt}\n", 5, "is no metric of the job; did you mean 'accuracy_top"),
        ("  fast: {metric: speedupp, at_least: 2}\n", 5, "did you mean 'speedup'?"),
        ("  speedup: {at_least: 2, source: [modelled]}\n", 5, "`model_error: 10 %`"),
        ("  speedup: {at_least: 2, source: [guessed]}\n", 5, "guessed"),
        ("  speedup:\n    at_least: 2\n    overrides:\n      - at_least: 3\n", 8, "an override says where"),
        ("  speedup:\n    at_least: 2\n    overrides:\n      - {tags: [a]}\n", 8, "the override changes nothing"),
        ("  speedup:\n    at_least: 2\n    overrides:\n      - {tags: [a], at_most: 3}\n", 8, "asks for at_least"),
        ("  speedup: {at_least: 2, only: {environments: [cup]}}\n", 5, "cup"),
        ("  speedup: fast\n", 5, "gates.speedup"),
        ("  speedup: {at_least: [1]}\n", 5, "at_least"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(UserError) as caught:
        job(tmp_path, text)
    message = str(caught.value)
    assert says in message
    assert f"job.yaml:{line}: " in message
    assert "\n" not in message


def test_accuracy_needs_a_metric(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the job has no metrics"):
        job(tmp_path, "  accuracy: {non_inferior_by: 1 pt}\n", metrics="[]")


def test_own_functions_are_called_by_their_name(tmp_path: Path) -> None:
    found = job(tmp_path, "  psnr: {non_inferior_by: 0.5}\n", metrics="['mine:psnr']").gates
    assert [(gate.metric, gate.unit) for gate in found] == [("psnr", "")]


def test_a_job_reads_back_with_its_gates(tmp_path: Path) -> None:
    made = job(
        tmp_path,
        "  accuracy: {non_inferior_by: 1 pt}\n"
        "  mse: {metric: accuracy_top5, non_inferior_by: 2 pt, better: lower}\n"
        "  speedup:\n    at_least: 1.2\n    only: {environments: [cpu, fpga]}\n    overrides:\n"
        "      - {environments: [fpga], at_least: 3, source: [modelled], model_error: 10 %}\n"
        "      - {targets: [old], skip: true}\n",
    )
    assert job_from_mapping(made.as_json(), tmp_path) == made
    assert read_gates(gates_as_json(made.gates), made.metrics, "run.json") == made.gates
    assert job(tmp_path, "  speedup: {at_least: 9}\n").gates != made.gates


def test_gates_are_no_part_of_what_was_measured(tmp_path: Path) -> None:
    first = job(tmp_path, "  speedup: {at_least: 1}\n")
    assert first.digest() == job(tmp_path, "  speedup: {at_least: 2}\n").digest()


def test_numbers_and_units() -> None:
    assert parse_value("1.5e3 us", "ms") == 1.5
    assert parse_value(3, "bytes") == 3.0
    assert parse_value("64", "bytes") == 64.0
    assert [percentile_of(name) for name in ("latency_p5", "latency_p50_ms", "latency_p999_ms", "latency_p99.99")] == [
        pytest.approx(p) for p in (0.05, 0.5, 0.999, 0.9999)
    ]
    assert percentile_of("latency_p99_bound_ms") is None
    assert unit_of("accuracy_top1_delta") == "fraction"
    assert {unit_of(name) for name in ("map", "map50", "map50_voc", "miou", "mean_accuracy")} == {"fraction"}
    assert unit_of("my_own_metric") == ""
    for bad in (True, "fast", "1 2", "ms 1", None, "--3"):
        with pytest.raises(ValueError, match="write"):
            parse_value(bad, "ms")
