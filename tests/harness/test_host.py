"""The provenance of this machine, against what other tools say of it."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import numpy
import onnx
import onnxruntime
import psutil
import pytest

from harness._version import __version__
from harness.host import host_environment


def test_versions_and_sizes() -> None:
    host = host_environment()
    assert host["quantrig"] == __version__
    assert host["python"] == platform.python_version()
    assert host["onnxruntime"] == onnxruntime.__version__
    assert host["onnx"] == onnx.__version__
    assert host["numpy"] == numpy.__version__
    assert host["memory_total_bytes"] == psutil.virtual_memory().total
    assert host["architecture"] == platform.machine()
    json.dumps(host, allow_nan=False)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists its CPU flags in a file")
def test_cpu_features_are_those_of_the_first_processor() -> None:
    words = Path("/proc/cpuinfo").read_text().split("\n\n")[0].split()
    features = host_environment()["cpu_features"]
    assert isinstance(features, list)
    assert features == sorted(features)
    assert set(features) <= set(words)
    assert ("avx2" in words) == ("avx2" in features)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_only_processors_this_process_may_use_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert host_environment()["cpu_count"] == 1
    finally:
        os.sched_setaffinity(0, before)
