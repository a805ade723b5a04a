"""A stand-in for a login's systemd: `systemctl --user`, `journalctl` and `loginctl`, as far as provisioning asks.

It reads the unit, starts its command, starts it again after RestartSec= when it ends, and counts that (NRestarts, reset
by a restart by hand), as systemd.service(5) and org.freedesktop.systemd1(5) say. State lies in $STAND_IN.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["STAND_IN"])
UNITS = Path(os.environ["HOME"]) / ".config" / "systemd" / "user"


def setting(unit: str, key: str) -> str:
    match = re.search(rf"^{key}=(.*)$", (HOME / f"{unit}.loaded").read_text(), re.MULTILINE)
    return match[1] if match else ""


def keep(unit: str) -> None:
    """Run until SIGTERM."""
    stopping: list[int] = []
    agent: subprocess.Popen[bytes] | None = None

    def end(*_: object) -> None:
        stopping.append(1)
        if agent is not None:
            agent.terminate()

    signal.signal(signal.SIGTERM, end)
    restarts = 0
    (HOME / f"{unit}.restarts").write_text("0")
    while not stopping:
        with (HOME / f"{unit}.log").open("ab") as log:
            agent = subprocess.Popen(shlex.split(setting(unit, "ExecStart")), stdout=log, stderr=log, cwd="/")
            agent.wait()
        if not stopping:
            time.sleep(float(setting(unit, "RestartSec")))
            restarts += 1
            (HOME / f"{unit}.restarts").write_text(str(restarts))


def stop(unit: str) -> None:
    try:
        pid = int((HOME / f"{unit}.pid").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.02)
    (HOME / f"{unit}.pid").unlink()


def systemctl(words: list[str]) -> int:
    assert words.pop(0) == "--user"
    action, *rest = words
    unit = rest[-1] if rest else ""
    with (HOME / "calls").open("a") as calls:
        calls.write(f"{action}\n")
    if action == "daemon-reload":
        for path in UNITS.glob("*.service"):
            (HOME / f"{path.name}.loaded").write_text(path.read_text())
    elif action in {"enable", "disable"}:
        link = HOME / f"{unit}.enabled"
        link.touch() if action == "enable" else link.unlink(missing_ok=True)
        if "--now" in rest:
            stop(unit)
    elif action == "restart":
        stop(unit)
        pid = subprocess.Popen(
            [sys.executable, __file__, "keep", unit], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ).pid  # fmt: skip
        (HOME / f"{unit}.pid").write_text(str(pid))
    elif action == "stop":
        stop(unit)
    elif action == "is-active":
        return 0 if (HOME / f"{unit}.pid").exists() else 3
    elif action == "show":
        sys.stdout.write((HOME / f"{unit}.restarts").read_text() + "\n")
    elif action not in {"show-environment", "reset-failed"}:
        return 1
    return 0


def main() -> int:
    name, *words = sys.argv[1:]
    if name == "keep":
        keep(words[0])
        return 0
    if name == "systemctl":
        return systemctl(words)
    if name == "journalctl":
        unit = words[words.index("-u") + 1]
        sys.stdout.write((HOME / f"{unit}.log").read_text())
        return 0
    linger = HOME / "linger"
    if words[0] == "show-user":
        sys.stdout.write("yes\n" if linger.exists() else "no\n")
    elif words[0] == "enable-linger":
        linger.touch()
    elif words[0] == "disable-linger":
        linger.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
