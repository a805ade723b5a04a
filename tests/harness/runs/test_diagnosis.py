"""A real agent whose arithmetic is wrong in one layer: the report names the layer and the mistake."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import harness
from harness.emulation.diagnose.points import find_points
from harness.emulation.diagnose.values import Diagnosis, LayerDifference
from harness.errors import UserError
from harness.quantize import Quantizer
from harness.quantize.graph import read_model
from harness.runs.diagnosis import diagnose_on
from harness.targets.boards import Environment
from harness.targets.target import Bitstream, Target, Via

ROOT = Path(__file__).resolve().parents[3]
Diagnose = Callable[..., Diagnosis]
SAMPLES = 4
#: For a loaded machine.
START_S = 30.0


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small_network(batch: int | str = "n") -> onnx.ModelProto:
    """Three convolutions with a sum in between, pooling and a classifier; sums are large, so that pairs saturate."""
    random = np.random.default_rng(3)

    def stored(name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> None:
        weights.append(numpy_helper.from_array(random.uniform(low, high, shape).astype(np.float32), name))

    weights: list[onnx.TensorProto] = []
    # high activations and weights of one sign: some neighbouring products reach beyond 16 bits in b and c
    stored("a.w", 8, 4, 3, 3)
    stored("a.b", 8, low=7, high=9)
    stored("b.w", 8, 8, 3, 3, low=0.7)
    stored("b.b", 8)
    stored("c.w", 6, 8, 1, 1, low=0.8)
    stored("c.b", 6, low=0.5, high=0.5)  # on the grid, so that halves come up
    stored("d.w", 5, 6)
    stored("d.b", 5)
    nodes = [
        helper.make_node("Conv", ["x", "a.w", "a.b"], ["a0"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a0"], ["a1"], "a.relu"),
        helper.make_node("Conv", ["a1", "b.w", "b.b"], ["b0"], "b", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b0"], ["b1"], "b.relu"),
        helper.make_node("Add", ["a1", "b1"], ["s"], "sum"),
        helper.make_node("Conv", ["s", "c.w", "c.b"], ["c0"], "c", strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["c1"], "c.relu"),
        helper.make_node("GlobalAveragePool", ["c1"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "d.w", "d.b"], ["y"], "d", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).uniform(-1, 1, (count, 4, 12, 12)).astype(np.float32)


@dataclass(frozen=True)
class Int8:
    """One network under one environment's rules."""

    path: Path
    environment: Environment

    def integers(self, layer: str) -> str:
        return next(point.tensor for point in find_points(read_model(self.path)) if point.layer == layer)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Environment], Int8]:
    folder = tmp_path_factory.mktemp("small")
    onnx.save(small_network(), folder / "small.onnx")
    made: dict[str, Int8] = {}

    def quantized(environment: Environment) -> Int8:
        if environment not in made:
            session = Quantizer(folder / "small.onnx", environment)
            session.calibrate([{"x": samples(16)}])
            session.quantize(folder / f"{environment}.onnx", method="minmax")
            made[environment] = Int8(folder / f"{environment}.onnx", environment)
        return made[environment]

    return quantized


@contextlib.contextmanager
def board(folder: Path, options: list[str], *, fault: str, layer: str, integers: str) -> Iterator[str]:
    """An agent installed in a folder of its own beside the runtime `wrong`; its address."""
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "agents", folder / "agents", ignore=ignored)
    shutil.copy(ROOT / "tests" / "agents_wrong" / "wrong_runtimes.py", folder)
    info = folder / "wrong_runtimes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-runtimes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantrig.agent.runtimes]\nwrong = wrong_runtimes:Wrong\n")
    (folder / "wrong.json").write_text(json.dumps({"fault": fault, "layer": layer, "integers": integers}))
    command = [sys.executable, "-m", "agents", "serve", "--listen", "127.0.0.1:0", "--data", str(folder / "data")]
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ready-json", "--exit-on-stdin-eof", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_S)
        line = process.stdout.readline() if ready else b""
        assert line, (folder / "agent.log").read_text()
        yield str(json.loads(line)["listening"])
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


