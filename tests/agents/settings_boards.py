"""Boards whose state can be changed: trees of the kernel's files, and tools that change them as the vendors' tools do.

What the tools print and refuse is that of ../shared/facts/jetson_power_clock_samples.txt and of published transcripts:
nvpmodel asks on a terminal where a mode needs a reboot and changes nothing when nobody answers; jetson_clocks asks
before it overwrites what it stored, and wants root; nvidia-smi's exit status says little.
"""

from __future__ import annotations

import sys
from pathlib import Path

CPU = "sys/devices/system/cpu/cpu{}/cpufreq"
GPU = "sys/class/devfreq/17000000.gpu"
CORES = 2
#: Number → name and highest clock of the cores, kHz. Mode 3 needs a reboot.
MODES = {0: ("15W", 1_510_400), 1: ("25W", 1_728_000), 2: ("MAXN_SUPER", 1_984_000), 3: ("7W", 960_000)}
LOWEST = 729_600

#: Every tool begins so: where its board is, a note of the call, and whether it is root there.
_HEAD = """#!{python} -IS
import os, signal, sys
from pathlib import Path
root = Path({root!r})
arguments = sys.argv[1:]
with (root / "called").open("a") as log:
    kept = "kept" if list(root.parent.glob("*/board-settings.json")) else "not kept"
    log.write(" ".join([Path(sys.argv[0]).name, *arguments]) + f" [{{kept}}]\\n")
denied = (root / "denied").exists() and "AS_ROOT" not in os.environ
cores = sorted((root / "sys/devices/system/cpu").glob("cpu*/cpufreq"))
gpu = root / {gpu!r}
if (root / "die").exists() and (root / "die").read_text() == " ".join([Path(sys.argv[0]).name, *arguments]):
    (root / "die").unlink()
    os.kill(os.getppid(), signal.SIGKILL)
"""

_NVPMODEL = """
MODES = {modes!r}
status = root / "var/lib/nvpmodel/status"
if arguments == ["-q"]:
    number = int(status.read_text().removeprefix("pmode:"))
    print("NVPM WARN: fan mode is not set!")
    print("NV Power Mode:", MODES[number][0])
    print(number)
elif arguments[:1] == ["-m"]:
    number = int(arguments[1])
    if denied:
        print("NVPM ERROR: Error opening /sys/devices/system/cpu/cpu0/online: 13")
        sys.exit(1)
    if number == 3:
        print("NVPM WARN: Golden image context is already created")
        print("NVPM WARN: Reboot required for changing to this power mode: 3")
        print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
        assert not sys.stdin.read(), "somebody answered"
        print("NVPM ERROR: bad input!")
        print("NVPM ERROR: optMask is 1, no request for power mode")
        sys.exit(1)
    status.write_text(f"pmode:{{number:04}}\\n")
    for core in cores:
        (core / "scaling_max_freq").write_text(f"{{MODES[number][1]}}\\n")
        (core / "scaling_min_freq").write_text("{lowest}\\n")
        (core / "scaling_governor").write_text("schedutil\\n")
"""

_CLOCKS = """
if denied:
    print("Error: Run this script(/usr/bin/jetson_clocks) as a root user")
    sys.exit(1)
files = [core / name for core in cores for name in ("scaling_min_freq", "scaling_max_freq")]
files += [gpu / "min_freq", gpu / "max_freq"]
if arguments == ["--show"]:
    for core in cores:
        low, high = (core / "scaling_min_freq").read_text().strip(), (core / "scaling_max_freq").read_text().strip()
        name = core.parent.name
        print(f"{{name}}:  Governor=schedutil MinFreq={{low}} MaxFreq={{high}} CurrentFreq={{low}} IdleStates: WFI=1")
elif arguments[:1] == ["--store"]:
    store = Path(arguments[1])
    if store.exists():
        print(f"File {{store}} already exists. Can I overwrite it? Y/N:")
        if sys.stdin.readline().strip().lower() != "y":
            print(f"Error: file {{store}} already exists!")
            sys.exit(1)
    print(f"Storing system configuration in {{store}}")
    store.write_text("".join(f"{{path}}:{{path.read_text().strip()}}\\n" for path in files))
elif arguments[:1] == ["--restore"]:
    store = Path(arguments[1])
    if not store.exists():
        print(f"Error: {{store}} file not found !")
        sys.exit(1)
    print(f"Restoring system configuration from {{store}}")
    for line in store.read_text().splitlines():
        path, _, value = line.rpartition(":")
        Path(path).write_text(value + "\\n")
elif not arguments:
    for core in cores:
        (core / "scaling_min_freq").write_text((core / "scaling_max_freq").read_text())
    (gpu / "min_freq").write_text((gpu / "max_freq").read_text())
"""

