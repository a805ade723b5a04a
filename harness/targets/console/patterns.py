"""Lines by which a kernel or a boot loader says what is the matter.

Each rule names where the line is printed (file of Linux, U-Boot, Trusted Firmware-A, …; `rpi` is the Raspberry Pi's
kernel, `l4t` NVIDIA's), so that a new kernel's wording can be compared with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from harness.targets.console.events import BootStage, ConsoleEvent, EventKind

#: `<3>[   12.345678][  T123] ` as printk writes before a line (kernel/printk/printk.c: print_syslog, print_time,
#: print_caller); dmesg's `kernel: ` of a journal forwarded to the console comes before or instead of it.
_PREFIX = re.compile(
    r"^(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} +\d+ [\d:]{8} \S+ kernel: )?"
    r"(?:\[ *(?P<uptime>\d+\.\d{6})\])?(?:\[ *[TC]\d+\])? *"
)

#: The stamp alone, wherever in a line a message begins.
_STAMP = re.compile(r"(?:<\d{1,3}>)?\[ *\d+\.\d{6}\]")


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: EventKind
    pattern: re.Pattern[str]
    summary: str  # with the pattern's groups
    stage: BootStage | None = None


def _rule(kind: EventKind, pattern: str, summary: str, stage: BootStage | None = None) -> _Rule:
    return _Rule(kind, re.compile(pattern), summary, stage)


_PANIC, _OOPS, _OOM = EventKind.PANIC, EventKind.OOPS, EventKind.OOM_KILL
_WATCHDOG, _IO, _THERMAL = EventKind.WATCHDOG, EventKind.IO_ERROR, EventKind.THERMAL
_UNDER, _NORMAL, _BOOT = EventKind.UNDER_VOLTAGE, EventKind.VOLTAGE_NORMAL, EventKind.BOOT

#: The first that fits a line counts.
_RULES = (
    # kernel/panic.c: panic(), "Kernel panic - not syncing: %s"; the end marker repeats it and is no second panic
    _rule(_PANIC, r"^Kernel panic - not syncing: (?P<why>.+)", "kernel panic: {why}"),
    # kernel/panic.c: panic(), "Rebooting in %d seconds.." where panic= or CONFIG_PANIC_TIMEOUT says so
    _rule(EventKind.RESTART, r"^Rebooting in (?P<s>\d+) seconds\.\.", "the kernel restarts the board in {s} s"),
    # kernel/reboot.c: kernel_restart(), "Restarting system"; emergency_restart() prints nothing
    _rule(EventKind.RESTART, r"^reboot: Restarting system", "the kernel restarts the board"),
    # arch/arm64/kernel/traps.c: __die(), "Internal error: %s [#%d] SMP" (also arch/arm/kernel/traps.c)
    _rule(_OOPS, r"^Internal error: (?P<why>.+?) \[#\d+\]", "kernel oops: {why}"),
    # arch/arm64/mm/fault.c: die_kernel_fault(), "Unable to handle kernel %s at virtual address %016lx"
    _rule(_OOPS, r"^Unable to handle kernel (?P<why>.+) at virtual address", "kernel oops: {why}"),
    # lib/bug.c: report_bug(), "kernel BUG at %s:%u!"
    _rule(_OOPS, r"^kernel BUG at (?P<why>\S+?)!", "kernel oops: BUG at {why}"),
    # arch/x86/mm/fault.c: show_fault_oops(); arch/x86/kernel/dumpstack.c: __die_header(), "Oops: %04lx [#%d]"
    _rule(_OOPS, r"^BUG: (?P<why>unable to handle .+|kernel NULL pointer dereference)", "kernel oops: {why}"),
    _rule(_OOPS, r"^Oops: (?P<why>.+? \[#\d+\])", "kernel oops: {why}"),
    # mm/oom_kill.c: __oom_kill_process(), "%s: Killed process %d (%s) total-vm:…"; before 4.20 the words
    # "Out of memory: Kill process %d (%s) score … or sacrifice child" came on a line of their own
    _rule(
        _OOM,
        r"^(?:(?P<what>Out of memory|Memory cgroup out of memory)[^:]*: )?Killed process (?P<pid>\d+) "
        r"\((?P<name>.*?)\),? (?:UID \d+,? )?total-vm:",
        "out of memory: the kernel killed {name} (pid {pid})",
    ),
    # kernel/watchdog.c: watchdog_timer_fn(), watchdog_hardlockup_check()
    _rule(_WATCHDOG, r"BUG: soft lockup - CPU#(?P<cpu>\d+) stuck for (?P<s>\d+)s!", "CPU {cpu} stuck for {s} s"),
    _rule(_WATCHDOG, r"Watchdog detected hard LOCKUP on cpu (?P<cpu>\d+)", "CPU {cpu} locked up"),
    # kernel/hung_task.c: check_hung_task(), "INFO: task %s:%d blocked for more than %ld seconds."
    _rule(
        _WATCHDOG,
        r"^INFO: task (?P<name>.+):(?P<pid>\d+) blocked(?: in I/O wait)? for more than (?P<s>\d+) seconds",
        "{name} (pid {pid}) blocked for more than {s} s",
    ),
    # kernel/rcu/tree_stall.h: print_cpu_stall(), print_other_cpu_stall()
    _rule(_WATCHDOG, r"INFO: (?P<what>rcu\w* (?:self-)?detected stalls? on CPUs?)", "{what}"),
    # drivers/watchdog/softdog.c: "Initiating system reboot"; pretimeout_noop.c: "watchdog0: pretimeout event"
    _rule(
        _WATCHDOG,
        r"^(?:softdog|watchdog\d*): (?P<what>Initiating (?:system reboot|panic)|pretimeout event)",
        "watchdog: {what}",
    ),
    # drivers/thermal/thermal_core.c: thermal_zone_device_critical(), "%s: critical temperature reached, shutting
    # down"; before 5.11 "critical temperature reached (%d C), shutting down"
    _rule(_THERMAL, r"critical temperature reached(?: \((?P<celsius>-?\d+) C\))?", "critical temperature reached"),
    # kernel/reboot.c: __hw_protection_trigger(), "HARDWARE PROTECTION shutdown (%s)"
    _rule(_THERMAL, r"HARDWARE PROTECTION (?:shutdown|reboot) \((?P<why>Temperature.*?)\)", "shut down: {why}"),
    # drivers/thermal/intel/therm_throt.c prints "temperature is above threshold, cpu clock is throttled" with the
    # processor before it; older kernels left both "is" out
    _rule(_THERMAL, r"temperature (?:is )?above threshold, cpu clock (?:is )?throttled", "CPU clock throttled"),
    # drivers/thermal/tegra/soctherm.c (and l4t's): "throttling" by over-current: "soctherm: OC ALARM 0x%08x"
    _rule(_THERMAL, r"soctherm: OC ALARM (?P<bits>0x[0-9a-fA-F]+)", "over-current throttling (soctherm {bits})"),
    # drivers/hwmon/raspberrypi-hwmon.c: "Undervoltage detected!", "Voltage normalised"; rpi's drivers/firmware/
    # raspberrypi.c before 4.19: "Under-voltage detected! (0x%08x)"
    _rule(_UNDER, r"Under-?voltage detected!", "under-voltage"),
    _rule(_NORMAL, r"Voltage normali[sz]ed", "voltage back to normal"),
    # drivers/regulator/core.c: regulator_handle_critical(), with kernel/reboot.c's line
    _rule(_UNDER, r"HARDWARE PROTECTION (?:shutdown|reboot) \((?P<why>.*[Uu]nder-?voltage.*?)\)", "shut down: {why}"),
    # block/blk-core.c: blk_status_to_errno's report, "blk_update_request: I/O error, dev %s" (5.x), "%s error, dev %s"
    # (later, with "I/O", "timeout", "critical medium", … from blk_errors); buffer.c: buffer_io_error()
    _rule(_IO, r"(?P<what>I/O|critical \w+|timeout|protection) error, dev (?P<dev>\w+),", "{what} error on {dev}"),
    _rule(_IO, r"^Buffer I/O error on dev(?:ice)? (?P<dev>\w+)", "I/O error on {dev}"),
    # fs/ext4/super.c: __ext4_error(), ext4_handle_error(), "EXT4-fs error (device %s): "; "Remounting … read-only"
    _rule(_IO, r"^EXT4-fs error \(device (?P<dev>[^)]+)\)", "ext4 error on {dev}"),
    _rule(_IO, r"^EXT4-fs \((?P<dev>[^)]+)\): Remounting filesystem read-only", "{dev} became read-only"),
    # fs/jbd2/journal.c: __jbd2_journal_abort → "Aborting journal on device %s."
    _rule(_IO, r"^Aborting journal on device (?P<dev>[^.\s]+)", "journal of {dev} aborted"),
    # drivers/mmc/core: "mmc0: error -110 whilst initialising SD card"; mmc/core/block.c: "mmcblk0: error -110 …";
    # drivers/mmc/host/sdhci.c: "mmc0: Timeout waiting for hardware interrupt."; "mmc0: card %s removed" (bus.c)
    _rule(_IO, r"^(?P<dev>mmc(?:blk)?\d+(?:p\d+)?): .*error -?\d+", "error on {dev}"),
    _rule(_IO, r"^(?P<dev>mmc\d+): (?P<why>Timeout waiting for .*?)\.?$", "{dev}: {why}"),
    _rule(_IO, r"^(?P<dev>mmc\d+): card (?P<card>\w+) removed", "{dev}: card {card} removed"),
    # drivers/nvme/host/pci.c: nvme_timeout(), nvme_warn_reset()
    _rule(_IO, r"^nvme (?P<dev>\w+): (?P<why>I/O .*timeout|controller is down)", "{dev}: {why}"),
    # -- a boot, in its order. Trusted Firmware-A common/tf_log.c: "NOTICE:  BL31: v2.8"; Xilinx's FSBL
    # (xfsbl_main.c), NVIDIA's MB1 and UEFI (l4t), the Raspberry Pi's bootloader (uart_2ndstage)
    _rule(_BOOT, r"^NOTICE: +(?P<what>BL\d+): v", "Trusted Firmware {what}", BootStage.FIRMWARE),
    _rule(
        _BOOT,
        r"Xilinx Zynq MP First Stage Boot Loader|I> MB1 \(version|^RPi: BOOTLOADER|^Raspberry Pi Bootcode",
        "firmware",
        BootStage.FIRMWARE,
    ),
    # U-Boot lib/display_options.c: display_options(), "U-Boot 2024.01 (…"; common/spl/spl.c: "U-Boot SPL …"
    _rule(
        _BOOT,
        r"^U-Boot (?P<what>(?:SPL |TPL )?\d{4}\.\d{2}\S*)|^Jetson UEFI firmware",
        "boot loader started",
        BootStage.BOOT_LOADER,
    ),
    # U-Boot arch/arm/lib/bootm.c: announce_and_cleanup(), "Starting kernel ..."; drivers/firmware/efi/libstub
    _rule(_BOOT, r"^Starting kernel \.\.\.|^EFI stub: Booting Linux", "kernel loaded", BootStage.LOADING_KERNEL),
    # arch/arm64/kernel/setup.c: "Booting Linux on physical CPU 0x…"; init/main.c: linux_banner "Linux version …"
    _rule(_BOOT, r"^Booting Linux on physical CPU", "kernel started", BootStage.KERNEL),
    _rule(_BOOT, r"^Linux version (?P<version>\S+)", "kernel {version} started", BootStage.KERNEL),
    # init/main.c: run_init_process(), "Run %s as init process"
    _rule(_BOOT, r"^Run (?P<path>/\S+) as init process", "{path} started", BootStage.USER_SPACE),
    # systemd src/core/main.c: "systemd %s running in system mode"; "Welcome to %s!"
    _rule(_BOOT, r"systemd\[1\]: systemd \S+ running in system mode", "systemd started", BootStage.USER_SPACE),
)

#: agetty's prompt (util-linux term-utils/agetty.c: "%s%s: " of host name and "login"), busybox' and getty's alike.
#: "Last login: …" comes after a login. A name that was typed may already stand behind it.
_LOGIN = re.compile(r"^(?!Last )(?:[A-Za-z0-9][\w.-]* )?login:(?: \S+(?: \(automatic login\))?)?$")


def recognize(line: str, unix_s: float) -> ConsoleEvent | None:
    """What a clean line means; None where it means nothing known. Of several things it says, the last.

    Args:
        line: as `LineAssembler` gives it, with or without the kernel's time stamp.
        unix_s: when it arrived.
    """
    found = recognize_all(line, unix_s)
    return found[-1] if found else None


def recognize_all(line: str, unix_s: float) -> list[ConsoleEvent]:
    """Like `recognize`, for a line that holds more than one: the kernel writes where a prompt has left the cursor."""
    starts = [0, *(match.start() for match in _STAMP.finditer(line) if match.start() > 0), len(line)]
    pieces = [line[begin:end] for begin, end in pairwise(starts)]
    return [event for piece in pieces if (event := _recognize(piece.rstrip(), line, unix_s)) is not None]


def _recognize(piece: str, line: str, unix_s: float) -> ConsoleEvent | None:
    prefix = _PREFIX.match(piece)
    assert prefix is not None  # every part of it may be absent
    text = piece[prefix.end() :]
    uptime_s = float(prefix["uptime"]) if prefix["uptime"] else None
    for rule in _RULES:
        if match := rule.pattern.search(text):
            groups = {name: value or "" for name, value in match.groupdict().items()}
            return ConsoleEvent(rule.kind, rule.summary.format(**groups), line, unix_s, uptime_s, rule.stage)
    if is_login_prompt(piece):
        return ConsoleEvent(EventKind.LOGIN, "login prompt", line, unix_s, stage=BootStage.LOGIN)
    return None


def is_login_prompt(text: str) -> bool:
    """Whether a line, ended or not, asks for a login."""
    return _LOGIN.match(text) is not None
