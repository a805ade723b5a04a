"""A board behind a pseudo terminal: told `boot`, `panic` or `hang`, it says what such a board says, at 115,200 baud."""

from __future__ import annotations

import os
import select
import sys
import time
import tty

BOOT = [
    "\r\n\r\nU-Boot SPL 2023.04 (Apr 03 2023 - 20:38:50 +0000)\r\n",
    "Trying to boot from MMC1\r\n",
    "NOTICE:  BL31: v2.8(release):v2.8\r\n",
    "\r\nU-Boot 2023.04 (Apr 03 2023 - 20:38:50 +0000)\r\n\r\nDRAM:  3.9 GiB\r\n",
    "Hit any key to stop autoboot:  2 \b\b\b 1 \b\b\b 0 \r\n",
    "## Flattened Device Tree blob at 02600000\r\n\r\nStarting kernel ...\r\n\r\n",
    "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]\r\n",
    "[    0.000000] Linux version 6.1.0-rpi7-rpi-v8 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP PREEMPT\r\n",
]
GOOD = [
    "[    2.183729] Run /sbin/init as init process\r\n",
    "[    2.512345] systemd[1]: systemd 252.22-1~deb12u1 running in system mode (+PAM +AUDIT)\r\n",
    "[  \x1b[0;32m OK  \x1b[0m] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi-User System.\r\n",
    "\r\nDebian GNU/Linux 12 raspberrypi ttyAMA0\r\n\r\nraspberrypi login: ",
]
PANIC = [
    '[    2.104322] VFS: Cannot open root device "mmcblk0p2" or unknown-block(179,2): error -6\r\n',
    "[    2.112233] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(179,2)\r\n",
    "[    2.118899] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(179,2) ]---\r\n",
]
TELL = {"boot": [*BOOT, *GOOD], "panic": [*BOOT, *PANIC], "hang": BOOT}
#: A start bit, eight data bits, a stop bit.
BYTE_S = 10 / 115_200
CHUNK = 16  # what a UART's FIFO hands over at once


def main() -> None:
    line, end = os.openpty()
    tty.setraw(end)
    sys.stdout.write(os.ttyname(end) + "\n")
    sys.stdout.flush()
    while True:
        for ready in select.select([0, line], [], [])[0]:
            if ready == line:
                os.write(line, os.read(line, 1024).replace(b"\r", b"\r\n"))  # a getty's echo
            else:
                word = sys.stdin.readline().strip()
                if not word:
                    return
                data = "".join(TELL[word]).encode()
                for at in range(0, len(data), CHUNK):
                    os.write(line, data[at : at + CHUNK])
                    time.sleep(CHUNK * BYTE_S)


if __name__ == "__main__":
    main()
