"""What this machine is: the provenance that every published number carries."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from harness._version import __version__

#: CPU features that change the result or the speed of int8 arithmetic: VNNI (or ARM's dot product) accumulates U8·S8
#: in 32 bits, AVX2 alone saturates pairs in 16 (`docs/design.md`, decision 11).
INT8_FEATURES = frozenset(
    {
        *("ssse3", "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8"),
        *("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_int8", "amx_bf16", "amx_tile"),
        *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "sme"),
    }
)

#: Git looks at every file of the checkout; one that takes longer (a cold network drive) is not waited for.
_GIT_S = 5.0


def host_environment() -> dict[str, object]:
    """Versions, operating system, processor and memory of this machine as plain JSON; None where unknown.

    Returns:
        quantrig, python, onnxruntime, onnx, numpy: versions; commit: of quantrig's own source where it runs from a
        checkout, with "-dirty" where that is changed, else None; os, architecture, cpu_model: text; cpu_features:
        sorted list of those that matter to int8; cpu_count: logical processors this process may use; cpu_cores:
        physical ones of the machine; memory_total_bytes.
    """
    cpu_model, features = _processor()
    return {
        "quantrig": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("onnxruntime", "onnx", "numpy")},
        "os": f"{_os_name()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu_model": cpu_model,
        "cpu_features": features,
        "cpu_count": _usable_cpus(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "memory_total_bytes": psutil.virtual_memory().total,
    }


@functools.cache
def _commit() -> str | None:
    """What git calls the checkout that this code runs from; None for an installed wheel, or without git."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # never the repository that a virtual environment happens to lie in
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _usable_cpus() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> tuple[str | None, list[str]]:
    """Model name and int8 features from /proc/cpuinfo (x86: `flags`, ARM: `Features`); other systems know less."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or None, []
    model: str | None = None
    flags: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name" | "Model" | "Hardware":
                model = model or value.strip()
            case "flags" | "Features":
                flags.update(value.split())
    return model, sorted(flags & INT8_FEATURES)