@pytest.fixture
def diagnose(tmp_path: Path) -> Diagnose:
    """Diagnose a board with a fault; `emulated`: it runs the lowered network in place of the Q/DQ one."""

    def run(network: Int8, fault: str, layer: str, *, emulated: bool = False) -> Diagnosis:
        options = ["--board", "generic", *(["--emulated"] if emulated else [])]
        folder = tmp_path / "board"
        folder.mkdir()
        with board(folder, options, fault=fault, layer=layer, integers=network.integers(layer)) as address:
            target = Target("bench", "generic", network.environment, Via("address", address), tmp_path, runtime="wrong")
            feeds = [{"x": one[None]} for one in samples(SAMPLES)]
            return diagnose_on(target, tmp_path / "targets.yaml", network.path, feeds)

    return run


def found(diagnosis: Diagnosis, layer: str) -> LayerDifference:
    return next(one for one in diagnosis.layers if one.layer == layer)


def names(layer: LayerDifference) -> set[str]:
    return {kind.name for kind in layer.kinds}


@pytest.mark.parametrize(("environment", "emulated"), [("cpu", False), ("fpga", True), ("host", True), ("gpu", True)])
def test_an_exact_board_has_no_difference(
    int8: Callable[[Environment], Int8], diagnose: Diagnose, environment: Environment, emulated: bool
) -> None:
    told = diagnose(int8(environment), "nothing", "a", emulated=emulated)
    assert told.first is None
    assert told.outputs_differing == 0
    assert not told.notices
    # all of x, a, b, sum, c and pool, for every sample; what gpu keeps float in between is less
    least = SAMPLES * (4 * 144 + 3 * 8 * 144 + 6 * 36 + 6) if environment != "gpu" else SAMPLES * 1000
    assert told.values >= least
    assert told.summary.startswith(f"no difference in {told.values:,} values")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("pairs", "16-bit saturation of pairs"),
        ("stored bias doubled", "bias shifted left by one bit"),
        ("bias rolled", "bias of the channel before"),
    ],
)
def test_a_mistake_on_a_processor_is_named_with_its_layer(
    int8: Callable[[Environment], Int8], diagnose: Diagnose, fault: str, kind: str
) -> None:
    told = diagnose(int8("cpu"), fault, "b")
    first = told.first
    assert first is not None
    assert first.layer == "b"
    assert kind in names(first)
    assert 0 < first.differing <= first.values == SAMPLES * 8 * 144
    assert 0 < first.differing_samples <= SAMPLES
    assert sum(first.histogram.values()) == first.values
    assert first.values - first.histogram[0] == first.differing == sum(first.channels)
    # what comes after differs only because of it
    assert found(told, "sum").differing > 0
    assert [one.layer for one in told.own] == ["b"]
    assert found(told, "sum").verdict.startswith("inherited")
    assert kind in told.summary
    assert told.as_json()["first_difference"] == "b"
    assert kind in told.as_json()["kinds"]


@pytest.mark.parametrize(
    ("fault", "kind"), [("half-even", "rounding half-even"), ("bias doubled", "bias shifted left by one bit")]
)
def test_a_mistake_in_a_boards_own_arithmetic_is_named_with_its_layer(
    int8: Callable[[Environment], Int8], diagnose: Diagnose, fault: str, kind: str
) -> None:
    told = diagnose(int8("fpga"), fault, "c", emulated=True)
    first = told.first
    assert first is not None
    assert first.layer == "c"
    assert kind in names(first)
    assert [one.layer for one in told.own] == ["c"]
    if fault == "half-even":
        assert first.max_lsb == 1
        assert first.mean_lsb == 1


def test_a_processor_in_place_of_an_fpga_rounds_otherwise_everywhere(
    int8: Callable[[Environment], Int8], diagnose: Diagnose
) -> None:
    told = diagnose(int8("fpga"), "nothing", "b")
    own = [one for one in told.own if one.op_type == "Conv"]
    assert own
    assert all("rounding half-even" in names(one) for one in own)


def test_two_mistakes_at_once_are_both_named(int8: Callable[[Environment], Int8], diagnose: Diagnose) -> None:
    """A processor rounds half to even where the DPU rounds half up, and here it shifts a bias besides."""
    told = diagnose(int8("fpga"), "stored bias halved", "c")
    assert "bias shifted right by one bit and rounding half-even" in names(found(told, "c"))


