"""Starts a quantizer, ours or a peer's, in a process of its own and reads what it used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.measuring import Task

REPOSITORY = Path(__file__).parents[1]
#: Where `make bench` installs benchmarks/peers/requirements.txt.
PEERS_PYTHON = REPOSITORY / ".bench/peers/bin/python"
#: Nothing here takes half as long.
LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A quantizer and how to start it.

    Args:
        name: for the reader.
        module: run with `python -m`.
        variant: of the tool.
        rival: the environment of ours that it is held against.
        published: agreement, SQNR in dB and CPU seconds taken earlier per network, quoted where it cannot run.
    """

    name: str
    module: str
    variant: str
    rival: str = "cpu"
    published: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_ours(self) -> bool:
        """Whether it runs in this environment."""
        return self.module == "benchmarks.quantizer_child"


@dataclass(frozen=True, slots=True)
class Used:
    """What a run took.

    Args:
        call_cpu_s: user and system time of the call, one thread.
        process_cpu_s: of the whole process, its imports and the reading of the data included.
        call_growth_mb: highest resident memory during the call above what was resident before it; 1 MB = 10⁶ bytes.
        process_peak_mb: highest resident memory of the process during the call.
        note: what the tool's script had to say.
    """

    call_cpu_s: float
    process_cpu_s: float
    call_growth_mb: float
    process_peak_mb: float
    note: dict[str, Any]


class ToolFailed(Exception):
    """A quantizer that ended with an error; the message is its last line."""


def ours(variant: str) -> Tool:
    """Our own quantizer."""
    return Tool("ours", "benchmarks.quantizer_child", variant)


def measure(tool: Tool, task: Task) -> Used:
    """One run of a tool.

    Raises:
        ToolFailed: it ended with an error, or took longer than `LIMIT_S`.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(REPOSITORY), "TQDM_DISABLE": "1"}
    python = sys.executable if tool.is_ours else str(PEERS_PYTHON)
    try:
        # In the folder of the result: some tools leave files where they are started.
        finished = subprocess.run(
            [python, "-m", tool.module, task.as_json()],
            check=False,
            capture_output=True,
            text=True,
            cwd=task.out.parent,
            env=environment,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        message = f"took longer than {LIMIT_S:.0f} s"
        raise ToolFailed(message) from None
    if finished.returncode:
        lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
        message = lines[-1][:160] if lines else f"ended with {finished.returncode}"
        raise ToolFailed(message)
    return Used(**json.loads(finished.stdout.splitlines()[-1]))
