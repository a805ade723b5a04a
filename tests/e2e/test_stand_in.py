"""What runs in a board's place: its arithmetic, modelled speed, published resources, programming; by whole runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.e2e.whole_run import Agent, Bench

LAB = """\
targets:
  jetson: {board: jetson-orin-nano, environment: gpu, via: emulated}
  nowhere: {board: generic, environment: host, via: emulated}
  streams: {board: zcu102, via: emulated, bitstream: {float: zcu102_single, int8: zcu102_int8}}
  units: {board: zcu102, via: emulated, dpu: {arch: B4096, clock_mhz: 281, cores: 3}}
  pi: {board: raspberry-pi-4, environment: cpu, via: emulated}
"""
ARITHMETIC = {"jetson": "gpu", "nowhere": "host", "streams": "mathworks", "units": "dpu"}


def rows(folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (folder / "comparison.csv").open(newline="", encoding="utf-8") as file:
        return {(r["target"], r["network"], r["metric"]): r for r in csv.DictReader(file)}


def targets(folder: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((folder / "run.json").read_text())
    return {target["name"]: target for target in record["targets"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("run"))
    bench.write_lab(LAB)
    (bench.folder / "stderr").write_text(bench.run().stderr)
    return bench


def first_stderr(bench: Bench) -> str:
    return (bench.folder / "stderr").read_text()


def test_accuracy_carries_what_the_arithmetic_claims(finished: Bench) -> None:
    found = rows(finished.out)
    for name in ARITHMETIC:
        row = found[name, "Quantized", "accuracy_top1"]
        assert row["source"] == "emulated"
        assert row["note"].startswith("bit-exact to the ")
        assert "not bit-exact" not in row["note"]
        assert float(row["value"]) > 0.9
    assert "bit-exact" not in found["pi", "Quantized", "accuracy_top1"]["note"]  # ONNX Runtime is what runs there


def test_the_record_keeps_both_digests_and_counts_the_int8_network(finished: Bench) -> None:
    found = rows(finished.out)
    for name, arithmetic in ARITHMETIC.items():
        target = targets(finished.out)[name]
        lowered, int8 = target["lowered"], target["quantized"]
        assert lowered["arithmetic"] == arithmetic
        assert lowered["digest"] != int8["digest"]
        (sent,) = [s for s in target["shipments"] if s["network"] == "Quantized"]
        assert sent["digest"] == lowered["digest"]
        # conv 16x3x3x3 and fc 4x16 in int8; biases: one byte on a DPU's file, four on the others'
        weights, biases = 16 * 3 * 9 + 4 * 16, 16 + 4
        value = float(found[name, "Quantized", "learnable_memory_bytes"]["value"])
        assert value in {weights + biases, weights + 4 * biases}
    assert targets(finished.out)["pi"]["lowered"] is None


def test_outputs_are_those_of_the_lowered_network(finished: Bench) -> None:
    """Read with ONNX Runtime here, without any agent."""
    record = json.loads((finished.out / "run.json").read_text())
    x = np.load(finished.folder / "data.npz")["x"]
    for name, arithmetic in ARITHMETIC.items():
        with np.load(finished.out / "outputs" / name / "quantized" / "00000.npz") as chunk:
            kept = chunk["arr_1"]
        disabled = targets(finished.out)[name]["lowered"]["disabled_optimizers"]
        session = onnxruntime.InferenceSession(
            finished.out / "artifacts" / f"tiny.{arithmetic}.lowered.onnx",
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled,
        )
        expected = np.asarray(session.run(None, {"x": x})[0])
        where = [int(np.flatnonzero((expected == row).all(axis=1))[0]) for row in kept]
        assert len(set(where)) > 0.9 * len(kept)  # rows may repeat: outputs are whole multiples of a step
        assert record["samples"] >= len(kept)


def test_a_bitstream_has_its_own_rows(finished: Bench) -> None:
    found = rows(finished.out)
    for network, threads, lut in (("Floating-Point", ("16", "4"), 93.198), ("Quantized", ("64", "16"), 62.31)):
        fps = found["streams", network, "fps"]
        assert (fps["source"], float(fps["value"]) > 0) == ("modelled", True)
        assert "fitted" in fps["note"]
        p50 = found["streams", network, "latency_p50_ms"]
        assert float(p50["value"]) == pytest.approx(1e3 / float(fps["value"]))
        assert found["streams", network, "latency_p90_ms"]["value"] == ""
        assert found["streams", network, "power_w"]["value"] == ""
        for metric, value in zip(("conv_threads", "fc_threads"), threads, strict=True):
            assert found["streams", network, metric]["value"] == value
        resource = found["streams", network, "lut_percent"]
        assert (resource["source"], float(resource["value"])) == ("published", lut)
    assert found["streams", "Floating-Point", "fps"]["device"] == "zcu102_single"
    assert found["streams", "Quantized", "fps"]["device"] == "zcu102_int8"
    speedup = found["streams", "Ratio", "speedup"]
    assert speedup["source"] == "modelled"
    assert speedup["ci_low"] == ""


def test_a_dpu_has_no_float_speed(finished: Bench) -> None:
    found = rows(finished.out)
    empty = found["units", "Floating-Point", "fps"]
    assert (empty["value"], empty["note"]) == ("", "float runs on the board's ARM cores: a DPU has no float network")
    assert found["units", "Quantized", "fps"]["source"] == "modelled"
    assert found["units", "Ratio", "speedup"]["value"] == ""
    assert found["units", "Floating-Point", "accuracy_top1"]["value"] == "1"


def test_nothing_else_has_a_time(finished: Bench) -> None:
    for (target, _, metric), row in rows(finished.out).items():
        if target in {"jetson", "nowhere", "pi"}:
            assert row["source"] == "emulated"
            if metric in {"fps", "latency_p50_ms", "speedup", "power_w"}:
                assert row["value"] == ""


def test_the_compile_log_streams_and_stays(finished: Bench) -> None:
    page = (finished.out / "report.html").read_text()
    designs = [d for name in ("streams", "units") for d in targets(finished.out)[name]["designs"] if d["design"]]
    assert len(designs) == 3
    said = [line.partition(": ")[2] for line in first_stderr(finished).splitlines()]
    for design in designs:
        assert any("conv1" in line and line.endswith("(HW)") for line in design["compile_log"])
        for line in design["compile_log"]:
            assert line in said
    assert page.count('<details class="log">') == 3
    assert "Layer group 1" in page


def test_the_second_run_programs_nothing(finished: Bench) -> None:
    if not targets(finished.out)["units"]["description"]["boot_id"]:
        pytest.skip("this machine has no boot id: nothing is ever skipped")
    assert "Quantized on zcu102_int8: programmed" in first_stderr(finished)
    again = finished.run("--out", "again", "--targets", "streams,units")
    assert "Floating-Point on zcu102_single: already loaded, skipped" in again.stderr
    assert "Quantized on zcu102_int8: already loaded, skipped" in again.stderr
    before, after = targets(finished.out), targets(finished.folder / "again")
    for name, count in (("streams", 2), ("units", 1)):
        assert [p["network_skipped"] for p in before[name]["programming"]] == [False] * count
        assert [p["network_skipped"] for p in after[name]["programming"]] == [True] * count
        for item in after[name]["programming"]:
            assert item["boot_id"] == after[name]["description"]["boot_id"]
            assert len(item["device"]) == 64
    assert "programming skipped" in (finished.folder / "again" / "comparison.md").read_text()


def test_tables_do_not_mix_kinds_in_silence(finished: Bench) -> None:
    text = (finished.out / "comparison.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| streams"))
    assert line.count("(modelled)") == 3
    assert "emulated, time modelled" in line
    assert "modelled: computed by a performance model" in text


def test_a_stand_in_reached_by_address_is_lowered_too(bench: Bench, agents: Callable[..., Agent]) -> None:
    agent = agents(options=("--emulated", "--board", "zcu102"))
    via = f"via: {{address: '{agent.address}'}}"
    bench.write_lab(f"targets:\n  far: {{board: zcu102, environment: fpga, {via}, dpu: {{arch: B512}}}}\n")
    bench.run()
    target = bench.target("far")
    assert target["lowered"]["arithmetic"] == "dpu"
    assert [p["design"] for p in target["programming"]] == [target["designs"][1]["design"]]
    assert rows(bench.out)["far", "Quantized", "fps"]["source"] == "modelled"


def test_a_board_under_fpga_rules_that_is_there_runs_the_int8_network_itself(
    bench: Bench, agents: Callable[..., Agent]
) -> None:
    via = f"via: {{address: '{agents().address}'}}"
    bench.write_lab(f"targets:\n  near: {{board: generic, environment: fpga, {via}, dpu: {{arch: B512}}}}\n")
    bench.run()
    target = bench.target("near")
    assert (target["source"], target["lowered"], target["designs"]) == ("measured", None, [])
    found = rows(bench.out)
    assert "QDQ arithmetic, not bit-exact" in found["near", "Quantized", "accuracy_top1"]["note"]
    assert found["near", "Quantized", "fps"]["source"] == "measured"
