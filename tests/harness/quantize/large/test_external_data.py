"""Weights beside the network: what a digest covers, and data that is damaged, hostile, linked or in the way."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from harness.data import network_files
from harness.errors import UserError
from harness.quantize import Quantizer, calibrate, prepare, quantize
from harness.quantize.graph import Graph, read_model, sha256_of
from harness.quantize.writing import as_single_file
from tests.harness.quantize.large.networks import LOWERED, WIDTH, tokens


def test_the_digest_of_a_single_file_is_its_sha256_and_covers_data_files(external: Path, tmp_path: Path) -> None:
    single = prepare(external, tmp_path / "single.onnx")
    assert sha256_of(single) == hashlib.sha256(single.read_bytes()).hexdigest()
    before = sha256_of(external)
    assert before != hashlib.sha256(external.read_bytes()).hexdigest()
    shutil.copytree(external.parent, tmp_path / "copy")
    assert sha256_of(tmp_path / "copy" / "net.onnx") == before
    quantizer = Quantizer(external)
    ranges = calibrate(external, [tokens(1, 2)])
    with (external.parent / "net.weights").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    assert sha256_of(external) != before
    with pytest.raises(UserError, match="changed on disk"):
        quantizer.calibrate([tokens(1, 2)])
    with pytest.raises(UserError, match="another network"):
        quantize(external, ranges, out=tmp_path / "q.onnx")


def test_a_layer_called_location_is_no_external_data(builder: Callable[..., Any], tmp_path: Path) -> None:
    net = builder()
    net.add("Relu", ["location"], "y")
    path = tmp_path / "n.onnx"
    onnx.save(net.model({"location": [2]}, {"y": [2]}), path)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def _edit(path: Path, **entries: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in next(tensor for tensor in model.graph.initializer if tensor.name == "up1.w").external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


def _truncate(path: Path) -> None:
    os.truncate(path.parent / "net.weights", 5 << 20)


def _link(path: Path) -> None:
    data = path.parent / "net.weights"
    data.rename(path.parent.parent / "elsewhere.bin")
    data.symlink_to(path.parent.parent / "elsewhere.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path.parent / "net.weights").unlink(), r"no file 'net\.weights'.*copy the data file"),
        (_truncate, r"cut off \('net\.weights' ends at byte 5242880.*copy the data file again"),
        (lambda path: _edit(path, location="/etc/passwd"), r"'up1\.w'.*'/etc/passwd', outside the network's folder"),
        (lambda path: _edit(path, location="../float/net.weights"), "outside the network's folder"),
        (lambda path: _edit(path, location="a/../../x"), "outside the network's folder"),
        (lambda path: _edit(path, location="..\\net.weights"), "outside the network's folder"),
        (lambda path: _edit(path, location="C:\\net.weights"), "outside the network's folder"),
        (_link, "outside the network's folder"),
        (lambda path: _edit(path, location=""), r"entry of tensor 'up1\.w' is damaged"),
        (lambda path: _edit(path, location="."), r"no file '\.'"),
        (lambda path: _edit(path, offset="-4"), "damaged"),
        (lambda path: _edit(path, offset="many"), "damaged"),
        (lambda path: _edit(path, length="4"), r"'up1\.w' holds 4 bytes, 512x512 float is 1048576"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_damaged_or_hostile_external_data_is_one_line(
    damage: Callable[[Path], object],
    said: str,
    large: bool,
    external: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if large:
        monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", LOWERED)
    damage(external)
    for attempt in (
        lambda: Quantizer(external),
        lambda: prepare(external, tmp_path / "p.onnx"),
        lambda: sha256_of(external),
        lambda: as_single_file(external, tmp_path / "s.onnx"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert str(external) in str(caught.value)
    assert [item.name for item in tmp_path.iterdir() if item.suffix == ".onnx"] == []


def test_hostile_references_are_found_wherever_they_hide(builder: Callable[..., Any], tmp_path: Path) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "body", [], [])
    body.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [1]))
    net = builder()
    net.constant("yes", np.array(True))
    net.add("If", ["yes"], "y", then_branch=body, else_branch=body)
    path = tmp_path / "n.onnx"
    path.write_bytes(net.model({"x": [1]}, {"y": [1]}).SerializeToString())
    with pytest.raises(UserError, match="outside the network's folder"):
        read_model(path)


def test_a_download_cache_of_links_is_read(external: Path, tmp_path: Path) -> None:
    """Caches keep files under their digests and link to them; both links lead to the same folder."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name in ("net.onnx", "net.weights"):
        (external.parent / name).rename(blobs / f"blob-{name}")
        (snapshot / name).symlink_to(blobs / f"blob-{name}")
    assert len(Graph(read_model(snapshot / "net.onnx")).array("head.w")) == WIDTH


def test_the_float_network_is_never_written_over(external: Path, tmp_path: Path, no_single_file: None) -> None:
    data = external.parent / "net.weights"
    before = data.read_bytes()
    ranges = calibrate(external, [tokens(1, 2)], histograms=False)
    with pytest.raises(UserError, match=r"net\.weights: would overwrite the float network's data"):
        quantize(external, ranges, out=data, method="minmax")
    data.rename(external.parent / "q.onnx.data")
    model = onnx.load(external, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "q.onnx.data" if entry.key == "location" else entry.value
    external.write_bytes(model.SerializeToString())
    ranges = calibrate(external, [tokens(1, 2)], histograms=False)
    with pytest.raises(UserError, match=r"q\.onnx\.data: would overwrite the float network's data"):
        quantize(external, ranges, out=external.parent / "q.onnx", method="minmax")
    assert (external.parent / "q.onnx.data").read_bytes() == before
