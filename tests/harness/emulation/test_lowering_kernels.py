"""The runtime's integer kernels give the values that the float32 carrier gives, on whole networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.demo import digits
from harness.emulation import lower
from harness.quantize import Quantizer
from harness.quantize.runtime import open_session

_DIGITS = Path(digits.__file__).with_name("digits.onnx")
_MODELS = Path(__file__).parents[4] / "shared" / "data" / "models"


def _compare(path: Path, environment: str, batches: Sequence[dict[str, NDArray[np.float32]]]) -> None:
    sessions = []
    for int8_kernels in (False, True):
        found = lower(path, environment, int8_kernels=int8_kernels)
        kinds = [node.op_type for node in found.model.graph.node]
        assert (kinds.count("QLinearConv") >= 4) == int8_kernels
        sessions.append(open_session(found.model, "lowered", disabled_optimizers=found.disabled_optimizers, threads=1))
    for batch in batches:
        plain, fast = (session.run(None, batch) for session in sessions)
        for one, other in zip(plain, fast, strict=True):
            assert np.unique(one).size > 4
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("environment", ["fpga", "host"])
def test_digits(environment: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    inputs, _ = digits.held_out()
    batches = [{"image": inputs["image"][start : start + 4]} for start in range(0, 24, 4)]
    quantizer = Quantizer(_DIGITS, environment=environment)
    quantizer.calibrate(batches[:3])
    quantizer.quantize(tmp_path / "int8.onnx", method="minmax", recover=())
    _compare(tmp_path / "int8.onnx", environment, batches[3:])


@pytest.mark.parametrize("environment", ["fpga", "host"])
def test_squeezenet_on_noise(environment: str, tmp_path: Path) -> None:
    model = _MODELS / "squeezenet1.1.onnx"
    if not model.is_file():
        pytest.skip("../shared/data/models is not here")
    rng = np.random.default_rng(5)
    batches = [{"data_0": rng.uniform(-120, 150, (1, 3, 224, 224)).astype(np.float32)} for _ in range(2)]
    quantizer = Quantizer(model, environment=environment)
    quantizer.calibrate(batches[:1])
    quantizer.quantize(tmp_path / "int8.onnx", method="minmax", recover=())
    _compare(tmp_path / "int8.onnx", environment, batches)
