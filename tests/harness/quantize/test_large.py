"""Large networks: their weights stay on disk from reading to writing, and nothing else about the result differs.

Most tests lower the size from which a network counts as large, and take one of 10 MB through every step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness.data import network_files, network_inputs
from harness.data.network_files import is_outside
from harness.errors import UserError
from harness.quantize import Quantizer, calibrate, describe_own, details, learnable_memory_bytes, prepare, quantize
from harness.quantize import external as external_tensors
from harness.quantize import quantizer as quantizer_module
from harness.quantize.external import is_light, scratch
from harness.quantize.graph import Graph, read_model, sha256_of
from harness.quantize.lift import default_opset
from harness.quantize.preparation import prepare_model
from harness.quantize.runtime import open_session
from harness.quantize.writing import as_single_file, data_file_of, write_model

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")
WIDTH = 512
LOWERED = 3 << 20
Run = Callable[..., Any]


def network(builder: Callable[..., Any], opset: int = 17, width: int = WIDTH) -> ModelProto:
    """Ten matrices of `width`², free batch and sequence axes, and everything that preparing changes in weights."""
    net = builder(5)

    def matrix(name: str) -> str:
        return str(net.weights(name, width, width))

    current = "tokens"
    for index in range(4):
        net.add("MatMul", [current, matrix(f"up{index}.w")], f"up{index}")
        net.add("Add", [f"up{index}", net.weights(f"up{index}.b", width, gain=0.1)], f"biased{index}")
        net.add("Relu", [f"biased{index}"], f"relu{index}")
        net.add("MatMul", [f"relu{index}", matrix(f"down{index}.w")], f"down{index}")
        net.add("Add", [current, f"down{index}"], f"sum{index}")
        current = f"sum{index}"
    # a weight that is transposed at run time, and a factor per channel that goes into the weights before it
    net.add("Transpose", [matrix("turned.w")], "turned.t", perm=[1, 0])
    net.add("MatMul", [current, "turned.t"], "turned")
    net.add("Mul", ["turned", net.constant("gain", np.linspace(0.5, 1.5, width, dtype=np.float32))], "scaled")
    net.add("MatMul", ["scaled", matrix("head.w")], "logits")
    net.add("Softmax", ["logits"], "scores", axis=-1)
    return net.model({"tokens": ["batch", "length", width]}, {"scores": ["batch", "length", width]}, opset)  # type: ignore[no-any-return]


def save_external(model: ModelProto, path: Path) -> Path:
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=1024)
    return path


def tokens(batch: int, length: int, seed: int = 0, width: int = WIDTH) -> dict[str, NDArray[np.float32]]:
    return {"tokens": np.random.default_rng(seed).normal(size=(batch, length, width)).astype(np.float32)}


def dimensions(model: ModelProto) -> list[list[str | int]]:
    values = (*model.graph.input, *model.graph.output)
    return [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]


@pytest.fixture(name="external")
def _external(tmp_path: Path, builder: Callable[..., Any]) -> Path:
    (tmp_path / "float").mkdir()
    return save_external(network(builder), tmp_path / "float" / "net.onnx")


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of 3 MB are large ones."""
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", LOWERED)


@pytest.fixture
def no_single_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single file ends at 2 MB, and a large network begins at 1."""
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", 1 << 20)
    monkeypatch.setattr(network_files, "MAX_SINGLE_FILE_BYTES", 2 << 20)


def made(path: Path, out: Path, environment: str) -> Any:  # noqa: ANN401 (a QuantizedModel)
    batches = [tokens(2, 3), tokens(2, 5, seed=1)]
    ranges = calibrate(path, batches, environment=environment)
    # the cheap step of recovery: the others have a test of their own
    return quantize(path, ranges, environment=environment, out=out, held_back=batches[:1], recover=("bias-correction",))


def test_weights_of_a_large_network_are_not_in_memory(external: Path, lowered: None) -> None:
    model = read_model(external)
    assert is_light(model)
    assert model.ByteSize() < 64 << 10 < 9 << 20 < learnable_memory_bytes(external)
    graph = Graph(model)
    expected = onnx.load(external)
    for tensor in expected.graph.initializer:
        assert np.array_equal(graph.array(tensor.name), numpy_helper.to_array(tensor))
        assert is_outside(graph.initializers[tensor.name]) == (tensor.name.endswith(".w"))
    assert not graph.array("head.w").flags.writeable


def test_smaller_networks_are_read_whole(external: Path) -> None:
    assert not is_light(read_model(external))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_where_weights_are_held_changes_no_bit(
    environment: str, external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(external, tmp_path / "whole.onnx", environment)
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", LOWERED)
    light = made(external, tmp_path / "light.onnx", environment)
    assert light.digest == whole.digest
    assert (tmp_path / "light.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert {item.name for item in tmp_path.iterdir()} == {"float", "light.onnx", "whole.onnx"}


def test_recovery_finds_the_same_from_disk(
    builder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps; a narrow network, as some of them cost the cube of the width."""
    path = save_external(network(builder, width=192), tmp_path / "net.onnx")
    batches = [tokens(2, 3, seed, width=192) for seed in range(3)]
    results = []
    for threshold in (1 << 40, 1 << 20):
        monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", threshold)
        assert is_light(read_model(path)) == (threshold == 1 << 20)
        ranges = calibrate(path, batches)
        results.append(quantize(path, ranges, out=tmp_path / f"{threshold}.onnx", held_back=batches[:1]))
    assert results[0].digest == results[1].digest
    assert {step.name for step in results[1].steps} >= {"bias-correction", "rounding"}


