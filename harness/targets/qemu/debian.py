"""The arm64 half of a tree: packages from this machine's own Debian or Ubuntu sources, unpacked, never installed.

apt works with lists, an archive folder and a package state of our own, so that neither root nor a foreign architecture
is needed on the host. It verifies signatures and hashes with the machine's own keys, proxies and mirrors.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError

#: Python without its test-suite and documentation, and what wheels in C++ link to; their dependencies follow.
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1", "zlib1g")

Progress = Callable[[str, float, float | None], None]

#: Hooks of the machine are for its own packages: none of them runs. apt has no lists in other languages to fetch.
_CONFIG = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "{user}";
Acquire::Languages "none";
Dir::State::lists "{home}/lists/";
Dir::State::status "{home}/status";
Dir::State::extended_states "{home}/extended_states";
Dir::Cache "{home}/";
Dir::Cache::archives "{home}/archives/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{home}/log/";
"""


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package as it was taken."""

    name: str
    version: str
    architecture: str
    sha256: str

    @staticmethod
    def file_name(name: str, version: str, architecture: str) -> str:
        """As apt calls the archive: a colon of the version is written %3a."""
        return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"


def fetch_packages(
    target: str, home: Path, sources: Path | None, progress: Progress, packages: Sequence[str] = PACKAGES
) -> list[tuple[Package, Path]]:
    """Download what a tree needs; what is there already is not fetched again, and half an archive is completed.

    Args:
        target: name in targets.yaml, for messages.
        home: apt's folders are made here and kept.
        sources: a sources.list to use instead of the machine's.
        progress: phase, done, total.
        packages: wanted; what they depend on follows.

    Returns:
        Each package with its archive.

    Raises:
        UserError: no apt here, no network, or sources without arm64.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UserError(f"{target}: {tool} is not here: trees are made on Debian and Ubuntu; write `via: emulated`")
    configuration = _configure(home, sources if sources is not None else ports_of_ubuntu(home))
    _apt(target, configuration, ["update"], lambda done, total: progress("package lists", done, total))
    plan = _planned(target, configuration, packages)
    _apt(
        target,
        configuration,
        ["-y", "--download-only", "install", *packages],
        lambda done, total: progress("Debian packages", done, total),
    )
    taken = []
    for name, version, architecture in plan:
        archive = home / "archives" / Package.file_name(name, version, architecture)
        if not archive.is_file():
            raise UserError(f"{target}: apt did not fetch {archive.name}; provision again")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        taken.append((Package(name, version, architecture, digest), archive))
    return taken


def unpack(target: str, archives: Sequence[Path], tree: Path, progress: Progress) -> None:
    """Unpack archives into a tree; nothing of them is run.

    Raises:
        UserError: an archive is damaged, or the disk is full.
    """
    tree.mkdir(parents=True, exist_ok=True)
    for number, archive in enumerate(archives):
        progress("unpack", number, len(archives))
        done = subprocess.run(["dpkg-deb", "-x", archive, tree], capture_output=True, text=True, check=False)
        if done.returncode:
            archive.unlink(missing_ok=True)
            raise UserError(f"{target}: {archive.name} cannot be unpacked: {_last_line(done.stderr)}; provision again")
    # Debian 13 and Ubuntu 24.04 packages hold usr/lib only; the link is of a package that is run to be installed.
    for name in ("lib", "bin"):
        if not (tree / name).exists():
            (tree / name).symlink_to(f"usr/{name}")


def ports_of_ubuntu(home: Path) -> Path | None:
    """On an Ubuntu PC, sources of its arm64 packages, which its own mirrors do not have; None elsewhere."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    if release.get("ID") != "ubuntu" or platform.machine() == "aarch64":
        return None
    path = home / "ubuntu-ports.list"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ubuntu_sources(release["VERSION_CODENAME"]))
    return path


def ubuntu_sources(codename: str) -> str:
    """A sources.list for Ubuntu's arm64 packages, signed by the key that every Ubuntu has."""
    key = "signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg"
    suites = (codename, f"{codename}-updates", f"{codename}-security")
    return "".join(f"deb [arch=arm64 {key}] http://ports.ubuntu.com/ubuntu-ports {suite} main\n" for suite in suites)


def _configure(home: Path, sources: Path | None) -> Path:
    for name in ("lists/partial", "archives/partial", "log"):
        (home / name).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    # As root, apt would fetch as user _apt, who may not write below root's home.
    user = "root" if os.geteuid() == 0 else "_apt"
    text = _CONFIG.format(home=home, user=user)
    if sources is not None:
        text += f'Dir::Etc::SourceList "{sources.absolute()}";\nDir::Etc::SourceParts "/dev/null";\n'
    path = home / "apt.conf"
    path.write_text(text)
    return path


def _planned(target: str, configuration: Path, packages: Sequence[str]) -> list[tuple[str, str, str]]:
    """Name, version and architecture of all that would be installed."""
    done = subprocess.run(
        ["apt-get", "-c", configuration, "-s", "install", *packages],
        capture_output=True, text=True, check=False, env=_environment(),
    )  # fmt: skip
    plan = re.findall(r"^Inst (\S+?)(?::\w+)? \((\S+) .*?\[(\w+)\]\)", done.stdout, re.MULTILINE)
    if done.returncode or not plan:
        raise UserError(
            f"{target}: this machine's package sources have no Python for arm64 ({_last_line(done.stderr)}); "
            "give some that do with --apt-sources FILE"
        )
    return [(name, version, architecture) for name, version, architecture in plan]


def _apt(
    target: str, configuration: Path, arguments: Sequence[str], progress: Callable[[float, float | None], None]
) -> None:
    """Run apt-get; its status lines are `dlstatus:COUNT:PERCENT:TEXT` (apt's README.progress-reporting)."""
    command = ["apt-get", "-c", str(configuration), "-q", "-o", "APT::Status-Fd=1", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"dlstatus:\d+:([\d.]+):", line):
                progress(float(match[1]), 100.0)
        said = process.communicate()[1]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    # A third party's source without arm64 fails the update as a whole; what counts is whether the packages are found.
    if process.returncode and "update" not in arguments:
        raise UserError(f"{target}: apt could not fetch packages: {_last_line(said)}; see to the network and try again")


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("E:")] or text.splitlines()
    return lines[-1].removeprefix("E: ").strip()[:200] if lines else "no reason given"
