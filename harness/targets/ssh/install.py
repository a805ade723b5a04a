"""One release on a board: its wheels sent, its environment made, and the link that makes it the current one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError

if TYPE_CHECKING:
    from harness.targets.ssh.board_state import BoardState
    from harness.targets.ssh.bundle import Bundle
    from harness.targets.ssh.layout import Layout
    from harness.targets.ssh.report import BoardPython
    from harness.targets.ssh.session import Session

#: Unpacking ONNX Runtime onto a slow card took minutes where it was slowest.
INSTALL_TIMEOUT_S = 1200.0
#: Wheels are kept, their content unpacked beside them: about four times their size, with what pip needs meanwhile.
_SPACE_FACTOR = 5
#: A tiny program of the board's Python: files whose digest is right get their final names, the others are removed and
#: printed. Arguments in threes: file, final name, sha256.
_ACCEPT = (
    "import hashlib,os,sys\n"
    "for i in range(1,len(sys.argv),3):\n"
    " part,final,digest=sys.argv[i:i+3]; d=hashlib.sha256()\n"
    " with open(part,'rb') as f:\n"
    "  for piece in iter(lambda: f.read(1<<20),b''): d.update(piece)\n"
    " if d.hexdigest()==digest: os.chmod(part,0o644); os.replace(part,final)\n"
    " else: os.remove(part); print(os.path.basename(final))\n"
)
_SWITCH = (
    "import os,sys\nnew=sys.argv[2]+'.new'\nif os.path.lexists(new): os.remove(new)\n"
    "os.symlink(sys.argv[1],new); os.replace(new,sys.argv[2])\n"
)
#: What `python -m venv --without-pip` makes, for a distribution that left the module out.
_PLAIN_VENV = (
    "import os,sys\n"
    "to,site=sys.argv[1:3]; exe=os.path.realpath(sys.executable); v='%d.%d'%sys.version_info[:2]\n"
    "os.makedirs(os.path.join(to,'bin')); os.makedirs(os.path.join(to,'lib','python'+v,'site-packages'))\n"
    "for n in ('python','python3','python'+v): os.symlink(exe if n=='python' else 'python',os.path.join(to,'bin',n))\n"
    "open(os.path.join(to,'pyvenv.cfg'),'w').write('home = %s\\ninclude-system-site-packages = %s\\nversion = %s\\n'"
    "%(os.path.dirname(exe),site,'.'.join(map(str,sys.version_info[:3]))))\n"
)


@dataclass(frozen=True, slots=True)
class Release:
    """What one environment on a board is made of.

    Args:
        name: version of the agent and a digest of all below: the same content has the same name.
        bundle: its wheels.
        python: it is made with.
        system_site_packages: the board's own packages can be imported.
    """

    name: str
    bundle: Bundle
    python: BoardPython
    system_site_packages: bool


def plan_release(bundle: Bundle, python: BoardPython, *, system_site_packages: bool) -> Release:
    """Name a release by its content."""
    content = {
        "wheels": sorted((path.name, digest) for path, digest in bundle.wheels.items() if path != bundle.pip),
        "install": bundle.install,
        "python": [python.executable, *python.version],
        "system_site_packages": system_site_packages,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Release(f"{bundle.agent_version}-{digest[:12]}", bundle, python, system_site_packages)


class Installer:
    """Puts releases onto one board.

    Args:
        session: open.
        layout: of the board.
        python: the board's own interpreter.
    """

    def __init__(self, session: Session, layout: Layout, python: str) -> None:
        self._session = session
        self._layout = layout
        self._python = python

    def owner(self, command: Sequence[str], *, timeout_s: float = 120.0) -> None:
        """Run a command as the folder's owner; what it makes can be read by the service's user."""
        self._session.run([*self._layout.sudo, "sh", "-c", 'umask 022; exec "$@"', "sh", *command], timeout_s=timeout_s)

    def check_space(self, release: Release, state: BoardState) -> None:
        """Refuse before the first byte when it would not fit.

        Raises:
            BoardError: too little room.
        """
        need = _SPACE_FACTOR * release.bundle.size_bytes
        if state.free_bytes < need:
            raise BoardError(
                self._session.target,
                f"{self._layout.folder} has {state.free_bytes >> 20} MiB free, the agent needs {need >> 20}; "
                "make room there, or name another `folder` in `ssh`",
            )

    def send(self, wheels: Mapping[Path, str], state: BoardState, progress: Callable[[str, int, int], None]) -> None:
        """Send wheels; one whose upload broke off goes on where it ended.

        Args:
            wheels: files and their sha256.
            state: of the board.
            progress: is told a file's name, its size, and the bytes of it that are there.

        Raises:
            BoardError: one arrived damaged twice.
        """
        rest = dict(wheels)
        for attempt in range(2):
            triples: list[str] = []
            for path, digest in rest.items():
                final = self._layout.at("wheels", path.name)
                # Named by content: the rest of another file of that name must never be continued.
                part = f"{final}.{digest[:12]}.part"
                have = state.parts.get(part.rpartition("/")[2], 0) if attempt == 0 else 0
                size = path.stat().st_size
                start = have if have < size else 0
                script = 'umask 022; cat >>"$1"' if start else 'umask 022; cat >"$1"'
                self._session.run(
                    [*self._layout.sudo, "sh", "-c", script, "sh", part],
                    stdin=path,
                    skip_bytes=start,
                    quiet=True,
                    timeout_s=INSTALL_TIMEOUT_S,
                    progress=partial(progress, path.name, size),
                )
                triples += [part, final, digest]
            command = [*self._layout.sudo, self._python, "-I", "-c", _ACCEPT, *triples]
            damaged = self._session.run(command, quiet=True, timeout_s=INSTALL_TIMEOUT_S).out.splitlines()
            rest = {path: digest for path, digest in rest.items() if path.name in damaged}
            if not rest:
                return
        raise BoardError(
            self._session.target,
            f"{next(iter(rest)).name} arrived damaged on the board twice; check its storage (dmesg), then try again",
        )

    def install(self, release: Release) -> None:
        """Make the release's environment from the wheels on the board alone; half of one is made anew.

        Raises:
            CommandFailed: pip or the agent's own answer, its last line.
        """
        at = self._layout.at
        home = at("releases", release.name)
        venv = f"{home}/venv"
        site = "true" if release.system_site_packages else "false"
        self.owner(["rm", "-rf", home])
        self.owner(["mkdir", home])
        if release.python.venv:
            extra = ["--system-site-packages"] if release.system_site_packages else []
            self.owner([self._python, "-I", "-m", "venv", "--without-pip", *extra, venv], timeout_s=INSTALL_TIMEOUT_S)
        else:
            self.owner([self._python, "-I", "-c", _PLAIN_VENV, venv, site])
        files = {path.name for path in release.bundle.wheels}
        install = [at("wheels", word) if word in files else word for word in release.bundle.install]
        self.owner(
            [
                f"{venv}/bin/python", at("wheels", release.bundle.pip.name, "pip"), "--isolated", "install", "--quiet",
                "--no-index", "--no-cache-dir", "--disable-pip-version-check", "--no-input",
                "--no-warn-script-location", "--find-links", at("wheels"), *install,
            ],
            timeout_s=INSTALL_TIMEOUT_S,
        )  # fmt: skip
        self.owner([f"{venv}/bin/quantrig-agent", "--version"])
        content = {
            "name": release.name,
            "agent": release.bundle.agent_version,
            "wheels": {path.name: digest for path, digest in release.bundle.wheels.items()},
        }
        self._session.put(
            (json.dumps(content, indent=1) + "\n").encode(), f"{home}/release.json", mode=0o644, sudo=self._layout.sudo
        )

    def switch(self, name: str) -> None:
        """Make a release the current one, at once or not at all."""
        at = self._layout.at
        self.owner([self._python, "-I", "-c", _SWITCH, f"releases/{name}", at("current")])

    def accept(self, name: str) -> None:
        """Note that a release was seen to serve."""
        self._session.put(f"{name}\n".encode(), self._layout.at("accepted"), mode=0o644, sudo=self._layout.sudo)

    def prune(self, keep: Sequence[str], wheels: Mapping[Path, str], state: BoardState) -> None:
        """Remove releases but those to keep, and wheels of none of them."""
        at = self._layout.at
        names = {path.name for path in wheels}
        stale = [at("releases", name) for name in state.releases if name not in keep]
        stale += [at("wheels", name) for name in (*state.wheels, *state.parts) if name not in names]
        if stale:
            self.owner(["rm", "-rf", "--", *stale], timeout_s=INSTALL_TIMEOUT_S)

    def remove_release(self, name: str) -> None:
        """Remove one that did not come up."""
        self.owner(["rm", "-rf", "--", self._layout.at("releases", name)], timeout_s=INSTALL_TIMEOUT_S)
