"""What a board says of itself before anything is installed there: one shell script, one parser."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.targets.validate import clean_text

if TYPE_CHECKING:
    from harness.targets.target import Target

#: The agent's own bound (agents/pyproject.toml).
OLDEST_PYTHON = (3, 10)
#: Looked for on the board besides `python3`, which is taken when it will do: its packages are the distribution's.
_CANDIDATES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10", "/usr/bin/python3")
#: Groups that own the devices an agent reads or computes on, of the distributions tried.
_DEVICE_GROUPS = ("video", "render", "i2c", "gpio")

_SCRIPT = """
say() { printf '%s=%s\\n' "$1" "$2"; }
say machine "$(uname -m)"; say kernel "$(uname -r)"; say uid "$(id -u)"; say home "$HOME"; say clock "$(date +%s)"
if [ -r /etc/os-release ]; then . /etc/os-release; say os "$PRETTY_NAME"; fi
[ -r /etc/nv_tegra_release ] && say tegra "$(head -n 1 /etc/nv_tegra_release)"
[ -d /run/systemd/system ] && say systemd "$(systemctl --version 2>/dev/null | head -n 1 | cut -d ' ' -f 2)"
systemctl --user show-environment >/dev/null 2>&1 && say user_systemd yes
[ "$(id -u)" != 0 ] && sudo -n true >/dev/null 2>&1 && say sudo yes
command -v crontab >/dev/null 2>&1 && say crontab yes
for group in GROUPS; do grep -q "^$group:" /etc/group 2>/dev/null && say group "$group"; done
for python in PYTHONS; do
  found="$(command -v "$python" 2>/dev/null)" && say python "$("$found" -c PROBE 2>/dev/null)"
done
exit 0
"""


@dataclass(frozen=True, slots=True)
class BoardPython:
    """One interpreter of a board.

    Args:
        executable: its path, links resolved.
        version: major, minor, micro.
        machine: the kernel's word for the processor.
        bits: of a pointer; a 64-bit kernel may carry a 32-bit system.
        glibc: version of the C library; None: another library.
        usable: a CPython with a global lock; wheels for others are not built.
        venv: its `venv` module is there.
    """

    executable: str
    version: tuple[int, int, int]
    machine: str
    bits: int
    glibc: tuple[int, int] | None
    usable: bool
    venv: bool


@dataclass(frozen=True, slots=True)
class BoardReport:
    """What a board said.

    Args:
        machine: `uname -m`.
        kernel: `uname -r`.
        os: the distribution's own name; "" when it does not say.
        tegra: first line of /etc/nv_tegra_release; "" elsewhere.
        uid: of the login.
        home: of the login.
        clock_unix_s: its clock.
        systemd: version of a running systemd; None: there is none.
        user_systemd: the login has a systemd of its own.
        sudo: works without a password.
        crontab: the command is there.
        groups: those of the devices that exist.
        pythons: found interpreters, each once.
    """

    machine: str
    kernel: str
    os: str
    tegra: str
    uid: int
    home: str
    clock_unix_s: int
    systemd: int | None
    user_systemd: bool
    sudo: bool
    crontab: bool
    groups: tuple[str, ...]
    pythons: tuple[BoardPython, ...]

    @property
    def python(self) -> BoardPython | None:
        """The first interpreter that an agent can run under."""
        return next((one for one in self.pythons if one.usable and one.version >= OLDEST_PYTHON), None)


def probe_script(python: str | None = None) -> str:
    """The script for `sh` whose output `parse_report` reads.

    Args:
        python: the only interpreter to look at; None: all that may do.
    """
    probe = files("harness.targets.ssh.board").joinpath("probe.py").read_text(encoding="utf-8")
    names = _CANDIDATES if python is None else (python,)
    script = _SCRIPT.replace("GROUPS", " ".join(_DEVICE_GROUPS)).replace("PYTHONS", shlex.join(names))
    return script.replace("PROBE", shlex.quote(probe))


def parse_report(text: str) -> BoardReport:
    """Read what the script printed; lines that a login's greeting adds are skipped.

    Raises:
        ValueError: the script did not run there.
    """
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            said.setdefault(key.strip(), []).append(value.strip())
    if not {"machine", "uid", "home"} <= said.keys():
        raise ValueError("no answer of a POSIX shell")

    def one(key: str) -> str:
        return clean_text(said.get(key, [""])[0])

    pythons: dict[str, BoardPython] = {}
    for line in said.get("python", []):
        if (found := _python(line)) is not None:
            pythons.setdefault(found.executable, found)
    systemd = one("systemd")
    return BoardReport(
        machine=one("machine"),
        kernel=one("kernel"),
        os=one("os"),
        tegra=one("tegra"),
        uid=int(one("uid")),
        home=said["home"][0],
        clock_unix_s=int(one("clock") or 0),
        systemd=int(systemd) if systemd.isdigit() else None,
        user_systemd="user_systemd" in said,
        sudo="sudo" in said,
        crontab="crontab" in said,
        groups=tuple(group for group in said.get("group", []) if group in _DEVICE_GROUPS),
        pythons=tuple(pythons.values()),
    )


def _python(line: str) -> BoardPython | None:
    try:
        facts = json.loads(line)
        version = tuple(int(part) for part in facts["version"])
        library, _, number = str(facts["libc"]).partition(" ")
        glibc = tuple(int(part) for part in number.split(".")[:2]) if library == "glibc" else None
        return BoardPython(
            executable=str(facts["executable"]),
            version=(version[0], version[1], version[2]),
            machine=str(facts["machine"]),
            bits=int(facts["bits"]),
            glibc=None if glibc is None else (glibc[0], glibc[1]),
            usable=facts["implementation"] == "cpython" and not facts["free_threaded"] and not facts["abiflags"],
            venv=bool(facts["venv"]),
        )
    except (ValueError, TypeError, KeyError, IndexError):
        return None


def choose_python(target: Target, report: BoardReport) -> BoardPython:
    """The interpreter that the agent will run under.

    Raises:
        UserError: there is none that will do; says what to install.
    """
    named = target.ssh.python if target.ssh is not None else None
    if report.python is not None:
        return report.python
    where = clean_text(report.os) or report.machine
    old = max((one.version for one in report.pythons), default=None)
    if named is not None and old is None:
        raise UserError(f"{target.name}: {named} is no Python on the board; correct `python` in `ssh` of targets.yaml")
    if old is None:
        raise UserError(f"{target.name}: no Python 3 on the board ({where}); install python3, 3.10 or newer")
    shown = ".".join(map(str, old[:2]))
    if old >= OLDEST_PYTHON:
        raise UserError(
            f"{target.name}: the board's Python {shown} is no ordinary CPython, for which there are no wheels; "
            "install an ordinary one and name it as `python` in `ssh` of targets.yaml"
        )
    jetson = " (JetPack 5 and older have 3.8; JetPack 6 has 3.10)" if report.tegra else ""
    raise UserError(
        f"{target.name}: the board has Python {shown}, the agent needs 3.10 or newer{jetson}; install one beside it, "
        "for example `uv python install 3.10` or python3.10 from your distribution, then name its path as `python` in "
        "`ssh` of targets.yaml"
    )
