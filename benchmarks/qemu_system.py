"""Emulated boards: image, snapshot, start to serving (cold, from the snapshot, four at once), reset, upload.

    python -m benchmarks.qemu_system [--json FILE]

Wall-clock times of this machine, which say how fast tests are; nothing here is a board's own latency.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil

from harness.errors import BoardError
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.qemu_system.board import QemuBoard
from harness.targets.qemu_system.golden import prepare
from harness.targets.qemu_system.image import make_image
from harness.targets.qemu_system.recipe import Recipe
from harness.targets.qemu_system.tools import find_tools
from harness.targets.target import Target

UPLOAD_BYTES = 32 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float | str] = {"qemu": find_tools("bench").version, "host_cpus": os.cpu_count() or 0}
    recipe = Recipe()
    begun = time.monotonic()
    image, _ = make_image("bench", recipe.check("bench"), find_tools("bench"), fresh=True, progress=lambda *_: None)
    figures["image_s"] = time.monotonic() - begun
    for old in image.folder.glob("golden-*.qcow2"):
        old.unlink()
    begun = time.monotonic()
    golden = prepare("bench", recipe).golden
    figures["snapshot_s"] = time.monotonic() - begun
    assert golden is not None
    figures["snapshot_mb"] = golden.stat().st_blocks * 512 / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures |= cold(folder) | warm(folder) | four(folder)
    for key, value in figures.items():
        print(f"{key:28} {value if isinstance(value, str) else round(value, 2)}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def cold(folder: Path) -> dict[str, float]:
    begun = time.monotonic()
    with QemuBoard(name="bench-cold", cold=True) as board:
        serve(board.target, folder)
        return {"cold_start_to_served_s": time.monotonic() - begun}


def warm(folder: Path) -> dict[str, float]:
    begun = time.monotonic()
    with QemuBoard(name="bench-warm") as board:
        serve(board.target, folder)
        found = {"snapshot_start_to_served_s": time.monotonic() - begun}
        (emulator,) = psutil.Process(board.machine.pid).children()
        found["emulator_rss_mb"] = emulator.memory_info().rss / 1e6
        path = folder / "upload.onnx"
        path.write_bytes(os.urandom(UPLOAD_BYTES))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with connect(board.target, work_dir=folder) as agent:
            begun = time.monotonic()
            agent.ship(path, digest, None)
            found["upload_mib_per_s"] = UPLOAD_BYTES / 2**20 / (time.monotonic() - begun)
        begun = time.monotonic()
        board.fault.reset()
        serve(board.target, folder)
        found["reset_to_served_s"] = time.monotonic() - begun
    return found


def four(folder: Path) -> dict[str, float]:
    begun = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        boards = pool.map(lambda number: stack.enter_context(QemuBoard(name=f"bench-{number}")), range(4))
        list(pool.map(lambda board: serve(board.target, folder), boards))
        return {"four_from_snapshot_served_s": time.monotonic() - begun}


def serve(target: Target, folder: Path) -> None:
    while True:
        try:
            with connect(target, work_dir=folder) as agent:
                AgentClient.describe(agent)
                return
        except BoardError:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
