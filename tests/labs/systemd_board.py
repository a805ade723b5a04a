"""A 'board' under a real systemd: this machine's own files below a layer of memory, in namespaces of their own.

What is written there is gone with it. It shares this machine's network and nothing else, and its systemd starts a
journal and an SSH server only. Needs root, and the hierarchies of cgroup v1: under v2 it was never tried.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.sftp_server import SftpServer, make_key

SYSTEMD = Path("/lib/systemd/systemd")
GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("pids", "devices", "memory")
#: systemd and sshd answer within seconds on a quiet machine.
START_S = 120.0
asked_for = pytest.mark.skipif(
    os.environ.get("QUANTRIG_SYSTEMD") != "1", reason="QUANTRIG_SYSTEMD=1 runs the tests on a systemd of their own"
)

#: $1: folder of the board; $2: port of its SSH server. The process becomes its systemd, pid 1 of its namespaces.
_BECOME = """
    set -e
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$1"/layers
    cd "$1"/layers
    mkdir up work root
    mount -t overlay overlay -o lowerdir=/,upperdir="$PWD"/up,workdir="$PWD"/work root
    root="$PWD"/root
    for made in opt/quantrig-agent var/lib/quantrig-agent var/lib/private etc/systemd/system; do
      rm -rf "$root/$made"
    done
    mkdir -p "$root"/etc/systemd/system "$root"/board
    mount -t tmpfs tmpfs "$root"/root
    : > "$root"/etc/fstab
    cp "$1"/host-key "$1"/user-key.pub "$root"/board/
    for wants in sysinit sockets multi-user; do
      for unit in $(ls "$root"/lib/systemd/system/$wants.target.wants); do
        case $unit in
          *journald.service|*journald.socket|*dev-log.socket|*.target) ;;
          *) ln -sf /dev/null "$root"/etc/systemd/system/$unit ;;
        esac
      done
    done
    printf '%s\\n' "Port $2" 'ListenAddress 127.0.0.1' 'HostKey /board/host-key' 'UsePAM no' 'StrictModes no' \\
      'AuthorizedKeysFile /board/user-key.pub' 'PidFile none' 'Subsystem sftp internal-sftp' > "$root"/board/sshd_config
    printf '%s\\n' '[Service]' 'ExecStartPre=/bin/mkdir -p /run/sshd' \\
      'ExecStart=/usr/sbin/sshd -D -e -f /board/sshd_config' > "$root"/etc/systemd/system/board-ssh.service
    printf '%s\\n' '[Unit]' 'Requires=basic.target' 'Wants=board-ssh.service multi-user.target' 'After=basic.target' \\
      > "$root"/etc/systemd/system/board.target
    mount -t proc proc "$root"/proc
    mount -t sysfs sysfs "$root"/sys
    for folder in sys/fs/cgroup run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root"/$folder; done
    chmod 1777 "$root"/tmp
    mkdir "$root"/sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup "$root"/sys/fs/cgroup/systemd
    shift 2
    for one in "$@"; do
      mkdir "$root"/sys/fs/cgroup/$one
      mount -t cgroup -o $one cgroup "$root"/sys/fs/cgroup/$one
    done
    mknod -m 666 "$root"/dev/null c 1 3; mknod -m 666 "$root"/dev/zero c 1 5; mknod -m 666 "$root"/dev/full c 1 7
    mknod -m 666 "$root"/dev/random c 1 8; mknod -m 666 "$root"/dev/urandom c 1 9; mknod -m 666 "$root"/dev/tty c 5 0
    mkdir "$root"/dev/pts "$root"/dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root"/dev/pts
    mount -t tmpfs tmpfs "$root"/dev/shm
    ln -s pts/ptmx "$root"/dev/ptmx
    ln -s /proc/self/fd "$root"/dev/fd
    hostname board
    cd "$root"
    mkdir -p before
    pivot_root . before
    umount -l /before
    mount --make-rshared /
    exec env -i container=board PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=board.target \\
      --log-target=console --show-status=no
"""


@contextmanager
def systemd_board(folder: Path) -> Iterator[SftpServer]:
    """Its SSH login (root, one key), for as long as the block runs.

    Args:
        folder: for its keys and its log.
    """
    if os.geteuid() != 0 or not SYSTEMD.exists() or not Path("/usr/sbin/sshd").exists():
        pytest.skip("a board with systemd needs root, systemd and sshd here")
    if not (GROUPS / "systemd").is_dir():
        pytest.skip("this machine has no cgroup v1; boards with systemd were not tried under v2")
    (folder / "layers").mkdir(parents=True)
    for name in ("host-key", "user-key"):
        make_key(folder / name)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    script = folder / "become.sh"
    script.write_text(textwrap.dedent(_BECOME))
    made = _groups_of_its_own()
    unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", "sh", str(script)]
    enter = "".join(f"echo $$ > {group}/cgroup.procs && " for group in made)
    log = folder / "systemd.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            ["sh", "-c", f'{enter} exec "$@"', "sh", *unshare, str(folder), str(port), *CONTROLLERS],
            stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True,
        )  # fmt: skip
    try:
        _await_ssh(port, process, log)
        yield SftpServer(port, "root", folder / "user-key", process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # unshare; its systemd and all below end with it
        process.wait()
        for group in made:
            _remove(group)


def _groups_of_its_own() -> list[Path]:
    """One below ours in every hierarchy that the board sees: its roots."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        name = names.removeprefix("name=")
        if name in ("systemd", *CONTROLLERS):
            group = GROUPS / name / path.lstrip("/") / f"quantrig-board-{os.getpid()}"
            group.mkdir()
            made.append(group)
    return made


def _remove(group: Path) -> None:
    """Groups go a moment after their processes, the inner ones first."""
    deadline = time.monotonic() + 30.0
    while group.exists() and time.monotonic() < deadline:
        for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                inner.rmdir()
        with suppress(OSError):
            group.rmdir()


def _await_ssh(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as link:
            if link.recv(4) == b"SSH-":
                return
        time.sleep(0.1)
    raise RuntimeError(f"no systemd came up: {log.read_text(errors='replace')[-600:]}")
