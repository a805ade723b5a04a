"""job.yaml as the contract writes it, what a Job says of itself, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from harness.errors import UserError
from harness.job import Job, Step, job_from_mapping, load_job, slug
from harness.quantize.rulebooks.rules import STEPS

CONTRACT = """\
name: squeezenet
model: squeezenet1.1.onnx            # paths are relative to this file
data:
  source: imagenet500                # any DATA form
  calibration: 100                   # samples (or a fraction)
  seed: 0
preprocess: {channels: bgr, mean: [104, 117, 123], std: [1, 1, 1], layout: NCHW}
postprocess: decode:boxes
batch: 1
metrics: [accuracy_top1, accuracy_top5]
quantize: {method: auto, exclude: []}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "squeezenet1.1.onnx").write_bytes(b"float")
    (tmp_path / "own.int8.onnx").write_bytes(b"int8")
    (tmp_path / "imagenet500").mkdir()
    return tmp_path


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def error_of(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_job(write(folder, text))
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def test_the_file_of_the_contract(folder: Path) -> None:
    job = load_job(write(folder, CONTRACT))
    assert (job.name, job.model, job.base) == ("squeezenet", folder / "squeezenet1.1.onnx", folder)
    assert (job.data.source, job.data.calibration, job.data.seed) == (str(folder / "imagenet500"), 100, 0)
    assert (job.preprocess.channels, job.preprocess.mean, job.preprocess.layout) == ("bgr", (104, 117, 123), "NCHW")
    assert (job.postprocess, job.batch, job.metrics) == ("decode:boxes", 1, ("accuracy_top1", "accuracy_top5"))
    assert (job.quantize.method, job.quantize.exclude, job.quantized) == ("auto", (), None)


def test_the_least_a_job_says_and_its_defaults(folder: Path) -> None:
    job = load_job(write(folder, "model: squeezenet1.1.onnx\ndata: {source: 'my.module:load'}"))
    assert job.name == "squeezenet1-1"  # job.yaml says nothing; the model does
    assert job.data.source == "my.module:load"
    assert job.metrics == ("accuracy_top1",)
    assert job.preprocess.identity
    assert (job.batch, job.state, job.postprocess) == (None, {}, None)


def test_a_telling_file_name_is_the_jobs_name(folder: Path) -> None:
    path = write(folder, "model: squeezenet1.1.onnx\ndata: {source: imagenet500}", "Night Run_2.yaml")
    assert load_job(path).name == "night-run-2"


def test_quantize_differs_by_environment(folder: Path) -> None:
    spec = load_job(
        write(
            folder,
            "model: squeezenet1.1.onnx\ndata: {source: imagenet500}\n"
            "quantize: {method: entropy, exclude: [a], gpu: {exclude: [b, c]}, fpga: {method: mse}}",
        )
    ).quantize
    got = {name: spec.for_environment(name) for name in ("gpu", "fpga", "cpu")}
    assert {name: (one.method, one.exclude) for name, one in got.items()} == {
        "gpu": ("entropy", ("b", "c")),
        "fpga": ("mse", ("a",)),
        "cpu": ("entropy", ("a",)),
    }


def test_single_layers_differ_too(folder: Path) -> None:
    text = (
        "model: squeezenet1.1.onnx\ndata: {source: imagenet500}\n"
        "quantize: {overrides: {conv1: {method: percentile}}, gpu: {overrides: {}}}"
    )
    spec = load_job(write(folder, text)).quantize
    assert spec.for_environment("cpu").overrides == {"conv1": {"method": "percentile"}}
    assert spec.for_environment("gpu").overrides == {}
    with pytest.raises(UserError, match="overrides"):
        load_job(write(folder, text.replace("percentile", "auto")))


def test_own_int8_network_and_recurrent_state(folder: Path) -> None:
    text = (
        "model: squeezenet1.1.onnx\ndata: {source: 'm:f', calibration: 0.25}\nquantized: own.int8.onnx\nstate: {s: s2}"
    )
    job = load_job(write(folder, text))
    assert job.quantized == folder / "own.int8.onnx"
    assert job.state == {"s": "s2"}
    assert job.data.calibration == 0.25


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"preprocess": {"scale": "1/255", "resize": 256, "crop": [224, 200], "channels": "gray", "std": [0.5]}},
        {"quantize": {"method": "mse", "exclude": ["x"], "host": {"exclude": []}}},
        {"quantize": {"overrides": {"a": {"method": "mse"}}, "cpu": {"overrides": {"b": {"weights": "per-tensor"}}}}},
        {"quantized": "own.int8.onnx"},
        {"state": {"a": "b"}, "batch": 4, "postprocess": "m:f", "metrics": ["m:f", "accuracy_top5"]},
        {"data": {"source": "m:f", "calibration": 0.5, "label_offset": -1, "seed": 7}},
    ],
)
def test_as_json_is_plain_and_makes_an_equal_job(folder: Path, change: dict[str, Any]) -> None:
    job = job_from_mapping({"model": "squeezenet1.1.onnx", "data": {"source": "imagenet500"}, **change}, folder)
    plain = json.loads(json.dumps(job.as_json()))
    assert job_from_mapping(plain, Path("/elsewhere")) == job


