from __future__ import annotations

import csv
import hashlib
import json
import math
import platform
import sqlite3
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.e2e.whole_run import Agent, Bench

HEADER = [
    *("run_id", "job", "target", "board", "environment", "network", "device", "metric"),
    *("value", "ci_low", "ci_high", "unit", "source", "n", "note"),
]


def rows(bench: Bench) -> list[dict[str, str]]:
    with (bench.out / "comparison.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == HEADER
        return list(reader)


def value(found: list[dict[str, str]], target: str, network: str, metric: str) -> str:
    (row,) = [r for r in found if (r["target"], r["network"], r["metric"]) == (target, network, metric)]
    return row["value"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("run"))
    bench.run()
    return bench


def test_the_five_files_are_published(finished: Bench) -> None:
    names = {"comparison.csv", "comparison.md", "report.html", "run.json", "junit.xml"}
    assert names <= {path.name for path in finished.out.iterdir()}
    page = (finished.out / "report.html").read_text().replace("http://www.w3.org/2000/svg", "")
    assert "://" not in page
    assert "url(" not in page


def test_accuracy_is_that_of_the_labels(finished: Bench) -> None:
    found = rows(finished)
    for target in ("here", "jetson"):
        assert float(value(found, target, "Floating-Point", "accuracy_top1")) == 1.0  # labels are the float network's
        int8 = float(value(found, target, "Quantized", "accuracy_top1"))
        agreement = float(value(found, target, "Ratio", "top1_agreement"))
        assert int8 == pytest.approx(agreement)
        assert int8 > 0.9


def test_only_the_measured_target_has_times(finished: Bench) -> None:
    found = rows(finished)
    for network in ("Floating-Point", "Quantized"):
        assert float(value(found, "here", network, "latency_p50_ms")) > 0
        assert value(found, "jetson", network, "latency_p50_ms") == ""
        assert value(found, "jetson", network, "fps") == ""
    assert {r["source"] for r in found if r["target"] == "here"} == {"measured"}
    assert {r["source"] for r in found if r["target"] == "jetson"} == {"emulated"}
    speedup = next(r for r in found if r["target"] == "here" and r["metric"] == "speedup")
    assert float(speedup["ci_low"]) <= float(speedup["value"]) <= float(speedup["ci_high"])


def test_emulated_rules_carry_their_claim(finished: Bench) -> None:
    notes = [r["note"] for r in rows(finished) if r["target"] == "jetson" and r["metric"] == "accuracy_top1"]
    assert any("bit-exact to the published semantics of TensorRT" in note for note in notes)


def test_blocks_alternate_abba_and_agree_with_the_published_latency(finished: Bench) -> None:
    blocks = sorted(finished.target("here")["blocks"], key=lambda block: block["started_unix_s"])
    assert len(blocks) >= 16
    order = "".join("F" if block["network"] == "Floating-Point" else "I" for block in blocks)
    assert order == ("FIIF" * len(order))[: len(order)]
    ends = [block["started_unix_s"] + block["duration_s"] for block in blocks]
    assert all(end <= after["started_unix_s"] + 1e-3 for end, after in zip(ends, blocks[1:], strict=False))
    samples = sorted(ns for block in blocks if block["network"] == "Floating-Point" for ns in block["latency_ns"])
    median_ms = samples[len(samples) // 2] / 1e6
    published = float(value(rows(finished), "here", "Floating-Point", "latency_p50_ms"))
    assert published == pytest.approx(median_ms, rel=0.02)


def test_junit_has_one_case_a_target(finished: Bench) -> None:
    root = ET.parse(finished.out / "junit.xml").getroot()
    cases = list(root.iter("testcase"))
    assert len(cases) == 2
    assert not list(root.iter("failure")) + list(root.iter("error"))
    assert any(prop.get("name") == "Quantized.accuracy_top1" for prop in root.iter("property"))


def test_every_block_and_figure_is_in_the_database(finished: Bench) -> None:
    with sqlite3.connect(finished.store) as database:
        blocks = database.execute("select count(*) from blocks").fetchone()[0]
        figures = database.execute("select count(*) from figures").fetchone()[0]
    assert blocks == len(finished.target("here")["blocks"])
    assert figures == len(rows(finished))


def test_a_second_run_sends_nothing(finished: Bench) -> None:
    again = finished.run("--out", "again", "--targets", "jetson")
    assert again.stderr.count("already on the board, skipped") == 2
    record = json.loads((finished.folder / "again" / "run.json").read_text())
    assert [s["sent_bytes"] for s in record["targets"][0]["shipments"]] == [0, 0]


def test_json_is_the_only_thing_on_stdout(bench: Bench) -> None:
    done = bench.run("--targets", "jetson", "--json")
    assert json.loads(done.stdout)["targets"][0]["status"] == "done"
    assert done.stderr == ""


def test_dry_run_touches_nothing(bench: Bench) -> None:
    done = bench.run("--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert [one["name"] for one in plan["targets"]] == ["here", "jetson"]
    assert plan["samples"] == 160
    assert plan["total_s"][0] <= plan["total_s"][1]
    assert not bench.out.exists()
    assert not bench.store.exists()


def test_split_all_counts_every_sample_and_says_so(bench: Bench) -> None:
    bench.run("--targets", "jetson", "--split", "all")
    record = bench.record()
    assert record["samples"] == 200
    assert any("calibration samples" in note for note in record["notes"])


def test_a_board_reached_by_address_is_measured(bench: Bench, agents: Callable[..., Agent]) -> None:
    agent = agents()
    bench.write_lab(f"targets:\n  far: {{board: generic, environment: cpu, via: {{address: '{agent.address}'}}}}\n")
    bench.run()
    assert bench.target("far")["status"] == "done"
    assert math.isfinite(float(value(rows(bench), "far", "Ratio", "speedup")))


def test_a_jobs_own_int8_network_is_the_second_arm(bench: Bench) -> None:
    bench.quantrig("quantize", "tiny.onnx", "--data", "data.npz", "--environment", "fpga", "-o", "own.int8.onnx")
    bench.write_job("quantized: own.int8.onnx\n")
    bench.run("--targets", "jetson")
    own = (bench.folder / "own.int8.onnx").read_bytes()
    assert bench.target("jetson")["quantized"]["digest"] == hashlib.sha256(own).hexdigest()


def test_a_recurrent_network_carries_its_state(bench: Bench) -> None:
    """y_t = sum of all inputs so far: only a carried state gives the labels."""
    nodes = [
        helper.make_node("Add", ["x", "s"], ["t"], name="add"),
        helper.make_node("Identity", ["t"], ["y"], name="id"),
    ]
    graph = helper.make_graph(
        nodes, "sum",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "s")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("y", "t")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), bench.model)
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    truth = np.concatenate([np.zeros(20, np.int64), x[20:].cumsum(axis=0).argmax(axis=1)])
    np.savez(bench.folder / "data.npz", x=x, labels=truth)
    bench.job.write_text(
        "name: sum\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 20}\nstate: {s: t}\nbatch: 1\n"
    )
    bench.run("--targets", "jetson")
    assert float(value(rows(bench), "jetson", "Floating-Point", "accuracy_top1")) == 1.0


def test_the_path_of_the_published_folder_is_printed(finished: Bench) -> None:
    done = finished.run("--targets", "jetson", "--out", "third")
    assert "published in third" in done.stdout
    assert Path(finished.folder / "third" / "report.html").exists()


def test_data_without_labels_compare_the_networks_with_each_other(bench: Bench) -> None:
    with np.load(bench.folder / "data.npz") as arrays:
        np.savez(bench.folder / "data.npz", x=arrays["x"])
    bench.job.write_text("name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 40}\nmetrics: []\n")
    bench.run("--targets", "jetson")
    found = rows(bench)
    assert not [r for r in found if r["metric"].startswith("accuracy")]
    assert float(value(found, "jetson", "Ratio", "sqnr_db")) > 20


def test_a_fraction_calibrates_and_an_environment_has_its_own_method(bench: Bench) -> None:
    bench.job.write_text(
        "name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 0.25}\n"
        "quantize: {method: minmax, gpu: {method: percentile}}\n"
    )
    bench.run()
    record = bench.record()
    assert (record["calibration_samples"], record["samples"]) == (50, 150)
    assert bench.target("here")["quantized"]["method"] == "minmax"
    assert bench.target("jetson")["quantized"]["method"] == "percentile"


def test_one_machines_times_never_appear_under_another_boards_name(bench: Bench, agents: Callable[..., Agent]) -> None:
    if platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip("needs a machine that cannot be a Raspberry Pi")
    agent = agents()
    via = f"via: {{address: '{agent.address}'}}"
    bench.write_lab(f"targets:\n  pi: {{board: raspberry-pi-4, environment: cpu, {via}}}\n")
    bench.run(code=3)
    assert bench.target("pi")["status"] == "refused"
    assert "x86_64" in bench.target("pi")["error"]
    assert value(rows(bench), "pi", "Ratio", "speedup") == ""


def test_a_stand_in_reached_by_address_is_published_as_emulated(bench: Bench, agents: Callable[..., Agent]) -> None:
    agent = agents(options=("--emulated", "--board", "raspberry-pi-4"))
    via = f"via: {{address: '{agent.address}'}}"
    bench.write_lab(f"targets:\n  pi: {{board: raspberry-pi-4, environment: cpu, {via}}}\n")
    bench.run()
    assert {r["source"] for r in rows(bench)} == {"emulated"}
    assert value(rows(bench), "pi", "Floating-Point", "accuracy_top1") == "1"
    assert value(rows(bench), "pi", "Floating-Point", "latency_p50_ms") == ""


def test_what_a_jobs_functions_print_stays_out_of_the_json(bench: Bench) -> None:
    (bench.folder / "own.py").write_text(
        "print('hello')\ndef share(outputs, labels):\n    print('again')\n    return 0.5\n"
    )
    bench.job.write_text(
        "name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 40}\nmetrics: ['own:share']\n"
    )
    record = json.loads(bench.run("--targets", "jetson", "--json").stdout)
    assert {f["value"] for f in record["figures"] if f["metric"] == "share"} == {0.5}


def test_a_metric_that_fails_is_told_before_a_board_is_asked(bench: Bench) -> None:
    (bench.folder / "own.py").write_text("def share(outputs, labels):\n    return [float('nan')] * len(labels)\n")
    bench.job.write_text(
        "name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 40}\nmetrics: ['own:share']\n"
    )
    done = bench.run("--targets", "jetson", code=2)
    assert "metric own:share: it returned nan for sample" in done.stderr
    with sqlite3.connect(bench.store) as database:
        assert database.execute("select id from outputs").fetchall() == []


def test_a_metric_that_fails_loses_nothing_that_was_measured(bench: Bench) -> None:
    own = bench.folder / "own.py"
    fails_on_many = "    if len(labels) > 8:\n        raise KeyError('scores')\n    return 0.5\n"
    own.write_text(f"def share(outputs, labels):\n{fails_on_many}")
    bench.job.write_text(
        "name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 40}\nmetrics: ['own:share']\n"
    )
    done = bench.run("--targets", "jetson", code=2)
    assert "own:share" in done.stderr
    assert f"quantrig resume {bench.run_id()}" in done.stderr
    assert "failed" in bench.quantrig("runs").stdout
    with sqlite3.connect(bench.store) as database:
        chunks = database.execute("select id from outputs").fetchall()
    assert chunks
    bench.write_job()
    bench.quantrig("resume", bench.run_id())
    assert value(rows(bench), "jetson", "Floating-Point", "accuracy_top1") == "1"
    with sqlite3.connect(bench.store) as database:
        assert database.execute("select id from outputs").fetchall() == chunks
