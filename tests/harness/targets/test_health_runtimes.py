"""A GPU's board that computes on its processor is told as one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.targets.canary import CanaryVerdict
from harness.targets.health import Known, second_choice
from harness.targets.target import Target
from harness.targets.values import RuntimeInfo
from tests.harness.targets.conftest import MakeTarget
from tests.harness.targets.test_check import info

CPU = RuntimeInfo("onnxruntime", "1.23.2", ("CPUExecutionProvider",), "")
CUDA = RuntimeInfo("cuda", "1.23.2", ("CUDAExecutionProvider",), "")
NO_TENSORRT = RuntimeInfo("tensorrt", "", (), "TensorrtExecutionProvider does not start: its libraries are missing")
NO_CUDA = RuntimeInfo("cuda", "", (), "the installed onnxruntime has no CUDAExecutionProvider")
TOLD = "networks run on onnxruntime there, since tensorrt cannot be used: TensorrtExecutionProvider does not start"


@pytest.fixture
def jetson(make_target: MakeTarget) -> Target:
    return replace(make_target("address", address="127.0.0.1:1"), board="jetson-orin-nano")


def warnings(target: Target, *runtimes: RuntimeInfo, emulated: bool = False) -> tuple[str, ...]:
    board = info(board=target.board, runtimes=runtimes, emulated=emulated)
    health = Known(target, board, canary=CanaryVerdict.EXACT).health(None, 1.0)
    assert health.fit
    return health.warnings


def test_the_processor_instead_of_the_gpu(jetson: Target) -> None:
    (said,) = warnings(jetson, NO_TENSORRT, NO_CUDA, CPU)
    assert said.startswith(TOLD)
    (said,) = warnings(jetson, NO_TENSORRT, CUDA, CPU)
    assert said.startswith("networks run on cuda there")


def test_nothing_to_tell(jetson: Target) -> None:
    assert warnings(jetson, CUDA, NO_TENSORRT, CPU) == ()
    assert warnings(jetson, NO_TENSORRT, CPU, emulated=True) == ()
    assert warnings(replace(jetson, runtime="onnxruntime"), NO_TENSORRT, CPU) == ()  # as asked
    assert second_choice(info(runtimes=())) is None  # told as a problem of its own
