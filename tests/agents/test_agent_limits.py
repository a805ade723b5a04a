"""Memory limits of a network's process, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agents.config import usual_prepare_timeout_s
from agents.limits import ResourceLimiter, choose_limiter, usual_memory_bytes

#: Reserves as CUDA does, then writes: what it is told to, in MB. It begins when it is told, so that the limit is there.
TAKES = """
import mmap, sys
sys.stdin.readline()
reserved, written = (int(word) << 20 for word in sys.argv[1:])
PROT_NONE = 0
try:
    kept = mmap.mmap(-1, reserved, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=PROT_NONE)
    memory = bytearray(written)
except (OSError, MemoryError):
    sys.exit(7)
"""
CHOSEN = """
import os, sys
from agents.config import usual_prepare_timeout_s
from agents.limits import choose_limiter
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(*(choose_limiter("auto", family).kind for family in sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("kind", "reserved_mb", "written_mb", "status"),
    [
        ("rlimit-data", 64 << 10, 100, 0),
        ("rlimit-data", 1, 1000, 7),
        ("rlimit", 64 << 10, 100, 7),
        ("rlimit", 1, 100, 0),
    ],
)
def test_what_each_limit_counts(kind: str, reserved_mb: int, written_mb: int, status: int) -> None:
    command = [sys.executable, "-c", TAKES, str(reserved_mb), str(written_mb)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        ResourceLimiter(kind).limit(600 << 20).apply(process.pid)
        process.communicate(b"\n")
        assert process.returncode == status


def test_without_groups_a_gpu_gets_the_limit_that_lets_it_reserve() -> None:
    """As a user who may make no control group, which is how a login's agent runs."""
    said = subprocess.run(
        [sys.executable, "-c", CHOSEN, "jetson", "nvidia", "raspberry-pi", ""],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.split()  # fmt: skip
    if said[2].startswith("cgroup"):
        pytest.skip("this user may make control groups")
    assert said == ["rlimit-data", "rlimit-data", "rlimit", "rlimit"]


def test_an_engine_may_be_built_in_most_of_the_memory() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert usual_memory_bytes("raspberry-pi") == 2 << 30
    assert usual_memory_bytes("jetson") == max(2 << 30, int(0.75 * memory))


def test_who_compiles_has_time_for_it() -> None:
    """Told to hosts, whose own limit follows it."""
    assert [usual_prepare_timeout_s(family) for family in ("jetson", "xilinx", "generic")] == [1800.0, 1800.0, 300.0]


def test_the_operators_word_comes_first() -> None:
    assert choose_limiter("rlimit", "jetson").kind == "rlimit"
    assert choose_limiter("none", "jetson").kind == "none"
