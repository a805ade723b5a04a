"""The two networks whose figures MathWorks published, as ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.logonet.build import build
from harness.emulation.performance.layers import NetworkShape
from harness.emulation.performance.reading import read_shape
from tests.harness.emulation.performance.networks import mnist_fc


@pytest.fixture(name="logonet", scope="session")
def _logonet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("logonet") / "logonet.onnx")


@pytest.fixture(name="logonet_shape", scope="session")
def _logonet_shape(logonet: Path) -> NetworkShape:
    return read_shape(logonet)


@pytest.fixture(name="mnist", scope="session")
def _mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mnist_fc(tmp_path_factory.mktemp("mnist") / "mnist_fc.onnx")
