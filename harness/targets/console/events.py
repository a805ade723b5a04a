"""What a console's lines mean: failures, warnings and stages of a boot, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """Kinds of what a board says about itself."""

    PANIC = "kernel-panic"  # the kernel has stopped; only a reset helps
    OOPS = "oops"  # a fault inside the kernel; it may go on, damaged
    OOM_KILL = "oom-kill"  # memory ran out and a process was killed
    UNDER_VOLTAGE = "under-voltage"  # the supply sagged; clocks are lowered, storage may fail
    VOLTAGE_NORMAL = "voltage-normal"  # the supply is back
    THERMAL = "thermal"  # too hot: throttled, or shut down
    IO_ERROR = "io-error"  # storage does not answer or a file system is damaged
    WATCHDOG = "watchdog"  # a processor or a task makes no progress, or a watchdog reset the board
    RESTART = "restart"  # the kernel says that it restarts the board
    BOOT = "boot"  # a stage of a boot
    LOGIN = "login-prompt"  # the board is up


class BootStage(StrEnum):
    """How far a boot has come, in order."""

    FIRMWARE = "firmware"
    BOOT_LOADER = "boot loader"
    LOADING_KERNEL = "loading the kernel"
    KERNEL = "kernel"
    USER_SPACE = "user space"
    LOGIN = "login prompt"


@dataclass(frozen=True, slots=True)
class ConsoleEvent:
    """One line that means something.

    Args:
        kind: what it means.
        summary: that in words, with the process, the device or the cause the line names.
        line: the line itself, clean.
        unix_s: when it arrived on this machine.
        uptime_s: the kernel's own time stamp, s since its start; None where the line has none.
        stage: of a boot; None for other kinds.
    """

    kind: EventKind
    summary: str
    line: str
    unix_s: float
    uptime_s: float | None = None
    stage: BootStage | None = None
