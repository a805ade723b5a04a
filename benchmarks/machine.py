"""The machine that the figures were taken on, without its name or anybody's paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

#: Packages whose version can move a figure.
PACKAGES = ("onnxruntime", "grpcio", "protobuf", "numpy", "paramiko", "cryptography")
#: CPU features that decide how fast int8 is.
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def describe() -> dict[str, object]:
    """Plain JSON: processor, cores, features that matter to int8, memory, system, versions."""
    information = _cpuinfo()
    flags = set(information.get("flags", information.get("Features", "")).split())
    return {
        "cpu": information.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in FEATURES if name in flags],
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
