"""Whole networks on real images: every integer tensor and every output, against the integer reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import harness
from harness.data import network_inputs
from harness.data.opening import open_data
from harness.demo import digits
from harness.emulation import lower
from harness.job import load_job
from tests.harness.emulation.reference.agreement import compare, kernels_differ

Array = NDArray[Any]
ROOT = Path(__file__).parents[3]
IMAGES = 4
#: Environment → the arithmetics that its networks can be lowered to.
ARITHMETICS = [("fpga", "dpu"), ("fpga", "mathworks"), ("host", "host"), ("gpu", "gpu")]


def _agree(path: Path, arithmetic: str, feeds: list[dict[str, Array]], *, software: frozenset[str] | None) -> int:
    """Compare on each feed; returns how many integers were compared.

    Args:
        software: operators that alone may run in software; None where floats are the arithmetic's own choice.
    """
    lowered = lower(path, arithmetic)
    total = 0
    for feed in feeds:
        found = compare(path, arithmetic, feed, lowered)
        assert found.differing == {}
        assert kernels_differ(path, found, feed) == {}
        total += sum(found.compared.values())
        # All integers that the quantized network has are in the lowered one.
        assert not found.missing
    if software is not None:
        assert {layer.op_type for layer in lowered.layers if layer.where == "SW"} <= software
    return total


def _quantized(model: Path, environment: str, samples: list[dict[str, Array]], out: Path) -> Path:
    session = harness.Quantizer(model, environment=environment)
    session.calibrate(samples, method="minmax")
    return session.quantize(out, method="minmax", recover=()).path


@pytest.mark.parametrize(("environment", "arithmetic"), ARITHMETICS)
def test_digits(environment: str, arithmetic: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    images = digits.held_out()[0]["image"]
    model = ROOT / "harness" / "demo" / "digits.onnx"
    path = _quantized(model, environment, [{"image": images[:64]}], tmp_path / "int8.onnx")

    compared = _agree(
        path, arithmetic, [{"image": images[100:116]}], software=None if environment == "gpu" else frozenset()
    )

    assert compared > 16 * 50_000


@pytest.mark.parametrize(("environment", "arithmetic"), [("fpga", "dpu"), ("host", "host")])
def test_integer_kernels_work_where_x86_has_no_vnni(environment: str, arithmetic: str, tmp_path: Path) -> None:
    """There sums of two products must not saturate: a session's option, which agents know as precise_x86_int8."""
    pytest.importorskip("sklearn")
    feed = {"image": digits.held_out()[0]["image"][:4]}
    path = _quantized(ROOT / "harness" / "demo" / "digits.onnx", environment, [feed], tmp_path / "int8.onnx")
    found = compare(path, arithmetic, feed)

    assert kernels_differ(path, found, feed, precise=True) == {}


def _real_images(example: str, count: int) -> tuple[Path, list[dict[str, Array]]]:
    file = ROOT / "examples" / example / "job.yaml"
    job = load_job(file)
    if not Path(job.model).is_file():
        pytest.skip("../shared/data/models is not here")
    dataset = open_data(job.data, job.preprocess, network_inputs(Path(job.model)), file.parent)
    picked = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    return Path(job.model), [dict(dataset.read([index]).inputs) for index in picked]


NETWORKS: Mapping[str, int] = {"squeezenet": 1_500_000, "mobilenet": 1_000_000, "resnet8": 50_000}


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "arithmetic"), ARITHMETICS)
@pytest.mark.parametrize("example", NETWORKS)
def test_published_networks(example: str, environment: str, arithmetic: str, tmp_path: Path) -> None:
    model, samples = _real_images(example, IMAGES + 6)
    path = _quantized(model, environment, samples[IMAGES:], tmp_path / "int8.onnx")

    software = None if environment == "gpu" else frozenset({"Softmax"})
    compared = _agree(path, arithmetic, samples[:IMAGES], software=software)

    assert compared > IMAGES * NETWORKS[example] // (2 if environment == "gpu" else 1)
