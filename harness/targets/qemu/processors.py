"""Which processor QEMU shows for a kind of board, and what the kernel of such a board says of it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UserError

#: Of /proc/cpuinfo on Cortex-A53, A57 and A72 as QEMU has them, with cryptography (arch/arm64 hwcap names).
_ARMV8 = ("fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "cpuid")
#: Cortex-A76 adds half precision and dot products.
_ARMV82 = (*_ARMV8, "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp")


@dataclass(frozen=True, slots=True)
class Processor:
    """One processor.

    Args:
        name: QEMU's, for `-cpu`.
        title: its maker's.
        part: part number in MIDR_EL1, from the core's Technical Reference Manual.
        features: words of the kernel's `Features` line.
    """

    name: str
    title: str
    part: int
    features: tuple[str, ...]

    def cpuinfo(self, count: int, emulator: str) -> str:
        """The text of /proc/cpuinfo.

        ONNX Runtime 1.28 and newer reads it to choose its kernels, and crashes on that of an x86 host.

        Args:
            count: processors.
            emulator: named behind the title, so that nobody takes it for silicon.
        """
        lines = (
            f"model name\t: {self.title} ({emulator})",
            "BogoMIPS\t: 108.00",
            f"Features\t: {' '.join(self.features)}",
            "CPU implementer\t: 0x41",
            "CPU architecture: 8",
            "CPU variant\t: 0x0",
            f"CPU part\t: {self.part:#05x}",
            "CPU revision\t: 0",
        )
        return "".join("\n".join((f"processor\t: {number}", *lines)) + "\n\n" for number in range(count))


_A53 = Processor("cortex-a53", "Cortex-A53", 0xD03, _ARMV8)
_A57 = Processor("cortex-a57", "Cortex-A57", 0xD07, _ARMV8)
_A72 = Processor("cortex-a72", "Cortex-A72", 0xD08, _ARMV8)
_A76 = Processor("cortex-a76", "Cortex-A76", 0xD0B, _ARMV82)

#: By kind of board. QEMU 7.2 has no Cortex-A78AE: the Orins get the A76, whose int8 instructions are the same.
_PROCESSORS = {
    "raspberry-pi-zero-2": _A53,
    "raspberry-pi-3": _A53,
    "raspberry-pi-4": _A72,
    "raspberry-pi-5": _A76,
    "jetson-nano": _A57,
    "jetson-tx2": _A57,
    "jetson-orin-nano": _A76,
    "jetson-orin-nx": _A76,
    "jetson-agx-orin": _A76,
    "zcu102": _A53,
    "zcu104": _A53,
    "kv260": _A53,
    "ultra96": _A53,
    "generic": _A72,
}


def processor_of(target: str, board: str) -> Processor:
    """The processor for a target.

    Args:
        target: name in targets.yaml, for the message.
        board: its kind.

    Raises:
        UserError: QEMU has none like it.
    """
    processor = _PROCESSORS.get(board)
    if processor is None:
        raise UserError(f"{target}: QEMU has no processor like that of {board}; write `via: emulated` in targets.yaml")
    return processor
