"""What real lines of kernels and boot loaders mean, and lines that look alike and mean nothing."""

from __future__ import annotations

import pytest

from harness.errors import Offline
from harness.targets.console.events import BootStage, ConsoleEvent, EventKind
from harness.targets.console.explain import explain, explained, remarks
from harness.targets.console.patterns import is_login_prompt, recognize, recognize_all

K = EventKind


@pytest.mark.parametrize(
    ("line", "kind", "summary"),
    [
        (
            "[    2.112233] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            K.PANIC,
            "kernel panic: VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        ("[   12.100001] Rebooting in 10 seconds..", K.RESTART, "the kernel restarts the board in 10 s"),
        ("[  901.200002] reboot: Restarting system", K.RESTART, "the kernel restarts the board"),
        ("Rebooting in 10 seconds, said a user", None, ""),
        ("<0>[   10.5] Kernel panic - not syncing: sysrq triggered crash", None, ""),  # no stamp of printk's form
        (
            "<0>[   10.500000][  T123] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009",
            K.PANIC,
            "kernel panic: Attempted to kill init! exitcode=0x00000009",
        ),
        (
            "[  353.498700] Internal error: Oops: 0000000096000045 [#1] PREEMPT SMP",
            K.OOPS,
            "kernel oops: Oops: 0000000096000045",
        ),
        (
            "[  353.421] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
            None,
            "",
        ),
        (
            "[  353.421000] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
            K.OOPS,
            "kernel oops: NULL pointer dereference",
        ),
        ("[   33.100001] kernel BUG at mm/slub.c:381!", K.OOPS, "kernel oops: BUG at mm/slub.c:381"),
        (
            "[ 1234.567890] BUG: unable to handle page fault for address: ffffa1b2c3d4e5f6",
            K.OOPS,
            "kernel oops: unable to handle page fault for address: ffffa1b2c3d4e5f6",
        ),
        ("[ 1234.567891] Oops: 0002 [#1] SMP NOPTI", K.OOPS, "kernel oops: 0002 [#1]"),
        (
            "[ 4523.103399] Out of memory: Killed process 2214 (python3) total-vm:5021884kB, anon-rss:3590440kB, "
            "file-rss:128kB, shmem-rss:0kB, UID:1000 pgtables:7440kB oom_score_adj:0",
            K.OOM_KILL,
            "out of memory: the kernel killed python3 (pid 2214)",
        ),
        (
            "[   88.000001] Memory cgroup out of memory: Killed process 501 (quantrig-agent:child) total-vm:900kB, "
            "anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:998 pgtables:1kB oom_score_adj:500",
            K.OOM_KILL,
            "out of memory: the kernel killed quantrig-agent:child (pid 501)",
        ),
        (  # Linux 4.9, JetPack 4
            "[  210.334455] Killed process 7012 (trtexec) total-vm:9876543kB, anon-rss:3210kB, file-rss:12kB",
            K.OOM_KILL,
            "out of memory: the kernel killed trtexec (pid 7012)",
        ),
        ("[    9.332211] hwmon hwmon1: Undervoltage detected!", K.UNDER_VOLTAGE, "under-voltage"),
        ("[   10.123456] Under-voltage detected! (0x00050005)", K.UNDER_VOLTAGE, "under-voltage"),
        ("[   13.412345] hwmon hwmon1: Voltage normalised", K.VOLTAGE_NORMAL, "voltage back to normal"),
        ("[   14.412345] Voltage normalised (0x00000000)", K.VOLTAGE_NORMAL, "voltage back to normal"),
        (
            "[  121.380054] thermal thermal_zone0: cpu-thermal: critical temperature reached, shutting down",
            K.THERMAL,
            "critical temperature reached",
        ),
        (
            "Jan  3 11:19:54 board kernel: [   42.487785] thermal thermal_zone4: critical temperature reached (128 C), "
            "shutting down",
            K.THERMAL,
            "critical temperature reached",
        ),
        (
            "[  121.388482] reboot: HARDWARE PROTECTION shutdown (Temperature too high)",
            K.THERMAL,
            "shut down: Temperature too high",
        ),
        (
            "[ 7314.987694] CPU2: Core temperature is above threshold, cpu clock is throttled (total events = 1)",
            K.THERMAL,
            "CPU clock throttled",
        ),
        (
            "[  600.123456] soctherm: OC ALARM 0x00000001",
            K.THERMAL,
            "over-current throttling (soctherm 0x00000001)",
        ),
        (
            "[  100.000001] blk_update_request: I/O error, dev mmcblk0, sector 2048 op 0x0:(READ) flags 0x80700",
            K.IO_ERROR,
            "I/O error on mmcblk0",
        ),
        (
            "[  100.000001] critical medium error, dev nvme0n1, sector 2048 op 0x0:(READ) flags 0x0",
            K.IO_ERROR,
            "critical medium error on nvme0n1",
        ),
        (
            "[  100.000002] Buffer I/O error on dev mmcblk0p2, logical block 1, lost async page write",
            K.IO_ERROR,
            "I/O error on mmcblk0p2",
        ),
        (
            "[  100.100000] EXT4-fs error (device mmcblk0p2): ext4_find_entry:1683: inode #2: comm sh: reading",
            K.IO_ERROR,
            "ext4 error on mmcblk0p2",
        ),
        (
            "[  100.200000] EXT4-fs (mmcblk0p2): Remounting filesystem read-only",
            K.IO_ERROR,
            "mmcblk0p2 became read-only",
        ),
        ("[  100.300000] Aborting journal on device mmcblk0p2-8.", K.IO_ERROR, "journal of mmcblk0p2-8 aborted"),
        ("[    3.000000] mmc0: error -110 whilst initialising SD card", K.IO_ERROR, "error on mmc0"),
        (
            "[   53.000000] mmc1: Timeout waiting for hardware interrupt.",
            K.IO_ERROR,
            "mmc1: Timeout waiting for hardware interrupt",
        ),
        ("[   60.000000] mmc0: card aaaa removed", K.IO_ERROR, "mmc0: card aaaa removed"),
        (
            "[  248.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [python3:1234]",
            K.WATCHDOG,
            "CPU 1 stuck for 22 s",
        ),
        ("[   95.974379] watchdog: Watchdog detected hard LOCKUP on cpu 3", K.WATCHDOG, "CPU 3 locked up"),
        (
            "[  363.000000] INFO: task jbd2/mmcblk0p2-:87 blocked for more than 120 seconds.",
            K.WATCHDOG,
            "jbd2/mmcblk0p2- (pid 87) blocked for more than 120 s",
        ),
        (
            "[  100.400000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            K.WATCHDOG,
            "rcu_preempt detected stalls on CPUs",
        ),
        ("U-Boot SPL 2023.04 (Apr 03 2023 - 20:38:50 +0000)", K.BOOT, "boot loader started"),
        ("NOTICE:  BL31: v2.8(release):v2.8", K.BOOT, "Trusted Firmware BL31"),
        ("Xilinx Zynq MP First Stage Boot Loader ", K.BOOT, "firmware"),
        ("[0000.042] I> MB1 (version: 0.40.0.0-t234-54845784-57325615)", K.BOOT, "firmware"),
        ("Jetson UEFI firmware (version 36.3.0-gcid-36106755 built on 2024-04-25)", K.BOOT, "boot loader started"),
        ("Starting kernel ...", K.BOOT, "kernel loaded"),
        ("[    0.000000] Linux version 5.15.136-tegra (buildbrain@mobile)", K.BOOT, "kernel 5.15.136-tegra started"),
        ("[    2.183729] Run /sbin/init as init process", K.BOOT, "/sbin/init started"),
        ("raspberrypi login:", K.LOGIN, "login prompt"),
    ],
)  # fmt: skip
def test_a_line_and_its_meaning(line: str, kind: EventKind | None, summary: str) -> None:
    found = recognize(line, 100.0)
    assert (found and found.kind, found.summary if found else "") == (kind, summary)
    if found is not None:
        assert (found.line, found.unix_s) == (line, 100.0)


@pytest.mark.parametrize(
    ("line", "kinds"),
    [  # the kernel does not begin a line of its own
        ("quantrig-board login: [    6.551264] hrtimer: interrupt took 20352400 ns", [K.LOGIN]),
        ("raspberrypi login: [  353.498700] Kernel panic - not syncing: sysrq triggered crash", [K.LOGIN, K.PANIC]),
        ("Password: <0>[  353.498700] Kernel panic - not syncing: sysrq triggered crash", [K.PANIC]),
        (
            "[  100.100000] EXT4-fs error (device vda): x[  100.200000] EXT4-fs (vda): Remounting filesystem read-only",
            [K.IO_ERROR, K.IO_ERROR],
        ),
        ("starting job [12.5] ok", []),
    ],
)
def test_lines_that_run_into_each_other(line: str, kinds: list[EventKind]) -> None:
    assert [event.kind for event in recognize_all(line, 0.0)] == kinds
    assert (recognize(line, 0.0) is None) == (not kinds)


def test_the_kernels_own_time() -> None:
    found = recognize("[ 4523.103399] Out of memory: Killed process 1 (a) total-vm:1kB", 5.0)
    assert found is not None
    assert found.uptime_s == 4523.103399
    assert recognize("Kernel panic - not syncing: x", 5.0) == ConsoleEvent(
        K.PANIC, "kernel panic: x", "Kernel panic - not syncing: x", 5.0
    )


@pytest.mark.parametrize(
    "line",
    [
        "[    2.118899] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---",
        "$ grep 'Kernel panic - not syncing' /var/log/kern.log",
        "[    0.000000] Command line: console=ttyS0 panic=10 oops=panic",
        "[    1.000000] watchdog: watchdog0: bcm2835-wdt registered",
        "[    1.200000] mmc0: new ultra high speed DDR50 SDHC card at address aaaa",
        "[    1.300000] mmcblk0: mmc0:aaaa SC32G 29.7 GiB",
        "[    1.400000] EXT4-fs (mmcblk0p2): mounted filesystem with ordered data mode. Quota mode: none.",
        "[    1.500000] thermal_sys: Registered thermal governor 'step_wise'",
        "[    1.600000] rcu: Hierarchical RCU implementation.",
        "Last login: Sat Nov 21 17:00:01 UTC 2026 on ttyAMA0",
        "Login incorrect",
        "pam_unix(login:session): session opened for user pi",
        "raspberrypi login: pi something else",
        "",
    ],
)
def test_what_means_nothing(line: str) -> None:
    assert recognize(line, 0.0) is None


@pytest.mark.parametrize(
    "line", ["login:", "raspberrypi login:", "zcu102-zynqmp login: root", "pi login: pi (automatic login)"]
)
def test_prompts(line: str) -> None:
    assert is_login_prompt(line)


def event(kind: EventKind, at: float, line: str = "said", stage: BootStage | None = None) -> ConsoleEvent:
    return ConsoleEvent(kind, f"a {kind}", line, at, stage=stage)


def test_the_cause_is_named_with_its_distance_and_its_line() -> None:
    said = [event(K.UNDER_VOLTAGE, 95.0), event(K.OOM_KILL, 97.5, "Killed process 7 (x)"), event(K.BOOT, 99.0)]
    assert explain(said, 100.0) == "its console said 2.5 s before: a oom-kill ('Killed process 7 (x)')"
    assert explain([*said, event(K.PANIC, 103.0)], 100.0) == "its console said 3.0 s after: a kernel-panic ('said')"


def test_what_lies_too_far_back_explains_nothing() -> None:
    assert explain([event(K.PANIC, 39.9), event(K.OOPS, 110.1), event(K.VOLTAGE_NORMAL, 99.0)], 100.0) is None
    assert explain([], 100.0) is None


def test_a_restart_explains_a_lost_connection() -> None:
    said = [event(K.BOOT, 90.0, "U-Boot 2023.04", BootStage.BOOT_LOADER), event(K.LOGIN, 99.0, stage=BootStage.LOGIN)]
    assert explain(said, 100.0) == "its console shows that the board restarted 10.0 s before: 'U-Boot 2023.04'"


def test_an_error_keeps_its_kind_and_gains_the_sentence() -> None:
    lost = Offline("pi", "the agent stopped answering")
    told = explained(lost, [event(K.PANIC, 99.0)], 100.0)
    assert type(told) is Offline
    assert str(told) == "pi: the agent stopped answering; its console said 1.0 s before: a kernel-panic ('said')"
    assert explained(lost, [], 100.0) is lost


def test_remarks_count_each_kind() -> None:
    said = [event(K.UNDER_VOLTAGE, 1.0, "low"), event(K.UNDER_VOLTAGE, 2.0), event(K.LOGIN, 3.0), event(K.THERMAL, 4.0)]
    assert remarks(said) == (
        "its console said once during the run: a thermal ('said')",
        "its console said 2 times during the run: a under-voltage ('low')",
    )
