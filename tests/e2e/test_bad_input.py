from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.e2e.whole_run import Bench


def truncated_network(bench: Bench) -> None:
    bench.model.write_bytes(bench.model.read_bytes()[:300])


def not_a_network(bench: Bench) -> None:
    bench.model.write_text("hello")


def missing_network(bench: Bench) -> None:
    bench.model.unlink()


def unknown_field(bench: Bench) -> None:
    bench.write_job("quantize: {metod: minmax}\n")


def wrong_labels(bench: Bench) -> None:
    with np.load(bench.folder / "data.npz") as arrays:
        np.savez(bench.folder / "data.npz", x=arrays["x"], labels=arrays["labels"] + 7)


def no_labels(bench: Bench) -> None:
    with np.load(bench.folder / "data.npz") as arrays:
        np.savez(bench.folder / "data.npz", x=arrays["x"])


def nan_inputs(bench: Bench) -> None:
    with np.load(bench.folder / "data.npz") as arrays:
        x = arrays["x"].copy()
        x[3, 0, 0, 0] = np.nan
        np.savez(bench.folder / "data.npz", x=x, labels=arrays["labels"])


def corrupt_image(bench: Bench) -> None:
    folder = bench.folder / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["filename,label_index"]
    for i in range(60):
        name = f"image{i:02d}.png"
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name)
        lines.append(f"{name},{i % 4}")
    (folder / "image33.png").write_bytes((folder / "image33.png").read_bytes()[:40])
    (folder / "labels.csv").write_text("\n".join(lines))
    bench.job.write_text("name: tiny\nmodel: tiny.onnx\ndata: {source: images, calibration: 20}\n")


def no_data(bench: Bench) -> None:
    (bench.folder / "data.npz").unlink()


def too_many_to_calibrate(bench: Bench) -> None:
    bench.job.write_text("name: tiny\nmodel: tiny.onnx\ndata: {source: data.npz, calibration: 200}\n")


def unknown_metric(bench: Bench) -> None:
    bench.job.write_text("model: tiny.onnx\ndata: {source: data.npz, calibration: 40}\nmetrics: [acuracy_top1]\n")


def unknown_layer(bench: Bench) -> None:
    bench.write_job("quantize: {exclude: [conv_1]}\n")


def qemu_target(bench: Bench) -> None:
    bench.write_lab("targets:\n  rpi: {board: raspberry-pi-4, environment: cpu, via: qemu}\n")


def unknown_board(bench: Bench) -> None:
    bench.write_lab("targets:\n  rpi: {board: rasberry-pi-4, environment: cpu, via: emulated}\n")


def unknown_lab_field(bench: Bench) -> None:
    bench.write_lab("targets:\n  rpi:\n    board: raspberry-pi-4\n    enviroment: cpu\n    via: emulated\n")


def plain_text_far_away(bench: Bench) -> None:
    bench.write_lab("targets:\n  far: {board: generic, environment: cpu, via: {address: 'board.lab:50443'}}\n")


CASES: list[tuple[Callable[[Bench], None], list[str]]] = [
    (truncated_network, ["tiny.onnx"]),
    (not_a_network, ["tiny.onnx"]),
    (missing_network, ["job.yaml", "tiny.onnx"]),
    (unknown_field, ["job.yaml:5", "metod", "method"]),
    (wrong_labels, ["label", "label_offset"]),
    (no_labels, ["label"]),
    (nan_inputs, ["NaN", "3"]),
    (corrupt_image, ["image33.png"]),
    (no_data, ["data.npz"]),
    (too_many_to_calibrate, ["calibration", "200"]),
    (unknown_metric, ["acuracy_top1", "accuracy_top1"]),
    (unknown_layer, ["conv_1", "conv1"]),
    (qemu_target, ["rpi", "`via: qemu`"]),
    (unknown_board, ["rasberry-pi-4", "raspberry-pi-4"]),
    (unknown_lab_field, ["targets.yaml:4", "enviroment", "environment"]),
    (plain_text_far_away, ["far", "tls"]),
]


@pytest.mark.parametrize(("spoil", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_bad_input_is_one_line_that_names_the_thing(
    bench: Bench, spoil: Callable[[Bench], None], words: list[str]
) -> None:
    spoil(bench)
    targets = () if spoil in {qemu_target, unknown_board, unknown_lab_field, plain_text_far_away} else ("jetson",)
    done = bench.run(*(("--targets", *targets) if targets else ()), code=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    for word in words:
        assert word in errors[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], ["nowhere.yaml"]),
        (["run", "job.yaml", "--targets", "jetsn"], ["jetsn", "jetson"]),
        (["run", "job.yaml", "--profile", "fast"], ["fast", "quick"]),
        (["run", "job.yaml", "--split", "half"], ["half", "validation"]),
        (["run", "job.yaml", "--lab", "lab.yaml"], ["lab.yaml"]),
        (["run", "job.yaml", "--out", "tiny.onnx"], ["tiny.onnx", "--out"]),
        (["run", "rank.yaml", "--dry-run"], ["rank.yaml", "accuracy_top9", "4 classes"]),
        (["run", "metric.yaml", "--dry-run"], ["metric.yaml", "acuracy_top1", "accuracy_top1"]),
        (["run", "function.yaml", "--dry-run"], ["function.yaml", "nowhere:f"]),
        (["run", "job.yaml", "--store", "/proc/x/y.db"], ["--store"]),
        (["resume", "no-such-run"], ["no-such-run", "quantrig runs"]),
        (["quantize", "tiny.onnx", "--environment", "cpu", "-o", "q.onnx"], ["--data", "--job"]),
        (["quantize", "tiny.onnx", "--data", "data.npz", "--environment", "tpu", "-o", "q.onnx"], ["tpu", "gpu"]),
        (["quantize", "tiny.onnx", "--data", "data.npz", "--environment", "cpu", "-o", "no/q.onnx"], ["no"]),
        (["calibrate", "tiny.onnx", "--data", "data.npz", "--method", "best", "-o", "r.csv"], ["best", "minmax"]),
        (["inspect", "nowhere.onnx"], ["nowhere.onnx"]),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else None,
)
def test_a_bad_argument_is_one_line(bench: Bench, arguments: list[str], words: list[str]) -> None:
    for name, line in {
        "rank": "metrics: [accuracy_top9]",
        "metric": "metrics: [acuracy_top1]",
        "function": "postprocess: nowhere:f",
    }.items():
        text = f"model: tiny.onnx\ndata: {{source: data.npz, calibration: 40}}\n{line}\n"
        (bench.folder / f"{name}.yaml").write_text(text)
    done = bench.quantrig(*arguments, code=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_usage_errors_exit_2_and_help_exits_0(bench: Bench) -> None:
    bench.quantrig("frobnicate", code=2)
    bench.quantrig("run", "job.yaml", "--no-such-option", code=2)
    for command in ("demo", "init", "run", "resume", "runs", "calibrate", "quantize", "inspect", "targets"):
        assert "Usage" in bench.quantrig(command, "--help").stdout
