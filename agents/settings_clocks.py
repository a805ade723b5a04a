"""Locked clocks where a vendor's tool does it: jetson_clocks on a Jetson, nvidia-smi for a GPU in a machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from agents.boards.parse.jetson_tools import parse_jetson_clocks
from agents.boards.sources import read_text
from agents.boards.tegra_sysfs import gpu_folder
from agents.settings_file import Snapshot, sync_folder
from agents.settings_knobs import CPUFREQ, CannotSet, Privileged, SysfsFiles, last_line, locked_word

#: The GPU that telemetry is read of.
_GPU = ("-i", "0")
#: NVIDIA's word for a GPU's base clock: the highest that it holds within its power limit whatever it runs. Its highest
#: clock would be lowered again by the power limit under load, which is what locking shall prevent.
_BASE_CLOCK = "tdp,tdp"
#: A file of jetson_clocks is a few kB.
_MAX_STORE_BYTES = 64 << 10


class JetsonClocks:
    """All clocks of a Jetson at the highest that its power mode allows, by NVIDIA's own script.

    The script stores what was before in a file of ours. It asks on a terminal before it overwrites one, so the file is
    never there beforehand.

    Args:
        tools: of the board.
        store: path of that file, in the agent's data directory.
    """

    name = "lock_clocks"
    survives_boot = False

    def __init__(self, tools: Privileged, store: Path) -> None:
        self._tools = tools
        self._store = store
        self._files = SysfsFiles(tools.sources, CPUFREQ)
        self._gpu = gpu_folder(tools.sources)

    def present(self) -> bool:
        """See `Knob.present`."""
        return self._tools.sources.tool("jetson_clocks") is not None

    def read(self) -> str:
        """See `Knob.read`: of the kernel's files; where they are silent, of the script's own listing."""
        cores, gpu = locked_word(self._files), self._gpu_range()
        if cores:
            return "yes" if cores == "yes" and (gpu is None or gpu[0] == gpu[1]) else "no"
        shown = parse_jetson_clocks(self._tools.run("jetson_clocks", "--show"))
        return "" if shown is None or shown.locked is None else "yes" if shown.locked else "no"

    def choose(self, asked: str) -> str:
        """See `Knob.choose`."""
        return asked

    def snapshot(self) -> Snapshot:
        """See `Knob.snapshot`: the script's own file, on the disk, and what the kernel shows to compare with."""
        with contextlib.suppress(FileNotFoundError):
            self._store.unlink()
        said = self._tools.run("jetson_clocks", "--store", str(self._store))
        try:
            descriptor = os.open(self._store, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                stored = os.read(descriptor, _MAX_STORE_BYTES)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            stored = b""
        if not stored:
            raise CannotSet(
                f"jetson_clocks did not store the clocks of now ({last_line(said)}), so they are left alone: "
                + self._tools.remedy("jetson_clocks", f"jetson_clocks --store {self._store}", self._restore_line())
            )
        sync_folder(self._store.parent)
        return self._seen()

    def set(self, value: str) -> str:  # noqa: ARG002 - there is one value
        """See `Knob.set`."""
        said = self._tools.run("jetson_clocks")
        now = self.read()
        if now == "no":
            remedy = self._tools.remedy("jetson_clocks")
            raise CannotSet(f"the clocks still have a range after jetson_clocks ({last_line(said)}): {remedy}")
        if not now and "error" in said.lower():
            raise CannotSet(
                f"jetson_clocks did not lock them ({last_line(said)}): {self._tools.remedy('jetson_clocks')}"
            )
        return now

    def restore(self, before: Snapshot) -> None:  # noqa: ARG002 - the script's own file holds it
        """See `Knob.restore`."""
        self._tools.run("jetson_clocks", "--restore", str(self._store))

    def back(self, before: Snapshot) -> bool:
        """See `Knob.back`."""
        return self._seen() == dict(before)

    def _restore_line(self) -> str:
        return f"jetson_clocks --restore {self._store}"

    def _gpu_range(self) -> tuple[str, str] | None:
        if self._gpu is None:
            return None
        low, high = read_text(self._gpu / "min_freq"), read_text(self._gpu / "max_freq")
        return (low, high) if low and high else None

    def _seen(self) -> dict[str, str]:
        seen = self._files.values("scaling_min_freq", "scaling_max_freq")
        if (gpu := self._gpu_range()) is not None:
            seen |= {"gpu/min_freq": gpu[0], "gpu/max_freq": gpu[1]}
        return seen or {"locked": self.read()}


class GpuClocks:
    """The first GPU of a machine at its base clock.

    The driver does not tell whether clocks are locked, so a lock of somebody else's is not seen and not put back: after
    the run the clocks are free. With persistence mode off the driver forgets a lock when nothing uses the GPU, so that
    is switched on with it and, where it was off, off again.

    Args:
        tools: of the machine.
    """

    name = "lock_clocks"
    survives_boot = False

    def __init__(self, tools: Privileged) -> None:
        self._tools = tools
        self._locked: str | None = None

    def present(self) -> bool:
        """See `Knob.present`."""
        return self._tools.sources.tool("nvidia-smi") is not None

    def read(self) -> str:
        """See `Knob.read`: what this agent did last is all that can be known."""
        return self._locked or ""

    def choose(self, asked: str) -> str:
        """See `Knob.choose`."""
        return asked

    def snapshot(self) -> Snapshot:
        """See `Knob.snapshot`."""
        return {"persistence": self._query("persistence_mode")}

    def set(self, value: str) -> str:  # noqa: ARG002 - there is one value
        """See `Knob.set`. The driver's answer counts: its exit status is 0 for a card that cannot do it."""
        self._tools.run("nvidia-smi", *_GPU, "-pm", "1")
        said = self._tools.run("nvidia-smi", *_GPU, "-lgc", _BASE_CLOCK)
        if "GPU clocks set to" not in said:
            rules = (f"nvidia-smi {' '.join(_GPU)} {words}" for words in ("-pm [01]", f"-lgc {_BASE_CLOCK}", "-rgc"))
            remedy = self._tools.remedy(*(rule.replace(",", "\\,") for rule in rules))
            raise CannotSet(f"nvidia-smi did not lock the GPU's clocks ({_answer(said)}): {remedy}")
        self._locked = "yes"
        return "yes"

    def restore(self, before: Snapshot) -> None:
        """See `Knob.restore`."""
        said = self._tools.run("nvidia-smi", *_GPU, "-rgc")
        if "All done" in said:
            self._locked = "no"
        if before.get("persistence") == "Disabled":
            self._tools.run("nvidia-smi", *_GPU, "-pm", "0")

    def back(self, before: Snapshot) -> bool:
        """See `Knob.back`."""
        return self._locked == "no" and self._query("persistence_mode") == before.get("persistence")

    def _query(self, field: str) -> str:
        said = self._tools.sources.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"], timeout_s=10.0
        )
        return (said or "").strip()[:60]


def _answer(said: str) -> str:
    """The line that names the GPU; the last one is the same for every failure."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "Terminating early" not in line]
    return lines[-1][:160] if lines else "it said nothing"
