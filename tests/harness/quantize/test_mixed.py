"""Mixed precision: the set found against every set there is, and targets that cannot be met."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize import Calibration, QuantizedModel, Quantizer, calibrate, quantize
from harness.quantize.goal import Goal, Kind
from harness.quantize.graph import read_model
from harness.quantize.mixed import MixedPrecision, mixed_precision

Images = NDArray[np.float32]


@pytest.fixture
def chain(tmp_path: Path, builder: Callable[..., Any]) -> Path:
    """Five convolutions and a classifier; under one scale per tensor two of them are bad."""
    net = builder(1)
    data = "image"
    for number in range(5):
        w = (net.rng.normal(size=(4, 3 if number == 0 else 4, 3, 3)) * 0.25).astype(np.float32)
        if number in {0, 2}:
            w[3] = 0  # nothing passes on channel 3 …
        if number in {1, 3}:
            w[:, 3] = 6  # … so that these weights do nothing but widen the one scale of their tensor
        net.constant(f"w{number}", w)
        net.add("Conv", [data, f"w{number}"], f"conv{number}", pads=[1] * 4)
        data = net.add("Relu", [f"conv{number}"], f"relu{number}")
    net.add("GlobalAveragePool", [data], "gap")
    net.add("Flatten", ["gap"], "flat")
    net.add("Gemm", ["flat", net.weights("fc.w", 6, 4), net.weights("fc.b", 6)], "logits", transB=1)
    path = tmp_path / "chain.onnx"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"logits": ["N", 6]}), path)
    return path


@pytest.fixture
def calibration(chain: Path, images: Callable[..., Images]) -> Calibration:
    return calibrate(chain, [{"image": images(16)}], environment="fpga", layers="all")


@pytest.fixture
def x(images: Callable[..., Images]) -> Images:
    return images(24, seed=8)


def search(chain: Path, calibration: Calibration, x: Images, out: Path, goal: Goal, **options: Any) -> MixedPrecision:  # noqa: ANN401 (as mixed_precision)
    arguments: dict[str, Any] = {
        "environment": "fpga", "method": "minmax", "held_back": [{"image": x}], "recover": ["bias-correction"],
    } | options  # fmt: skip
    return mixed_precision(chain, calibration, goal=goal, out=out, **arguments)


def measured(chain: Path, made: Path, x: Images, run: Callable[..., Any]) -> tuple[float, float]:
    """(SQNR dB, agreement) by other code, without graph optimization."""
    reference, other = (np.asarray(run(read_model(path), {"image": x})[0], float) for path in (chain, made))
    sqnr = 10 * np.log10(np.sum(reference**2) / np.sum((reference - other) ** 2))
    return float(sqnr), float((reference.argmax(1) == other.argmax(1)).mean())


def test_the_set_beside_every_set_there_is(
    chain: Path, tmp_path: Path, calibration: Calibration, x: Images, run: Callable[..., Any]
) -> None:
    layers = [f"conv{number}" for number in range(5)] + ["gap", "logits"]

    def sqnr(floats: tuple[str, ...]) -> float:
        made = quantize(
            chain, calibration, environment="fpga", method="minmax", exclude=floats, out=tmp_path / "one.onnx",
            held_back=[{"image": x}], recover=["bias-correction"],
        )  # fmt: skip
        return measured(chain, made.path, x, run)[0]

    every = {floats: sqnr(floats) for size in range(4) for floats in itertools.combinations(layers, size)}
    # The third is met by one pair of all, whose layers gain little one by one: a ranking may miss it by one layer.
    hardest = max(value for floats, value in every.items() if len(floats) == 2) - 0.05
    for asked, more in ((every[()] + 1, 0), (every[()] + 4, 0), (hardest, 1)):
        least = min(len(floats) for floats, value in every.items() if value >= asked)
        found = search(chain, calibration, x, tmp_path / "out.onnx", Goal(Kind.SQNR_DB, asked))
        assert found.met
        assert least <= len(found.float_layers) <= least + more, found.note
        assert found.achieved == pytest.approx(measured(chain, tmp_path / "out.onnx", x, run)[0], abs=0.02)
        assert set(found.float_layers) <= {name for name, _ in found.quantized.kept_float}


def test_a_target_that_int8_meets_needs_no_ranking(
    chain: Path, tmp_path: Path, calibration: Calibration, x: Images
) -> None:
    found = search(chain, calibration, x, tmp_path / "out.onnx", Goal(Kind.SQNR_DB, 1.0))
    assert (found.float_layers, found.met, len(found.path), found.ranking) == ((), True, 1, ())
    assert found.note.startswith("target met with every layer int8: SQNR ")
    assert found.quantized.notes[-1] == found.note


def test_a_missed_target_is_said_and_the_best_is_written(
    chain: Path, tmp_path: Path, calibration: Calibration, x: Images, run: Callable[..., Any]
) -> None:
    found = search(chain, calibration, x, tmp_path / "out.onnx", Goal(Kind.SQNR_DB, 90.0), most_float=2)
    assert not found.met
    assert len(found.float_layers) <= 2
    assert found.note.startswith(f"target missed: best SQNR {found.achieved:.2f} dB on 24 held-back samples")
    assert "\n" not in found.note
    assert found.achieved == max(step.figure for step in found.path)
    assert found.achieved == pytest.approx(measured(chain, tmp_path / "out.onnx", x, run)[0], abs=0.02)
    none = search(chain, calibration, x, tmp_path / "out.onnx", Goal(Kind.SQNR_DB, 90.0), most_float=0)
    assert (none.met, none.float_layers) == (False, ())


def test_agreement_and_accuracy(
    chain: Path, tmp_path: Path, calibration: Calibration, x: Images, run: Callable[..., Any]
) -> None:
    found = search(chain, calibration, x, tmp_path / "a.onnx", Goal(Kind.AGREEMENT, 1.0))
    assert found.met
    assert found.achieved == 1.0 == measured(chain, tmp_path / "a.onnx", x, run)[1]

    truth = np.asarray(run(read_model(chain), {"image": x})[0]).argmax(1)
    truth[:6] = (truth[:6] + 1) % 6  # the float network is right on three quarters
    accurate = search(chain, calibration, x, tmp_path / "b.onnx", Goal(Kind.LOSS_POINTS, 0.0), labels=truth)
    right = (np.asarray(run(read_model(tmp_path / "b.onnx"), {"image": x})[0]).argmax(1) == truth).mean()
    assert accurate.met
    assert accurate.achieved == pytest.approx(75 - 100 * right)
    assert accurate.achieved <= 0
    with pytest.raises(UserError, match="have no labels"):
        search(chain, calibration, x, tmp_path / "c.onnx", Goal(Kind.LOSS_POINTS, 0.0))


def test_all_layers_float_is_said(chain: Path, tmp_path: Path, calibration: Calibration, x: Images) -> None:
    found = search(chain, calibration, x, tmp_path / "out.onnx", Goal(Kind.SQNR_DB, 199.0))
    assert found.met
    assert "only with no layer int8" in found.note
    assert found.quantized.quantized_layers == 0


def test_the_same_again(chain: Path, tmp_path: Path, calibration: Calibration, x: Images) -> None:
    goal = Goal(Kind.SQNR_DB, 24.0)
    first, second = (
        search(chain, calibration, x, tmp_path / f"{n}.onnx", goal, processes=n, resume=tmp_path / "j") for n in (1, 2)
    )
    assert first.path == second.path
    assert first.quantized.digest == second.quantized.digest


def test_networks_are_recovered_as_quantize_does_it(
    chain: Path, tmp_path: Path, calibration: Calibration, x: Images
) -> None:
    options: dict[str, Any] = {"environment": "fpga", "method": "minmax", "held_back": [{"image": x}]}
    found = mixed_precision(chain, calibration, goal=Goal(Kind.SQNR_DB, 0), out=tmp_path / "a.onnx", **options)
    assert found.quantized.digest == quantize(chain, calibration, out=tmp_path / "b.onnx", **options).digest
    assert [step.name for step in found.quantized.steps].count("rounding") == 1


def test_excluded_layers_stay_float_and_are_not_counted(
    chain: Path, tmp_path: Path, calibration: Calibration, x: Images
) -> None:
    found = search(chain, calibration, x, tmp_path / "out.onnx", Goal(Kind.SQNR_DB, 199.0), exclude=["conv1"])
    assert "conv1" not in found.float_layers
    assert "conv1" in dict(found.quantized.kept_float)


# -- latency ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def twins(tmp_path: Path, builder: Callable[..., Any]) -> Path:
    """Two branches with the same weights on the same input: leaving either in float gains the same."""
    net = builder(1)
    w = (net.rng.normal(size=(4, 3, 3, 3)) * 0.25).astype(np.float32)
    w[0] *= 12
    for name in ("left", "right"):
        net.constant(f"{name}.w", w)
        net.add("Conv", ["image", f"{name}.w"], name, pads=[1] * 4)
    net.add("Concat", ["left", "right"], "both", axis=1)
    path = tmp_path / "twins.onnx"
    onnx.save(net.model({"image": ["N", 3, 8, 8]}, {"both": ["N", 8, 8, 8]}), path)
    return path


@pytest.mark.parametrize(("cheap", "dear"), [("left", "right"), ("right", "left")])
def test_of_equal_layers_the_cheaper_stays_float(
    twins: Path, tmp_path: Path, images: Callable[..., Images], cheap: str, dear: str
) -> None:
    calibration = calibrate(twins, [{"image": images(16)}], environment="gpu", layers="all")
    arguments: dict[str, Any] = {"environment": "gpu", "method": "minmax", "held_back": [{"image": images(12, 3)}]}
    plain = quantize(twins, calibration, environment="gpu", method="minmax", out=tmp_path / "q.onnx")
    base = mixed_precision(twins, calibration, goal=Goal(Kind.SQNR_DB, 0), out=tmp_path / "q.onnx", **arguments)
    goal = Goal(Kind.SQNR_DB, base.achieved + 1)
    costs = {cheap: 0.1, dear: 0.9}
    found = mixed_precision(twins, calibration, goal=goal, out=tmp_path / "q.onnx", latency=costs, **arguments)
    assert found.float_layers == (cheap,)
    assert found.latency_ms == costs

    class Timer:
        """A board that knows what is slow from what it is given."""

        asked = 0

        def cost_ms(self, candidate: QuantizedModel, all_int8: QuantizedModel) -> float:
            self.asked += 1
            (layer,) = dict(candidate.kept_float).keys() - dict(all_int8.kept_float).keys()
            assert candidate.path.exists()
            assert all_int8.digest == plain.digest or all_int8.path.exists()
            return costs[layer]

    timer = Timer()
    timed = mixed_precision(twins, calibration, goal=goal, out=tmp_path / "q.onnx", latency=timer, **arguments)
    assert (timed.float_layers, timer.asked) == ((cheap,), 2)
    called = mixed_precision(twins, calibration, goal=goal, out=tmp_path / "q.onnx", latency=costs.get, **arguments)  # type: ignore[arg-type]
    assert called.float_layers == (cheap,)


# -- through the session ----------------------------------------------------------------------------------------------


def test_the_session_takes_any_data_and_keeps_the_way(
    chain: Path, tmp_path: Path, images: Callable[..., Images], x: Images, run: Callable[..., Any]
) -> None:
    truth = np.asarray(run(read_model(chain), {"image": x})[0]).argmax(1)
    q = Quantizer(chain, environment="fpga")
    q.calibrate([{"image": images(16)}])
    np.savez(tmp_path / "held.npz", image=x, labels=truth)
    made = q.quantize(tmp_path / "q.onnx", held_back=tmp_path / "held.npz", accuracy_target=0.0, method="minmax")
    assert q.mixed is not None
    assert q.mixed.met
    assert q.quantized is made
    assert made.notes[-1] == q.mixed.note
    assert q.mixed.table()["FloatLayers"].iloc[0] == 0
    table = q.sensitivity([(x[:10], truth[:10]), (x[10:], truth[10:])], method="minmax")
    assert table.attrs["samples"] == len(x)
    assert table["gain_points"].notna().all()
    plain = Quantizer(chain, environment="fpga")
    plain.calibration = q.calibration
    plain.quantize(tmp_path / "q.onnx", method="minmax")
    assert plain.mixed is None
    with pytest.raises(UserError, match="knows no boards"):
        q.quantize(tmp_path / "q.onnx", sqnr_target=20, target="rpi5-lab")
