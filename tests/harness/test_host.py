"""The provenance of this machine, against what other tools say of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
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


def test_the_commit_is_that_of_this_checkout() -> None:
    root = Path(__file__).parents[2]
    commit = host_environment()["commit"]
    if not (root / ".git").exists():
        assert commit is None
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert isinstance(commit, str)
    assert len(commit.removesuffix("-dirty")) >= 12
    known = ["git", "cat-file", "-t", commit.removesuffix("-dirty")]
    kind = subprocess.run(known, cwd=root, capture_output=True, text=True, check=True).stdout
    # the tree may have moved on since this process asked first
    assert head.startswith(commit.removesuffix("-dirty")) or kind.strip() == "commit"


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
