"""Sensitivity and mixed precision on a board: real agents on this machine, measured and stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import harness
from harness.errors import Unreachable, UserError

Images = npt.NDArray[np.float32]

LAB = """\
targets:
  here: {board: generic, environment: cpu, via: local}
  stand-in: {board: raspberry-pi-4, environment: cpu, via: emulated}
  gone: {board: generic, environment: cpu, via: {address: "127.0.0.1:9"}}
"""


def network(path: Path) -> None:
    """Two branches that compute the same, one with forty times the work; behind them a softmax."""
    rng = np.random.default_rng(0)
    kernel = (rng.standard_normal((8, 3, 1, 1)) * 0.3).astype(np.float32)
    kernel[:, 2] = 9  # channel 2 of the images is empty: these weights only widen the tensor's scale
    large = np.zeros((8, 3, 13, 13), np.float32)
    large[:, :, 6, 6] = kernel[:, :, 0, 0]
    constants = {"small.w": kernel, "large.w": large}
    nodes = [
        helper.make_node("Conv", ["x", "large.w"], ["large"], name="large", pads=[6] * 4),
        helper.make_node("Conv", ["x", "small.w"], ["small"], name="small"),
        helper.make_node("Concat", ["large", "small"], ["both"], name="both", axis=1),
        helper.make_node("Relu", ["both"], ["relu"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["logits"], name="flat"),
        helper.make_node("Softmax", ["logits"], ["y"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 24, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "targets.yaml").write_text(LAB)
    network(tmp_path / "net.onnx")


@pytest.fixture
def x() -> Images:
    x = np.random.default_rng(1).standard_normal((40, 3, 24, 24)).astype(np.float32)
    x[:, 2] = 0
    return x


@pytest.fixture
def quantizer(x: Images) -> harness.Quantizer:
    made = harness.Quantizer("net.onnx", environment="host")
    made.calibrate([{"x": x[:24]}], layers="all")
    return made


@pytest.mark.parametrize("target", ["here", "stand-in"])
def test_a_board_ranks_as_this_machine_does(
    quantizer: harness.Quantizer, tmp_path: Path, x: Images, target: str
) -> None:
    """The agent runs the same files with the same runtime: the same figures, scores before the softmax included."""
    labels = np.arange(16)
    options = {"method": "minmax", "exclude": ["both", "pool"]}
    here = quantizer.sensitivity([(x[24:], labels)], **options)  # type: ignore[arg-type]
    journal = tmp_path / "journal"
    there = quantizer.sensitivity([(x[24:], labels)], **options, target=target, resume=journal)  # type: ignore[arg-type]
    columns = ["gain_db", "gain_error_db", "alone_db", "agreement_gain", "alone_agreement", "gain_points"]
    first, second = (table.set_index("Layer").sort_index() for table in (here, there))
    assert list(first.index) == ["large", "small"] == list(second.index)
    for column in columns:
        assert second[column].to_numpy() == pytest.approx(first[column].to_numpy(), abs=0.02, nan_ok=True)
    assert there.attrs["int8_db"] == pytest.approx(here.attrs["int8_db"], abs=0.02)
    # A board's figures are not this machine's: the journal tells them apart.
    size = journal.stat().st_size
    quantizer.sensitivity([(x[24:], labels)], **options, resume=journal)  # type: ignore[arg-type]
    assert journal.stat().st_size > size


def test_the_board_decides_which_of_two_equal_layers_stays_float(
    quantizer: harness.Quantizer, tmp_path: Path, x: Images
) -> None:
    held, others = [{"x": x[24:]}], ["both", "pool"]
    ranking = quantizer.sensitivity(held, method="minmax", exclude=others)
    gains = ranking.set_index("Layer")["gain_db"]
    assert gains["small"] == pytest.approx(gains["large"], abs=0.1)
    goal = float(ranking.attrs["int8_db"]) + 0.5 * float(gains.min())
    quantizer.quantize(
        "q.onnx", others, method="minmax", held_back=held, sqnr_target=goal, target="here", recover=["bias-correction"]
    )
    mixed = quantizer.mixed
    assert mixed is not None
    assert mixed.met
    assert set(mixed.latency_ms) == {"small", "large"}
    # Whichever is slower in float on the machine that runs this test: its times decided.
    assert mixed.float_layers == (min(("small", "large"), key=lambda name: mixed.latency_ms[name]),)


def test_boards_that_cannot_say_it(quantizer: harness.Quantizer, tmp_path: Path, x: Images) -> None:
    held = [{"x": x[24:]}]
    with pytest.raises(UserError, match="a stand-in has no times"):
        quantizer.quantize("q.onnx", held_back=held, sqnr_target=30, target="stand-in")
    with pytest.raises(UserError, match="in place of latency"):
        quantizer.quantize("q.onnx", held_back=held, target="here")
    with pytest.raises(Unreachable, match=r"^gone: "):
        quantizer.sensitivity(held, target="gone")
    with pytest.raises(UserError, match="exclude each other"):
        quantizer.sensitivity(held, target="stand-in", processes=2)
    assert not (tmp_path / "q.onnx").exists()
