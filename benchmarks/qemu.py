"""`via: qemu` in user mode: making its tree, start to serving, two networks on the emulator, memory in the guest.

Milliseconds here are the emulator's, for whoever plans a test run; they say nothing about a board.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import quantizer_networks
from benchmarks.figures import Effort, Goal, Result, Row
from harness.demo.cross_isa import digits_cases
from harness.quantize import Quantizer
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
#: Samples that calibrate SqueezeNet: its milliseconds do not depend on them.
_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class _Form:
    """One form of a network and one inference of it.

    Args:
        name: as the row says it.
        model: serialized ONNX.
        inputs: {name: array[1, …]}.
        disabled_optimizers: graph optimizers that must not run on it.
    """

    name: str
    model: bytes
    inputs: dict[str, Array]
    disabled_optimizers: tuple[str, ...] = ()


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
        forms = _forms(folder)
        for board, cpu in BOARDS.items():
            started, resident = zip(*(_start(board, folder) for _ in range(REPETITIONS)), strict=True)
            rows += [
                Row(f"via: qemu, {cpu}: agent start to serving", "ms", started),
                Row(f"via: qemu, {cpu}: resident memory of the idle agent, QEMU included", "MB", resident),
                *_networks(board, cpu, folder, forms),
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


def _forms(folder: Path) -> list[_Form]:
    """The digits network, and SqueezeNet where its files are at hand."""
    forms = [
        _Form(f"digits (93 M multiply-adds), {case.name}", case.model, case.inputs[0], case.disabled_optimizers)
        for case in digits_cases(1)
    ]
    if quantizer_networks.missing():
        return forms
    measured = quantizer_networks.load("squeezenet", _SAMPLES)
    quantizer = Quantizer(measured.model, environment="cpu")
    quantizer.calibrate(measured.calibration)
    int8 = folder / "squeezenet.u8s8.onnx"
    quantizer.quantize(int8, method="minmax")
    inputs = measured.take(range(1))
    return [
        *forms,
        _Form("SqueezeNet, U8S8", int8.read_bytes(), inputs),
        _Form("SqueezeNet, float", measured.model.read_bytes(), inputs),
    ]


def _networks(board: str, cpu: str, folder: Path, forms: list[_Form]) -> list[Row]:
    """One inference of each; the first one warms up and is not counted."""
    rows = []
    with connect(_target(board, folder), work_dir=folder, stop=threading.Event()) as agent:
        for number, form in enumerate(forms):
            path = folder / f"form-{number}.onnx"
            path.write_bytes(form.model)
            digest = hashlib.sha256(form.model).hexdigest()
            agent.ship(path, digest, None)
            options = SessionChoice(disabled_optimizers=form.disabled_optimizers)
            network = agent.prepare(digest, options=options).network_id
            # The agent refuses to time an emulated board, so that nobody publishes it: the host's clock, around a call.
            took_ms = tuple(_infer_ms(agent, network, form.inputs) for _ in range(1 + REPETITIONS))[1:]
            rows.append(Row(f"via: qemu, {cpu}: {form.name}", "ms", took_ms, note=NOTE))
            agent.unload(network)
    return rows


def _infer_ms(agent: AgentClient, network: str, inputs: dict[str, Array]) -> float:
    began = time.perf_counter()
    list(agent.infer(network, [inputs]))
    return 1e3 * (time.perf_counter() - began)
