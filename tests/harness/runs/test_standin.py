"""What runs in a board's place: whose arithmetic, what is taken over on resuming, and what cannot be lowered."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.demo import JOB
from harness.record.figure import Network, Source
from harness.record.networks import Shipment
from harness.record.target import TargetRecord
from harness.runs.lowering import OtherNetwork, arithmetic_of, lowered_file
from harness.runs.networks import NetworkFile, network_file
from harness.runs.standin import StandIns
from harness.targets.lab import parse_lab
from harness.targets.target import Target

FLOAT = JOB.parent / "digits.onnx"
LAB = """\
targets:
  streams: {board: zcu102, via: emulated, bitstream: {int8: zcu102_int8}}
  units: {board: zcu102, via: emulated, dpu: {arch: B512}}
  usual: {board: kv260, via: emulated}
  jetson: {board: jetson-orin-nano, via: emulated}
  nowhere: {board: generic, environment: host, via: emulated}
  pi: {board: raspberry-pi-4, via: emulated}
"""


def target(name: str) -> Target:
    return parse_lab(LAB, Path("t.yaml")).targets[name]


def before(name: str) -> TargetRecord:
    one = target(name)
    return TargetRecord(name, one.board, one.environment, "emulated", Source.EMULATED, "pending")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> NetworkFile:
    out = tmp_path_factory.mktemp("int8") / "digits.int8.onnx"
    made = harness.Quantizer(FLOAT, environment="fpga")
    made.calibrate([{"image": np.random.default_rng(0).random((16, 1, 32, 32), dtype=np.float32)}])
    made.quantize(out, method="minmax")
    return network_file(out, out.parent)


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [("streams", "mathworks"), ("units", "dpu"), ("usual", "dpu"), ("jetson", "gpu"), ("nowhere", "host")],
)
def test_whose_arithmetic(name: str, arithmetic: str) -> None:
    found = arithmetic_of(target(name))
    assert found is not None
    assert found.name == arithmetic


def test_what_onnx_runtime_computes_itself_is_not_lowered(int8: NetworkFile, tmp_path: Path) -> None:
    assert arithmetic_of(target("pi")) is None
    standin = StandIns(tmp_path, "digits", FLOAT).of(target("pi"), int8, before("pi"))
    assert (standin.file, standin.lowered, standin.designs, standin.notes) == (int8, None, (), ())


def test_memory_is_that_of_the_int8_network(int8: NetworkFile, tmp_path: Path) -> None:
    standin = StandIns(tmp_path, "digits", FLOAT).of(target("units"), int8, before("units"))
    assert standin.lowered is not None
    assert standin.file.digest == standin.lowered.digest != int8.digest
    assert standin.file.size_bytes > 2 * int8.size_bytes  # its weights lie in float32
    assert standin.file.learnable_bytes == int8.learnable_bytes
    assert standin.file.disabled_optimizers == standin.lowered.disabled_optimizers


def test_two_targets_of_one_arithmetic_share_the_graph(int8: NetworkFile, tmp_path: Path) -> None:
    standins = StandIns(tmp_path, "digits", FLOAT)
    first, second = (standins.of(target(name), int8, before(name)) for name in ("units", "usual"))
    assert first.file == second.file
    assert first.designs != second.designs
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["digits.dpu.lowered.onnx"]


def test_what_was_lowered_is_taken_over_or_made_again_but_never_another(int8: NetworkFile, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    arithmetic = arithmetic_of(target("units"))
    assert arithmetic is not None
    file, known = lowered_file(int8, arithmetic, out)
    written = out.stat().st_mtime_ns
    assert lowered_file(int8, arithmetic, out, known) == (file, known)
    assert out.stat().st_mtime_ns == written
    out.write_bytes(b"damaged")
    assert lowered_file(int8, arithmetic, out, known) == (file, known)
    with pytest.raises(OtherNetwork, match="not the one that the run began with; start a new run"):
        lowered_file(int8, arithmetic, out, replace(known, digest="0" * 64))


def test_a_network_without_int8_layers_runs_as_it_is_and_says_so(tmp_path: Path) -> None:
    copy = shutil.copy(FLOAT, tmp_path / "own.onnx")
    own = network_file(Path(copy), tmp_path)
    standin = StandIns(tmp_path, "digits", FLOAT).of(target("units"), own, before("units"))
    assert (standin.file, standin.lowered) == (own, None)
    (note,) = standin.notes
    assert note.startswith("not lowered to the board's arithmetic: ")
    assert standin.designs[1].rows[0].value is not None  # its speed is modelled all the same


def test_a_target_that_began_with_the_int8_network_ends_with_it(int8: NetworkFile, tmp_path: Path) -> None:
    """A run of an earlier version: outputs of two arithmetics are never joined."""
    sent = replace(before("units"), shipments=(Shipment(Network.QUANTIZED, int8.digest, 1, 1, skipped=False),))
    standin = StandIns(tmp_path, "digits", FLOAT).of(target("units"), int8, sent)
    assert (standin.file, standin.lowered) == (int8, None)