def test_recovery_has_a_budget(external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer_module, "MOST_STEPS", 1e9)
    ranges = calibrate(external, [tokens(1, 2)])
    result = quantize(external, ranges, out=tmp_path / "q.onnx")
    assert [step.name for step in result.steps] == ["bias-correction"]
    assert any("bias correction alone" in note for note in result.notes)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_free_axes_stay_free(environment: str, external: Path, tmp_path: Path, lowered: None, run: Run) -> None:
    out = made(external, tmp_path / "q.onnx", environment).path
    assert dimensions(onnx.load(out)) == [["batch", "length", WIDTH]] * 2
    assert network_inputs(out) == network_inputs(external)
    onnx.checker.check_model(str(out), full_check=True)
    for batch, length in ((1, 9), (4, 2)):
        feed = tokens(batch, length, seed=7)
        reference, quantized = run(external, feed)[0], run(out, feed, optimized=True)[0]
        assert quantized.shape == (batch, length, WIDTH)
        agree = (reference.argmax(axis=-1) == quantized.argmax(axis=-1)).mean()
        assert agree > 0.6, "512 classes of random weights: chance is 0.002"


def test_prepared_once_is_prepared_for_all(
    external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    whole = prepare(external, tmp_path / "whole.onnx")
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", LOWERED)
    light = prepare(external, tmp_path / "light.onnx")
    again = prepare(light, tmp_path / "again.onnx")  # a large single file, read without its weights
    assert is_light(read_model(light))
    assert light.read_bytes() == whole.read_bytes() == again.read_bytes()
    assert not {"Transpose", "Mul"} & {node.op_type for node in onnx.load(light).graph.node}
    assert np.allclose(run(external, tokens(2, 3))[0], run(light, tokens(2, 3))[0], atol=1e-6)


def test_old_opsets_and_half_precision_are_lifted_from_disk(
    builder: Callable[..., Any], tmp_path: Path, lowered: None, run: Run
) -> None:
    model = network(builder, opset=11)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = save_external(model, tmp_path / "half.onnx")
    with scratch():
        prepared = prepare_model(read_model(path), "half").model
        assert is_light(prepared)
        assert prepared.ByteSize() < 256 << 10
        assert default_opset(prepared) >= 13
        assert Graph(prepared).array("head.w.float32").dtype == np.float32
        feed = {"tokens": tokens(2, 3)["tokens"].astype(np.float16)}
        mine = open_session(prepared, "half").run(None, feed)[0]
    assert np.allclose(run(path, feed)[0].astype(np.float32), mine.astype(np.float32), atol=0.02)


def test_scratch_files_are_gone_when_the_work_ends(
    external: Path, tmp_path: Path, lowered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with scratch():
        prepare_model(read_model(external), "net")
        assert list((tmp_path / "temporary").rglob("*.bin")), "folded weights are new tensors"
    assert not list((tmp_path / "temporary").iterdir())
    made(external, tmp_path / "q.onnx", "cpu")
    prepare(external, tmp_path / "p.onnx")
    assert not list((tmp_path / "temporary").iterdir())


def test_pages_looked_at_earlier_are_given_back(external: Path, lowered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 3 * 4 * WIDTH**2
    monkeypatch.setattr(external_tensors, "RESIDENT_BYTES", limit)
    graph = Graph(read_model(external))
    names = [name for name in graph.initializers if name.endswith(".w")]
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(external).graph.initializer}

    def resident() -> int:
        pages = 0
        wanted = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split(" ", 1)[0]:
                wanted = line.endswith("net.weights")
            elif wanted and line.startswith("Rss:"):
                pages += int(line.split()[1]) << 10
        return pages

    if not Path("/proc/self/smaps").exists():
        pytest.skip("this system does not say which pages are resident")
    held = []
    for name in names:
        held.append((name, graph.array(name)))
        assert held[-1][1].sum() == expected[name].sum()
        assert resident() <= limit + (1 << 20)
    assert resident() > 0
    for name, array in held:
        assert np.array_equal(array, expected[name]), "a view stays valid; its pages come back"


def test_validation_sessions_and_details(external: Path, tmp_path: Path, lowered: None) -> None:
    quantizer = Quantizer(external, "cpu")
    table = quantizer.calibrate([tokens(2, 3), tokens(3, 4)], layers="all")
    weights = numpy_helper.to_array(next(t for t in onnx.load(external).graph.initializer if t.name == "up0.w"))
    row = table[table["Optimized Layer Name"] == "up0_Weights"].iloc[0]
    assert (row["MinValue"], row["MaxValue"]) == (weights.min(), weights.max())
    result = quantizer.quantize(tmp_path / "q.onnx", recover=())
    assert details(result.path).IsQuantized
    assert describe_own(result.path) == replace(result, steps=())
    validated = quantizer.validate([tokens(2, 3, seed=5), tokens(1, 8, seed=6)])
    assert validated.NumSamples == 3
    assert validated.sqnr_db > 15
    first, second = validated.Statistics["LearnableParameterMemory(bytes)"]
    assert first == learnable_memory_bytes(external)
    assert second < 0.3 * first  # the transposed weight counts once it is a constant
    counts = quantizer.histogram("up0", "Weights").counts
    assert sum(counts.values()) == weights.size
    quantizer.save(tmp_path / "s.quantrig")
    again = Quantizer.load(tmp_path / "s.quantrig")
    assert again.quantize(tmp_path / "again.onnx", recover=()).digest == result.digest


def test_an_int8_network_above_the_limit_has_a_data_file(
    external: Path, tmp_path: Path, no_single_file: None, run: Run
) -> None:
    results = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        results.append(made(external, tmp_path / name / "q.onnx", "cpu"))
    result, second = results
    assert data_file_of(result.path).name == "q.onnx.data"
    assert any("q.onnx.data" in note and "agent" in note for note in result.notes)
    assert result.path.stat().st_size < 1 << 20 < 5 << 19 <= data_file_of(result.path).stat().st_size
    onnx.checker.check_model(str(result.path), full_check=True)
    assert run(result.path, tokens(2, 3))[0].shape == (2, 3, WIDTH)
    assert dimensions(onnx.load(result.path)) == [["batch", "length", WIDTH]] * 2
    assert second.digest == result.digest == sha256_of(result.path)
    assert data_file_of(second.path).read_bytes() == data_file_of(result.path).read_bytes()
    assert describe_own(result.path) == replace(result, steps=())
    with pytest.raises(UserError, match=r"GB cannot travel to an agent.*on this machine"):
        as_single_file(result.path, tmp_path / "single.onnx")
    assert not (tmp_path / "single.onnx").exists()


def test_a_network_packed_for_an_agent_is_one_file(external: Path, tmp_path: Path) -> None:
    packed = as_single_file(external, tmp_path / "packed.onnx")
    moved = tmp_path / "elsewhere" / "packed.onnx"
    moved.parent.mkdir()
    packed.rename(moved)
    for mine, given in zip(
        onnx.load(moved, load_external_data=False).graph.initializer, onnx.load(external).graph.initializer, strict=True
    ):
        assert mine.data_location == TensorProto.DEFAULT
        assert np.array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(given))
    assert as_single_file(moved, tmp_path / "never.onnx") == moved
    assert not (tmp_path / "never.onnx").exists()


def test_streamed_bytes_are_those_of_protobuf(branched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a network can hold, written from files piece by piece and by protobuf in one go."""
    model = onnx.load(branched)
    model.doc_string, model.producer_version, model.domain, model.model_version = "docs", "1", "lab", 3
    model.graph.doc_string = "graph"
    model.metadata_props.add(key="k", value="v")
    model.graph.value_info.append(helper.make_tensor_value_info("stem", TensorProto.FLOAT, None))
    model.graph.initializer[0].doc_string = "weights"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty"))
    model.graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [2], [1.0, 2.0]))
    model.functions.append(helper.make_function("lab", "Twice", ["a"], ["b"], [], [helper.make_opsetid("", 13)]))
    write_model(model, tmp_path / "whole.onnx")
    monkeypatch.setattr(network_files, "LARGE_NETWORK_BYTES", 1)
    monkeypatch.setattr(network_files, "SMALL_TENSOR_BYTES", 1)
    light = read_model(tmp_path / "whole.onnx")
    assert is_light(light)
    write_model(light, tmp_path / "streamed.onnx")
    content = (tmp_path / "streamed.onnx").read_bytes()
    assert content == (tmp_path / "whole.onnx").read_bytes() == model.SerializeToString(deterministic=True)


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


COMMAND = """
import sys
from harness.data import network_files
network_files.LARGE_NETWORK_BYTES = int(sys.argv.pop(1))
from harness.cli.main import main
main()
"""


def test_commands_take_large_networks(external: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", tokens=tokens(6, 4)["tokens"])
    digests = set()
    for threshold in (1 << 40, LOWERED):
        out = tmp_path / f"{threshold}.onnx"
        arguments = [str(external), "--data", str(tmp_path / "data.npz"), "--environment", "gpu", "-o", str(out)]
        arguments += ["--recover", "none", "--json"]
        command = [sys.executable, "-c", COMMAND, str(threshold), "quantize", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests.add(json.loads(done.stdout)["digest"])
    assert len(digests) == 1
    (external.parent / "net.weights").unlink()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "copy the data file" in done.stderr


# ---- the real thing -----------------------------------------------------------------------------------------------

LAYERS, SIDE = 33, 4096
GIB = 1 << 30

MEASURED = """
import json, sys, time
import numpy as np
from dataclasses import replace
from pathlib import Path
from harness.quantize import calibrate, quantize
model, out, side = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)
batches = [{"tokens": rng.standard_normal((2, length, side), dtype=np.float32)} for length in (3, 4)]
before_s = time.process_time()
ranges = calibrate(model, iter(batches), environment=sys.argv[4])
result = quantize(model, ranges, environment=sys.argv[4], out=out, held_back=batches[:1])
print(json.dumps({
    "peak_bytes": int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))) << 10,
    "cpu_s": time.process_time() - before_s,
    "layers": result.quantized_layers,
    "digest": result.digest,
}))
"""


@pytest.fixture(name="huge", scope="module")
def _huge() -> Iterator[Path]:
    """A network of 2.2 GB with free axes, in a folder of its own that is deleted afterwards."""
    if psutil.virtual_memory().total < 12 * GIB:
        pytest.skip("needs 12 GiB of memory")
    if shutil.disk_usage(tempfile.gettempdir()).free < 8 * GIB:
        pytest.skip("needs 8 GiB of disk in the temporary folder")
    with tempfile.TemporaryDirectory(prefix="quantrig-huge-") as folder:
        path = Path(folder) / "huge.onnx"
        rng = np.random.default_rng(0)
        block = rng.standard_normal((SIDE, SIDE), dtype=np.float32) / np.float32(np.sqrt(SIDE))
        nodes, constants, current = [], [], "tokens"
        with path.with_name("huge.weights").open("wb") as data:
            for index in range(LAYERS):
                weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
                weight.data_location = TensorProto.EXTERNAL
                entries = {"location": "huge.weights", "offset": data.tell(), "length": block.nbytes}
                for key, value in entries.items():
                    weight.external_data.add(key=key, value=str(value))
                np.roll(block, 977 * index, axis=1).tofile(data)
                bias = numpy_helper.from_array(rng.normal(size=SIDE).astype(np.float32) * np.float32(0.1), f"b{index}")
                constants += [weight, bias]
                nodes.append(helper.make_node("MatMul", [current, weight.name], [f"m{index}"], name=f"m{index}"))
                nodes.append(helper.make_node("Add", [f"m{index}", bias.name], [f"a{index}"], name=f"a{index}"))
                nodes.append(helper.make_node("Relu", [f"a{index}"], [f"r{index}"], name=f"r{index}"))
                current = f"r{index}"
        axes: list[str | int] = ["batch", "length", SIDE]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("tokens", current)]
        graph = helper.make_graph(nodes, "huge", values[:1], values[1:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        yield path


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", ["cpu", "gpu"])
def test_more_than_two_gigabytes_in_less_than_three_times_the_memory(huge: Path, environment: str) -> None:
    size = sum(file.stat().st_size for file in huge.parent.glob("huge.*"))
    assert size > 2**31
    out = huge.parent / f"int8.{environment}.onnx"
    limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, str(huge), str(out), str(SIDE), environment]
    try:
        done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        measured = json.loads(done.stdout)
        assert measured["peak_bytes"] < 3 * size
        # Well under the promise: ONNX Runtime's packed weights once, and little beside them.
        assert measured["peak_bytes"] < 1.6 * size
        assert measured["cpu_s"] < 300
        assert measured["layers"] == 3 * LAYERS
        assert size / 4 < out.stat().st_size < 0.27 * size
        assert measured["digest"] == hashlib.sha256(out.read_bytes()).hexdigest()
        assert dimensions(onnx.load(out)) == [["batch", "length", SIDE]] * 2
        session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        for batch, length in ((1, 5), (3, 2)):
            feed = np.random.default_rng(2).standard_normal((batch, length, SIDE), dtype=np.float32)
            assert session.run(None, {"tokens": feed})[0].shape == (batch, length, SIDE)
    finally:
        out.unlink(missing_ok=True)