def test_the_command_reports_publishes_and_goes_on(int8: Callable[[Environment], Int8], tmp_path: Path) -> None:
    network = int8("fpga")
    np.savez(tmp_path / "data.npz", x=samples(24))
    onnx.save(small_network(), tmp_path / "small.onnx")
    (tmp_path / "job.yaml").write_text(
        f"name: small\nmodel: small.onnx\nquantized: {network.path}\nmetrics: []\n"
        "data: {source: data.npz, calibration: 16, seed: 0}\n"
    )
    folder = tmp_path / "board"
    folder.mkdir()
    options = ["--board", "zcu102", "--emulated"]
    with board(folder, options, fault="bias doubled", layer="c", integers=network.integers("c")) as address:
        (tmp_path / "targets.yaml").write_text(
            f'targets:\n  bench: {{board: zcu102, environment: fpga, via: {{address: "{address}"}}, runtime: wrong}}\n'
            f'  odd: {{board: zcu102, environment: fpga, via: {{address: "{address}"}}, runtime: none-of-these}}\n'
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "harness", "run", "job.yaml", "--diagnose", "--diagnose-samples", "3"),
                *("--json", "--profile", "quick", "--out", "out", "--store", str(tmp_path / "store.db")),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 3, done.stderr  # the board without that runtime
    document = json.loads(done.stdout)
    (told,) = document["diagnosis"]
    assert told["target"] == "bench"
    assert told["samples"] == 3
    assert told["first_difference"] == "c"
    assert "bias shifted left by one bit" in told["kinds"]
    assert list(document["not_diagnosed"]) == ["odd"]
    assert document["run_id"]
    assert json.loads((tmp_path / "out" / "diagnosis.json").read_text()) == document["diagnosis"]
    page = (tmp_path / "out" / "diagnosis.html").read_text()
    assert "First difference in c (Conv)" in page
    assert "bench: first difference in c (Conv)" in (tmp_path / "out" / "report.html").read_text()
    differing = [layer for layer in told["layers"] if layer["differing"]]
    pictures = sorted((tmp_path / "out" / "diagnosis").iterdir())
    assert len(pictures) == len(differing) == page.count('class="difference"')
    for picture in pictures:
        assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_python_call_goes_by_the_rules_that_made_the_network(
    int8: Callable[[Environment], Int8], tmp_path: Path
) -> None:
    """`local` runs Q/DQ by ONNX Runtime, which is the reference of a cpu network."""
    target = Target("here", "generic", "fpga", Via("local"), tmp_path)  # the network's own rules decide, not these
    told = harness.diagnose(int8("cpu").path, [{"x": samples(6)}], target, samples=2, out=tmp_path / "out")
    assert told.environment == "cpu"
    assert told.samples == 2
    assert told.first is None
    assert (tmp_path / "out" / "diagnosis.html").is_file()


@pytest.mark.parametrize("bitstream", [None, Bitstream("zcu102_single", "zcu102_int8")])
def test_a_stand_in_computes_what_the_reference_does(
    int8: Callable[[Environment], Int8], tmp_path: Path, bitstream: Bitstream | None
) -> None:
    target = Target("here", "zcu102", "fpga", Via("emulated"), tmp_path, bitstream=bitstream)
    told = harness.diagnose(int8("fpga").path, [{"x": samples(2)}], target, samples=2)
    assert ("MathWorks" if bitstream else "DPUCZDX8G") in told.reference
    assert told.ran == told.reference
    assert told.first is None
    assert told.outputs_differing == 0


def test_samples_of_a_fixed_batch_count_once(tmp_path: Path) -> None:
    onnx.save(small_network(2), tmp_path / "two.onnx")
    session = Quantizer(tmp_path / "two.onnx", "cpu")
    session.calibrate([{"x": samples(16)}])
    made = session.quantize(tmp_path / "two.int8.onnx", method="minmax")
    told = harness.diagnose(
        made, [{"x": samples(6)}], Target("here", "generic", "cpu", Via("local"), tmp_path), samples=3
    )
    assert told.samples == 3
    assert found(told, "b").values == 3 * 8 * 144
    assert told.first is None


def test_a_float_network_has_nothing_to_compare(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "small.onnx")
    target = Target("here", "generic", "cpu", Via("local"), tmp_path)
    with pytest.raises(UserError, match="nothing to compare: the network has no layer with integers"):
        harness.diagnose(tmp_path / "small.onnx", [{"x": samples(1)}], target)
