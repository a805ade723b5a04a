"""The first files load as written, say what is guessed, and adding a target leaves the rest of the file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from harness.data import network_inputs, open_data
from harness.errors import UserError
from harness.job import load_job
from harness.scaffold import add_target, init_files
from harness.targets.lab import load_lab
from harness.targets.target import Via


def write_network(path: Path, shape: list[int | str], outputs: int) -> Path:
    """A network whose only weights are none: it only has to be one."""
    node = helper.make_node("Identity", ["x"], ["y"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], outputs])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [given], [result])), str(path))
    return path


def write_images(folder: Path, labels: list[int], size: tuple[int, int] = (8, 8)) -> Path:
    folder.mkdir()
    rows = ["filename,label_index"]
    for index, label in enumerate(labels):
        Image.new("RGB", size, (index, 0, 0)).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_first_files_load_and_feed_the_network(tmp_path: Path) -> None:
    model = write_network(tmp_path / "Net 1.onnx", [1, 224, 224, 3], 1001)
    data = write_images(tmp_path / "null", [0, 5, 999])  # a folder whose bare name YAML would not take for text
    written = init_files(model, str(data), tmp_path / "new")
    assert [path.name for path in written] == ["job.yaml", "targets.yaml"]
    job = load_job(written[0])
    assert (job.name, job.batch, job.data.label_offset, job.model) == ("net-1", 1, 1, model)
    assert (job.preprocess.layout, job.preprocess.resize) == ("NHWC", (224, 224))
    opened = open_data(job.data, job.preprocess, network_inputs(model), job.base)
    assert opened.read([2]).inputs["x"].shape == (1, 224, 224, 3)
    assert opened.labels is not None
    assert opened.labels.tolist() == [1, 6, 1000]
    text = written[0].read_text()
    assert "guessed: 1001 classes" in text
    assert "guessed: resize, channels, normalisation" in text
    lab = load_lab(written[1])
    kinds = {name: (target.environment, target.via.kind) for name, target in lab.targets.items()}
    assert kinds == {
        "this-machine": ("cpu", "local"),
        "jetson-emulated": ("gpu", "emulated"),
        "rpi-emulated": ("cpu", "emulated"),
        "zcu102-emulated": ("fpga", "emulated"),
    }


def test_labels_that_start_at_one_are_shifted_back(tmp_path: Path) -> None:
    model = write_network(tmp_path / "n.onnx", ["N", 3, 8, 8], 3)
    data = write_images(tmp_path / "d", [1, 2, 3])
    job = load_job(init_files(model, str(data), tmp_path / "new")[0])
    assert (job.data.label_offset, job.batch, job.preprocess.resize) == (-1, None, None)


def test_arrays_need_no_preprocessing(tmp_path: Path) -> None:
    model = write_network(tmp_path / "n.onnx", ["N", 4], 2)
    np.savez(tmp_path / "d.npz", x=np.ones((3, 4)), labels=np.array([0, 1, 1]))
    job = load_job(init_files(model, str(tmp_path / "d.npz"), tmp_path / "new")[0])
    assert job.preprocess.identity


def test_nothing_is_overwritten_and_an_existing_lab_is_kept(tmp_path: Path) -> None:
    model = write_network(tmp_path / "n.onnx", ["N", 4], 2)
    (tmp_path / "targets.yaml").write_text("targets: {mine: {board: generic, via: local}}\n")
    written = init_files(model, "load:samples", tmp_path)
    assert [path.name for path in written] == ["job.yaml"]
    assert list(load_lab(tmp_path / "targets.yaml").targets) == ["mine"]
    before = written[0].read_bytes()
    with pytest.raises(UserError, match="exists already"):
        init_files(model, "load:samples", tmp_path)
    assert written[0].read_bytes() == before


@pytest.mark.parametrize(("shape", "data"), [(["N", 4], "d"), (["N", 3, 8, 8], "nothing")])
def test_data_that_cannot_feed_the_network_writes_nothing(tmp_path: Path, shape: list[int | str], data: str) -> None:
    model = write_network(tmp_path / "n.onnx", shape, 2)
    write_images(tmp_path / "d", [0, 1])
    with pytest.raises(UserError):
        init_files(model, str(tmp_path / data), tmp_path / "new")
    assert not (tmp_path / "new").exists()


LABS = {
    "flow entries, comments": (
        "# top\ntargets:\n  a:   {board: generic,  via: local}  # spaced\n\n# below\n#  b: {x: y}\n",
        "  a:   {board: generic,  via: local}  # spaced\n  new:\n",
    ),
    "block entries, four spaces": (
        "targets:\n    a:\n        board: generic # why\n        via: local\n        tags:\n        - x\n\n# end\n",
        "        - x\n    new:\n",
    ),
    "no newline at the end": ("targets:\n  a: {board: generic, via: local}", "via: local}\n  new:\n"),
}


@pytest.mark.parametrize("case", LABS)
def test_adding_a_target_only_adds_lines(tmp_path: Path, case: str) -> None:
    before, expected = LABS[case]
    path = tmp_path / "targets.yaml"
    path.write_text(before)
    path.chmod(0o640)
    add_target(
        path, "new", {"board": "raspberry-pi-5", "via": {"address": "x.lab:1", "tls": "/k"}, "tags": ["on", "a b"]}
    )
    after = path.read_text()
    assert expected in after
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    kept = [line for line in after.splitlines() if line not in added]
    assert kept == before.splitlines()
    target = load_lab(path).targets["new"]
    assert target.via == Via("address", "x.lab:1", Path("/k"))
    assert target.tags == ("on", "a b")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["targets.yaml"]


@pytest.mark.parametrize(
    "before", ["targets: {} # none yet\n", "targets:\n  # a: {}\n", "targets: {a: {board: generic, via: local}} # c\n"]
)
def test_adding_to_an_empty_or_flow_style_file_keeps_its_comments(tmp_path: Path, before: str) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text(before)
    add_target(path, "new", {"board": "zcu104", "via": "emulated"})
    assert load_lab(path).targets["new"].environment == "fpga"
    assert before.split("#")[1].strip() in path.read_text()


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("a", {"board": "generic", "via": "local"}, "'a' exists already"),
        ("b", {"board": "generc", "via": "local"}, "did you mean 'generic'"),
        ("b", {"board": "generic", "via": {"address": "h.lab:1"}}, "beyond this machine"),
        ("B b", {"board": "generic", "via": "local"}, "may hold a-z"),
    ],
)
def test_a_target_that_would_not_load_is_not_written(
    tmp_path: Path, name: str, fields: dict[str, object], expected: str
) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text("targets:\n  a: {board: generic, via: local}\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=expected):
        add_target(path, name, fields)
    assert path.read_bytes() == before


def test_a_link_to_the_lab_file_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    real.write_text("targets:\n  a: {board: generic, via: local}\n")
    link = tmp_path / "targets.yaml"
    link.symlink_to(real)
    add_target(link, "b", {"board": "generic", "via": "local"})
    assert link.is_symlink()
    assert list(load_lab(real).targets) == ["a", "b"]
