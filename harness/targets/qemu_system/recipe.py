"""What an emulated board is to be, and what QEMU can make of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from harness.errors import UserError
from harness.targets.qemu.processors import processor_of
from harness.yamlfile import one_of

#: Of a guest: four of them fit beside a run on a 16 GiB machine.
MAX_MEMORY_MB = 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of QEMU that we have a kernel and devices for.

    Args:
        name: for `-machine`.
        kernel: Debian's package of it.
        console: the kernel's name of its serial port.
        control: the same of the port for words that `guest.CONTROL` understands.
        disk: the same of its root disk.
        modules: drivers that the kernel package has as modules; what they need follows.
        most_processors: that it can have.
        processor: QEMU's name of the only one it has; None: the board's kind decides.
        clock: address of the seconds in a real-time clock that the kernel has no driver for; None: it has one.
    """

    name: str
    kernel: str
    console: str
    control: str
    disk: str
    modules: tuple[str, ...]
    most_processors: int = 8
    processor: str | None = None
    clock: int | None = None


MACHINES = {
    # Debian's cloud kernel has few drivers beyond those of virtual machines: 21 MB instead of 60.
    "virt": Machine(
        "virt",
        "linux-image-cloud-arm64",
        console="ttyAMA0",
        control="hvc0",
        disk="vda",
        modules=("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "ext4"),
    ),
    "xlnx-zcu102": Machine(
        "xlnx-zcu102",
        "linux-image-arm64",
        console="ttyPS0",
        control="ttyPS1",
        disk="mmcblk0",
        # ext4 asks for crc32c by what it does, which no dependency of modules says
        modules=("sdhci_of_arasan", "marvell", "macb", "crc32c_generic", "ext4"),
        most_processors=4,
        processor="cortex-a53",
        clock=0xFFA60010,  # RTC.CURRENT_TIME (UG1087); Debian's kernel is built without its driver
    ),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """An emulated board.

    Args:
        machine: of QEMU, a key of `MACHINES`.
        board: kind it stands for; it decides the processor.
        memory_mb: of the guest, MiB.
        processors: of the guest.
        agent: whether it starts the agent; without, it is a bare Linux board with Python and SSH, to be provisioned.
    """

    machine: str = "virt"
    board: str = "raspberry-pi-4"
    memory_mb: int = MAX_MEMORY_MB
    processors: int = 2
    agent: bool = True

    @property
    def identity(self) -> str:
        """Of these fields: 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, target: str) -> Machine:
        """The machine, when all of this can be emulated.

        Args:
            target: name in targets.yaml, for the message.

        Raises:
            UserError: no such machine, no such processor, too much memory.
        """
        machine = MACHINES.get(self.machine)
        if machine is None:
            raise UserError(f"{target}: no QEMU machine '{self.machine}' here{one_of(self.machine, MACHINES)}")
        processor = processor_of(target, self.board).name
        if machine.processor is not None and processor != machine.processor:
            raise UserError(
                f"{target}: a {self.board} has a {processor}, and {machine.name} is made of {machine.processor}; "
                "write `board: zcu102`, or `via: {qemu: virt}`"
            )
        if not 256 <= self.memory_mb <= MAX_MEMORY_MB:
            raise UserError(
                f"{target}: an emulated board has 256 to {MAX_MEMORY_MB} MiB of memory, not {self.memory_mb}"
            )
        if not 1 <= self.processors <= machine.most_processors:
            most = machine.most_processors
            raise UserError(f"{target}: an emulated board has 1 to {most} processors, not {self.processors}")
        return machine
