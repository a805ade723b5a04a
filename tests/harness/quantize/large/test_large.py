"""Large networks: their weights stay on disk from reading to writing, and nothing else about the result differs.

Most tests lower the size from which a network counts as large, and take one of 10 MB through every step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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
from tests.harness.quantize.large.networks import LOWERED, WIDTH, dimensions, made, network, save_external, tokens

ENVIRONMENTS = ("gpu", "cpu", "fpga", "host")

Run = Callable[..., Any]


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
