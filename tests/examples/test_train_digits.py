"""The training script gives the same network twice, and exports the network it trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'quantrig[train]'")
pytest.importorskip("onnxscript", reason="the exporter is not installed: pip install 'quantrig[train]'")

SCRIPT = Path(__file__).parents[2] / "examples/digits/train.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    return module


def test_one_seed_gives_one_network_and_the_export_is_it(script: ModuleType, tmp_path: Path) -> None:
    first, second, other = (script.train(epochs=1, seed=seed) for seed in (3, 3, 4))
    weights = [network.state_dict() for network in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["stem.conv.weight"], weights[2]["stem.conv.weight"])

    # Folding the normalization must not change an answer, however little the network has learned.
    images = script.digits.held_out()[0]["image"][:5]
    with torch.no_grad():
        expected = first(torch.from_numpy(images)).numpy()
    script.export(first, tmp_path / "digits.onnx")
    (logits,) = onnxruntime.InferenceSession(tmp_path / "digits.onnx").run(None, {"image": images})
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_shifting_moves_whole_images(script: ModuleType) -> None:
    image = torch.zeros(200, 1, 32, 32)
    image[:, 0, 16, 16] = 1.0

    moved = script.shifted(image, torch.Generator().manual_seed(0))

    positions = moved[:, 0].nonzero()[:, 1:]
    assert moved.shape == image.shape
    assert len(positions) == 200
    assert {int(value) for value in positions.unique()} == {14, 15, 16, 17, 18}
