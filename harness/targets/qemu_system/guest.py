"""What an emulated board runs before, beside and around its agent: shell for busybox, and the files of /etc."""

from __future__ import annotations

AGENT_PORT = 50051
SSH_PORT = 22
#: QEMU's user network: the board, and the host as the board sees it.
_ADDRESS, _GATEWAY = "10.0.2.15/24", "10.0.2.2"
#: What the initial RAM disk brings, where the running board finds it.
RUN = "/run/quantrig"


def init(disk: str) -> str:
    """First program of the kernel: drivers, the root disk, what this board is, then the real init.

    Args:
        disk: the kernel's name of the root disk.
    """
    return f"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod /modules/$module; done < /modules/order
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do [ -b /dev/{disk} ] && break; /bin/busybox sleep 0.2; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/{disk} /root || {{
  echo "no root disk"; exec /bin/busybox sh
}}
/bin/busybox mount -t tmpfs -o mode=755 run /root/run
/bin/busybox cp -a /quantrig /root{RUN}
/bin/busybox mount --move /dev /root/dev
/bin/busybox mount --move /proc /root/proc
/bin/busybox mount --move /sys /root/sys
exec /bin/busybox switch_root /root /sbin/init
"""


#: Sets the time from a real-time clock that the kernel has no driver for. Certificates need it after every power cut.
_CLOCK = """\
python3 -I -S -c '
import mmap, time
page, offset = divmod({register:#x}, mmap.PAGESIZE)
with open("/dev/mem", "rb") as memory:
    with mmap.mmap(memory.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_READ, offset=page * mmap.PAGESIZE) as registers:
        with memoryview(registers) as words, words.cast("I") as numbers:
            time.clock_settime(time.CLOCK_REALTIME, numbers[offset // 4])
'
"""


def start(clock: int | None) -> str:
    """Once, before anything else. There is no `crontab`, because nothing here would do what it is told.

    Args:
        clock: address of the register that holds the seconds since 1970; None: the kernel sets the time itself.
    """
    return f"""\
#!/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
busybox mkdir -p /dev/pts /dev/shm /run/sshd /tmp /var/lib/quantrig /root
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs -o mode=1777 shm /dev/shm
busybox mount -t tmpfs -o mode=1777 tmp /tmp
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
[ -x /usr/lib/busybox/ls ] || {{ busybox mkdir -p /usr/lib/busybox; busybox --install -s /usr/lib/busybox; }}
busybox rm -f /usr/lib/busybox/crontab
busybox hostname quantrig-board
busybox mkdir -p /sys/fs/cgroup/agent
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
busybox ip link set lo up
busybox ip addr add {_ADDRESS} dev eth0
busybox ip link set eth0 up
busybox ip route add default via {_GATEWAY}
{_CLOCK.format(register=clock) if clock is not None else ""}"""


_PATH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/busybox"


def control(port: str) -> str:
    """What the host may ask beside the console, which stays free for whoever watches it. Words only, no commands.

    Args:
        port: the kernel's name of it.
    """
    return f"""\
#!/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/busybox
stty raw -echo -F /dev/{port}
exec < /dev/{port} > /dev/{port}
while read -r word when name; do
  case "$word" in
    set) date -u -s "@$when" > /dev/null; hostname "$name"; echo "set $when" ;;
    await-agent) while [ ! -s /run/agent.ready ]; do sleep 0.2; done; echo "serving" ;;
    kill-agent) rm -f /run/agent.ready; kill -9 $(cat /run/agent.pid); echo "killed" ;;
    panic) echo c > /proc/sysrq-trigger ;;
    sync) sync; echo "synced" ;;
  esac
done
"""


def inittab(console: str, *, agent: bool) -> str:
    """For busybox's init: what is started, and started again when it ends."""
    lines = [
        f"::sysinit:{RUN}/start",
        f"::respawn:{RUN}/sshd",
        f"::respawn:{RUN}/control",
        *([f"::respawn:{RUN}/agent"] if agent else []),
        f"::respawn:/bin/busybox getty -L 115200 {console} vt100",
        "::ctrlaltdel:/bin/busybox reboot",
    ]
    return "\n".join(lines) + "\n"


SSHD = f"""\
#!/bin/sh
export {_PATH}
exec /usr/sbin/sshd -D -e -f {RUN}/sshd_config 2>> /var/log/sshd.log
"""

SSHD_CONFIG = f"""\
Port {SSH_PORT}
HostKey {RUN}/ssh_host_key
AuthorizedKeysFile {RUN}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
SetEnv {_PATH}
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def agent(board: str, python: str) -> str:
    """The agent, under init's eye; its first line, which says that it serves, is for the control console."""
    return f"""\
#!/bin/sh
export {_PATH}
export PYTHONPATH={RUN}/site ORT_DISABLE_TELEMETRY=1 LANG=C.UTF-8
# A group of its own, as systemd's Delegate= gives: the agent limits its children by what they really use.
echo $$ > /sys/fs/cgroup/agent/cgroup.procs || true
echo $$ > /run/agent.pid
cd /var/lib/quantrig
exec /usr/bin/python{python} -m agents serve --listen 0.0.0.0:{AGENT_PORT} --board {board} --emulated \\
  --data /var/lib/quantrig --tls {RUN}/tls --ready-json > /run/agent.ready 2>> /var/log/agent.log
"""


#: Of the root disk. sshd's own account is only there to have no rights.
ETC = {
    "passwd": "root::0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "shells": "/bin/sh\n",
    "profile": f"export {_PATH}\n",
    "issue": "quantrig emulated board\n",
}
#: What starts by these names is busybox.
BUSYBOX = ("bin/sh", "bin/login", "sbin/init", "bin/mount", "bin/umount", "sbin/reboot", "usr/bin/env")
