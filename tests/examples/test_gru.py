"""The GRU example: its script trains what it exports, and int8 costs the committed network next to nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from examples.gru import rows, train
from harness.quantize import Quantizer, details

MODEL = Path(__file__).parents[2] / "examples/gru/gru.onnx"


def scores(path: Path, disabled: tuple[str, ...] = ()) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), disabled_optimizers=list(disabled) or None)
    return np.asarray(session.run(None, {"rows": rows.held_out()[0]["rows"]})[0])


def test_gradients_are_the_derivative_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    p = train.initial(rng)
    x, labels = rng.normal(size=(4, train.STEPS, train.INPUTS)), rng.integers(0, 10, 4)
    _, found = train.gradients(p, x, labels)
    for name, value in p.items():
        place = tuple(rng.integers(0, size) for size in value.shape)
        step = 1e-5
        losses = []
        for sign in (1, -1):
            value[place] += sign * step
            losses.append(train.gradients(p, x, labels)[0])
            value[place] -= sign * step
        assert found[name][place] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=1e-8)


def test_one_seed_gives_one_network_and_the_export_is_it(tmp_path: Path) -> None:
    first, second, other = (train.train(epochs=1, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["R"], other["R"])
    train.export(first, tmp_path / "gru.onnx")
    wanted, _ = train.forward(first, rows.held_out()[0]["rows"].astype(np.float64))
    np.testing.assert_allclose(scores(tmp_path / "gru.onnx"), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("environment", ["cpu", "gpu", "fpga", "host"])
def test_the_committed_network_in_int8(tmp_path: Path, environment: str) -> None:
    inputs, labels = rows.held_out()
    quantizer = Quantizer(MODEL, environment)
    quantizer.calibrate([{"rows": inputs["rows"][:100]}])
    made = quantizer.quantize(tmp_path / "int8.onnx")
    assert {"gru", "classifier"} <= set(details(made.path).QuantizedLayerNames)
    reference = scores(MODEL)[100:].argmax(axis=1)
    other = scores(made.path, made.disabled_optimizers)[100:].argmax(axis=1)
    assert (reference == labels[100:]).mean() > 0.98
    assert (reference == other).mean() >= 0.995