def test_digest_follows_content_not_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def digest(base: Path, **change: object) -> str:
        fields = {"name": "n", "model": "squeezenet1.1.onnx", "data": {"source": "imagenet500"}, **change}
        return job_from_mapping(fields, base).digest()

    moved = tmp_path_factory.mktemp("moved")
    (moved / "squeezenet1.1.onnx").write_bytes(b"float")
    (moved / "imagenet500").mkdir()
    assert digest(moved) == digest(folder)
    assert digest(folder, batch=2) != digest(folder)
    before = digest(folder)
    (folder / "squeezenet1.1.onnx").write_bytes(b"other")
    assert digest(folder) != before


HEAD = "model: squeezenet1.1.onnx\ndata: {source: imagenet500}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            CONTRACT.replace("method: auto", "metod: auto"),
            "job.yaml:11: unknown field 'metod' in quantize; did you mean 'm",
        ),
        (CONTRACT.replace("seed: 0", "sed: 0"), "job.yaml:6: unknown field 'sed' in data; did you mean 'seed'?"),
        (CONTRACT.replace("auto", "entropi"), "job.yaml:11: quantize.method should be 'auto', 'minmax'"),
        (CONTRACT.replace("squeezenet1.1", "none"), "job.yaml:2: model: no file "),
        (CONTRACT.replace("squeezenet1.1.onnx", "imagenet500"), "job.yaml:2: model: "),
        (CONTRACT.replace("imagenet500 ", "nothing "), "job.yaml:4: data.source: "),
        (CONTRACT.replace("100 ", "0 "), "job.yaml:5: data.calibration: 0 is neither"),
        (CONTRACT.replace("100 ", "1.5 "), "job.yaml:5: data.calibration: 1.5 is neither"),
        (CONTRACT.replace("100 ", "true "), "job.yaml:5: data.calibration: True is neither"),
        (CONTRACT.replace("[1, 1, 1]", "[1, 0, 1]"), "job.yaml:7: preprocess.std: 0 cannot be divided by"),
        (CONTRACT.replace("[1, 1, 1]", "[1, 1]"), "job.yaml:7: preprocess.std: should be one number or three"),
        (CONTRACT.replace("NCHW", "NCWH"), "job.yaml:7: preprocess.layout should be 'NCHW' or 'NHWC', not 'NCWH'; did"),
        (
            CONTRACT.replace("decode:boxes", "decode.boxes"),
            "job.yaml:8: postprocess: 'decode.boxes' is not of the form",
        ),
        (CONTRACT.replace("batch: 1", "batch: 0"), "job.yaml:9: batch should be greater than or equal to 1"),
        (CONTRACT.replace("name: squeezenet", "name: Squeeze Net"), "job.yaml:1: name: 'Squeeze Net' may hold"),
        (HEAD + "metrics: [Top-1]", "job.yaml:3: metrics: 'Top-1' is neither"),
        (HEAD + "quantize: {}\nquantized: own.int8.onnx", "job.yaml:4: both quantize and quantized"),
        (HEAD + "quantized: gone.onnx", "job.yaml:3: quantized: no file "),
        (HEAD + "preprocess: {scale: 1/0}", "job.yaml:3: preprocess.scale: '1/0' is neither"),
        (HEAD + "preprocess: {resize: [1, 2, 3]}", "job.yaml:3: preprocess.resize: should be one size"),
        ("data: {source: imagenet500}", "job.yaml:1: field 'model' is missing"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(folder: Path, text: str, expected: str) -> None:
    assert error_of(folder, text).startswith(expected)


def test_slug_always_makes_a_valid_name() -> None:
    assert [slug(text) for text in ("ResNet-50 v1.5", "__x__", "日本", "a" * 80)] == [
        "resnet-50-v1-5",
        "x",
        "job",
        "a" * 64,
    ]


def test_a_job_is_a_value(folder: Path) -> None:
    job = load_job(write(folder, CONTRACT))
    with pytest.raises(AttributeError):
        job.name = "other"  # type: ignore[misc]
    assert isinstance(job, Job)


def test_the_reference_page_loads_and_names_every_field(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/job-file.md").read_text()
    assert load_job(write(folder, page.partition("```yaml\n")[2].partition("```")[0])).name == "squeezenet"
    for section, prefix in (("", ""), ("data", "data."), ("preprocess", ""), ("quantize", "quantize.")):
        wrong = "zzzzzz: 1" if not section else f"{section}: {{zzzzzz: 1}}"
        fields = error_of(folder, f"model: m.onnx\n{wrong}").partition("known: ")[2].split(", ")
        lacking = [name for name in fields if f"`{prefix}{name}`" not in page and f"`.{name}`" not in page]
        assert lacking in ([], ["data"])  # `data` itself is the heading of its fields


def test_recovery_steps_of_a_job_are_those_of_the_quantizer() -> None:
    assert get_args(Step) == STEPS