_SMI = """
state = root / "gpu-state"
values = dict(line.split("=") for line in state.read_text().splitlines())
name = "00000000:01:00.0"
if arguments and arguments[0].startswith("--query-gpu=persistence_mode"):
    print(values["persistence"])
    sys.exit(0)
if arguments[:2] != ["-i", "0"]:
    print("[N/A]")
    sys.exit(0)
command = arguments[2:]
if denied:
    print(f"The current user does not have permission to change clocks for GPU {{name}}.")
    print("Terminating early due to previous errors.")
    sys.exit(4)
if (root / "no-lock").exists() and command[0] == "-lgc":
    print(f"Setting locked GPU clocks is not supported for GPU {{name}}.")
    sys.exit(0)
if command[0] == "-pm":
    values["persistence"] = "Enabled" if command[1] == "1" else "Disabled"
    print(f"{{values['persistence']}} persistence mode for GPU {{name}}.")
elif command[0] == "-lgc":
    low, high = command[1].split(",")
    values["locked"] = low
    print(f'GPU clocks set to "(gpuClkMin {{low}}, gpuClkMax {{high}})" for GPU {{name}}')
elif command[0] == "-rgc":
    values["locked"] = "no"
state.write_text("".join(f"{{key}}={{value}}\\n" for key, value in values.items()))
print("All done.")
"""

_SUDO = """
words = arguments[2:] if arguments[:2] == ["-n", "--"] else sys.exit(1)
allowed = (root / "sudoers").read_text().splitlines() if (root / "sudoers").exists() else []
if " ".join([Path(words[0]).name, *words[1:]]) not in allowed:
    print("sudo: a password is required")
    sys.exit(1)
os.execve(words[0], words, {{**os.environ, "AS_ROOT": "1"}})
"""


class SettableBoard:
    """One board's tree and what was done to it.

    Args:
        root: its folder; the agents' data directories lie beside it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, text: str) -> Path:
        """A file of the board's."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def tool(self, name: str, body: str) -> None:
        """An executable of the board's."""
        fields = {"python": sys.executable, "root": str(self.root), "gpu": GPU, "modes": MODES, "lowest": LOWEST}
        self.put(f"usr/sbin/{name}", (_HEAD + body).format(**fields)).chmod(0o755)

    def cores(self, governor: str = "schedutil", highest: int = MODES[0][1]) -> None:
        """cpufreq of every core."""
        for core in range(CORES):
            folder = CPU.format(core)
            self.put(f"{folder}/scaling_governor", f"{governor}\n")
            self.put(f"{folder}/scaling_available_governors", "performance powersave schedutil\n")
            self.put(f"{folder}/scaling_min_freq", f"{LOWEST}\n")
            self.put(f"{folder}/scaling_max_freq", f"{highest}\n")
            self.put(f"{folder}/scaling_cur_freq", f"{LOWEST}\n")

    def boot(self, boot_id: str) -> None:
        """Another boot: what only the kernel knew is as at first, what nvpmodel keeps is kept."""
        self.put("proc/sys/kernel/random/boot_id", f"{boot_id}\n")

    def state(self) -> dict[str, str]:
        """Everything a setting could change, as the kernel and the tools keep it."""
        paths = [path for folder in ("sys", "var", "gpu-state") for path in sorted(self.root.glob(f"{folder}/**/*"))]
        files = [path for path in paths if path.is_file()]
        if (gpu := self.root / "gpu-state").is_file():
            files.append(gpu)
        return {str(path.relative_to(self.root)): path.read_text() for path in files}

    def called(self) -> list[str]:
        """The calls of its tools, in order, each with whether the agent had kept what was before."""
        path = self.root / "called"
        return path.read_text().splitlines() if path.exists() else []


def jetson(root: Path) -> SettableBoard:
    """An Orin Nano in its 15 W mode."""
    board = SettableBoard(root)
    board.cores()
    board.boot("boot-1")
    board.put("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    board.put("etc/nvpmodel.conf", "".join(f"< POWER_MODEL ID={n} NAME={name} >\n" for n, (name, _) in MODES.items()))
    board.put("var/lib/nvpmodel/status", "pmode:0000\n")
    board.put(f"{GPU}/device/of_node/name", "gpu\0")
    board.put(f"{GPU}/min_freq", "306000000\n")
    board.put(f"{GPU}/max_freq", "918000000\n")
    board.put(f"{GPU}/cur_freq", "306000000\n")
    board.tool("nvpmodel", _NVPMODEL)
    board.tool("jetson_clocks", _CLOCKS)
    return board


def linux(root: Path) -> SettableBoard:
    """A board of any family that has cpufreq only."""
    board = SettableBoard(root)
    board.cores("powersave", 2_400_000)
    board.boot("boot-1")
    return board


def gpu_machine(root: Path) -> SettableBoard:
    """A machine with an NVIDIA GPU."""
    board = linux(root)
    board.put("gpu-state", "persistence=Disabled\nlocked=no\n")
    board.tool("nvidia-smi", _SMI)
    return board


def add_sudo(board: SettableBoard, *allowed: str) -> None:
    """sudo with rules for exactly these words."""
    board.tool("sudo", _SUDO)
    board.put("sudoers", "".join(f"{line}\n" for line in allowed))
