"""`via: qemu` in user mode: making its tree, start to serving, the network on the emulator, memory in the guest.

Milliseconds here are the emulator's, for whoever plans a test run; they say nothing about a board.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.figures import Effort, Goal, Result, Row
from harness.demo.cross_isa import digits_cases
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.cross_isa import Array
from harness.targets.qemu.provision import provision
from harness.targets.target import Target, Via
from harness.targets.values import SessionChoice

NOTE = "time of the emulator, not of a board"
BOARDS = {"raspberry-pi-4": "cortex-a72", "raspberry-pi-5": "cortex-a76"}
#: An emulated start takes seconds: three tell whether it varies.
REPETITIONS = 3


def run(_effort: Effort) -> Result:
    """All of it in a cache folder of its own: downloads are made anew, from whatever mirror this machine uses."""
    if shutil.which("qemu-aarch64-static") is None or shutil.which("apt-get") is None:
        return Result((), ("via: qemu: needs qemu-user-static and apt-get",))
    with _own_cache() as folder:
        began = time.perf_counter()
        provision("bench", progress=lambda *_: None)
        rows = [
            Row(
                "via: qemu: provision, everything downloaded",
                "s",
                (time.perf_counter() - began,),
                goal=Goal("ours", most=120.0),
            )
        ]
        for board, cpu in BOARDS.items():
            started, resident = zip(*(_start(board, folder) for _ in range(REPETITIONS)), strict=True)
            rows += [
                Row(f"via: qemu, {cpu}: agent start to serving", "ms", started),
                Row(f"via: qemu, {cpu}: resident memory of the idle agent, QEMU included", "MB", resident),
                *_networks(board, cpu, folder),
            ]
    return Result(tuple(rows))


@contextmanager
def _own_cache() -> Iterator[Path]:
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(prefix="quantrig-qemu-") as name:
        os.environ["XDG_CACHE_HOME"] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def _target(board: str, folder: Path) -> Target:
    return Target(board, board, "cpu", Via("qemu"), folder)


def _start(board: str, folder: Path) -> tuple[float, float]:
    """Milliseconds until the agent has described itself, and its resident megabytes (10⁶ bytes)."""
    began = time.perf_counter()
    with connect(_target(board, folder), work_dir=folder, stop=threading.Event()):
        took_ms = 1e3 * (time.perf_counter() - began)
        (agent,) = (one for one in psutil.Process().children() if "qemu" in one.name())
        return took_ms, agent.memory_info().rss / 1e6


def _networks(board: str, cpu: str, folder: Path) -> list[Row]:
    """One inference of the digits network in float and int8; the first one warms up and is not counted."""
    import hashlib

    rows = []
    with connect(_target(board, folder), work_dir=folder, stop=threading.Event()) as agent:
        for case in digits_cases(1):
            path = folder / f"{case.name}.onnx"
            path.write_bytes(case.model)
            digest = hashlib.sha256(case.model).hexdigest()
            agent.ship(path, digest, None)
            options = SessionChoice(disabled_optimizers=case.disabled_optimizers)
            network = agent.prepare(digest, options=options).network_id
            # The agent refuses to time an emulated board, so that nobody publishes it: the host's clock, around a call.
            took_ms = tuple(_infer_ms(agent, network, case.inputs[0]) for _ in range(1 + REPETITIONS))[1:]
            rows.append(Row(f"via: qemu, {cpu}: digits (93 M multiply-adds), {case.name}", "ms", took_ms, note=NOTE))
            agent.unload(network)
    return rows


def _infer_ms(agent: AgentClient, network: str, inputs: dict[str, Array]) -> float:
    began = time.perf_counter()
    list(agent.infer(network, [inputs]))
    return 1e3 * (time.perf_counter() - began)
