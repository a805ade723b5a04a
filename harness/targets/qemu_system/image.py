"""The image that emulated boards start from: kernel, drivers and root disk, made of packages without root or mounts.

Below the user's cache folder: `qemu-system/images/<id>/` holds `vmlinuz`, `modules/`, `root.ext4` and `image.json`.
The agent is not in it: it comes in the initial RAM disk, so that a changed agent needs no new image.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError
from harness.targets.qemu.debian import fetch_packages, unpack
from harness.targets.qemu.tree import PackageTaken, WheelTaken, delete
from harness.targets.qemu.wheels import agent_requirements, fetch_wheels, install_wheels, installed_versions
from harness.targets.qemu_system.guest import BUSYBOX, ETC, RUN
from harness.targets.qemu_system.modules import needed_modules, read_module
from harness.targets.qemu_system.recipe import Machine
from harness.targets.qemu_system.tools import Tools

Progress = Callable[[str, float, float | None], None]

#: Raised when older images cannot be used any more.
FORMAT = 1
#: Python with its virtual environments, an SSH server with sftp, the libraries of wheels in C++, a shell.
PACKAGES = (
    "python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1", "zlib1g", "ca-certificates",
    "openssh-server", "openssh-sftp-server", "busybox-static", "procps", "tar", "coreutils",
)  # fmt: skip
#: Of the root disk; a sparse file, so only what is used takes room.
ROOT_SIZE_MB = 3072
_MANIFEST = "image.json"
_SITE = Path("usr/lib/python3/dist-packages")
#: They document packages, or install them; a board that is never upgraded needs neither.
_NOT_NEEDED = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
    "usr/lib/aarch64-linux-gnu/perl",
    "usr/lib/aarch64-linux-gnu/perl-base",
)
#: Modules that no agent imports.
_NOT_COMPILED = r"/(tests?|transformers|tools|quantization|idlelib|lib2to3|distutils)/"


class Manifest(BaseModel):
    """What an image was made of.

    Args:
        machine: of QEMU, whose kernel it has.
        kernel: its version.
        python: "3.11".
        requirements: of the agent it was made for.
        pins: the host's versions then.
        built_s: how long it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    machine: str
    kernel: str
    python: str
    requirements: tuple[str, ...]
    pins: tuple[str, ...]
    packages: tuple[PackageTaken, ...]
    wheels: tuple[WheelTaken, ...]
    files: str
    built_s: float

    @property
    def identity(self) -> str:
        """Of all that it was made of: 16 hex digits."""
        taken = sorted([*(one.sha256 for one in self.packages), *(one.sha256 for one in self.wheels)])
        return hashlib.sha256("\n".join((str(self.format), self.machine, self.files, *taken)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image."""

    folder: Path
    manifest: Manifest

    @property
    def kernel(self) -> Path:
        """For `-kernel`."""
        return self.folder / "vmlinuz"

    @property
    def root(self) -> Path:
        """An ext4 file system, which boards never write: each has a qcow2 over it."""
        return self.folder / "root.ext4"

    @property
    def modules(self) -> list[tuple[str, bytes]]:
        """Drivers in the order to load them."""
        return [(name, (self.folder / "modules" / name).read_bytes()) for name in self._order()]

    def _order(self) -> list[str]:
        return (self.folder / "modules" / "order").read_text().split()


def home() -> Path:
    """The folder of everything here."""
    return user_cache_path("quantrig") / "qemu-system"


@contextmanager
def alone(target: str, timeout_s: float = 600.0) -> Iterator[None]:
    """Nobody else makes images, keys or snapshots meanwhile.

    Raises:
        UserError: somebody else did not come to an end.
    """
    home().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home() / "lock", timeout=timeout_s):
            yield
    except Timeout:
        raise UserError(f"{target}: another process makes the boards' image already; wait for it") from None


def current_image(machine: Machine) -> Image | None:
    """The image made last for a machine, if it fits this installation's agent."""
    try:
        name = (home() / f"current-{machine.name}").read_text().strip()
        folder = home() / "images" / name
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
    wanted = (FORMAT, _files_digest(machine), agent_requirements())
    fits = (manifest.format, manifest.files, list(manifest.requirements)) == wanted
    return Image(folder, manifest) if fits else None


def make_image(
    target: str,
    machine: Machine,
    tools: Tools,
    *,
    apt_sources: Path | None = None,
    fresh: bool = False,
    progress: Progress,
) -> tuple[Image, bool]:
    """Make the image unless the present one fits; whatever was downloaded is kept for a second call.

    Args:
        target: name in targets.yaml, for messages.
        machine: of QEMU.
        tools: of this host.
        apt_sources: a sources.list to use instead of the machine's.
        fresh: take the newest packages and wheels although an image is there.
        progress: phase, done, total.

    Returns:
        The image, and whether it was made now.

    Raises:
        UserError: no apt, no network, a full disk.
    """
    with alone(target):
        image = current_image(machine)
        if image is not None and not fresh and list(image.manifest.pins) == installed_versions(agent_requirements()):
            return image, False
        try:
            return _make(target, machine, tools, apt_sources, progress), True
        except OSError as error:
            raise UserError(
                f"{target}: {error.filename or home()}: {error.strerror}; see to it and provision again"
            ) from error


def _make(target: str, machine: Machine, tools: Tools, apt_sources: Path | None, progress: Progress) -> Image:
    began = time.monotonic()
    apt = home() / "apt"
    taken = fetch_packages(target, apt, apt_sources, progress, PACKAGES)
    progress("kernel", 0, None)
    kernel = _fetch_kernel(target, apt, machine.kernel)
    partial = home() / "images" / "partial"
    if partial.exists():
        delete(partial)
    tree = partial / "tree"
    unpack(target, [archive for _, archive in taken], tree, progress)
    python = _python_version(target, tree)
    libc = next(package.version for package, _ in taken if package.name == "libc6")
    glibc = (int(libc.split(".")[0]), int(re.split(r"[.-]", libc)[1]))
    requirements = agent_requirements()
    wheels = fetch_wheels(target, home() / "wheels", requirements, python, glibc, progress)
    progress("unpack wheels", 0, None)
    install_wheels(target, wheels, tree / _SITE, python, glibc)
    progress("compile", 0, None)
    _compile(tree, python)
    _furnish(tree)
    (partial / "busybox").write_bytes(_busybox(tree).read_bytes())
    progress("kernel", 1, None)
    version = _take_kernel(target, machine, kernel, partial)
    progress("root disk", 0, None)
    _make_root(target, tools, tree, partial / "root.ext4")
    delete(tree)
    manifest = Manifest(
        format=FORMAT,
        machine=machine.name,
        kernel=version,
        python=python,
        requirements=tuple(requirements),
        pins=tuple(installed_versions(requirements)),
        packages=(
            *(PackageTaken(name=p.name, version=p.version, sha256=p.sha256) for p, _ in taken),
            PackageTaken(name=machine.kernel, version=version, sha256=_sha256(kernel)),
        ),
        wheels=tuple(WheelTaken(file=w.name, sha256=_sha256(w)) for w in wheels),
        files=_files_digest(machine),
        built_s=round(time.monotonic() - began, 1),
    )
    (partial / _MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    folder = home() / "images" / manifest.identity
    if folder.exists():  # boards that run keep their open files
        delete(folder)
    partial.rename(folder)
    pointer = home() / f"current-{machine.name}.new"
    pointer.write_text(manifest.identity + "\n")
    pointer.replace(home() / f"current-{machine.name}")
    _remove_others(folder, machine)
    return Image(folder, manifest)


def _remove_others(kept: Path, machine: Machine) -> None:
    """Older images of the same machine; boards that run have theirs open and go on."""
    for other in (home() / "images").iterdir():
        try:
            same = Manifest.model_validate_json((other / _MANIFEST).read_bytes()).machine == machine.name
        except (OSError, ValidationError):
            continue
        if same and other != kept:
            delete(other)


def _fetch_kernel(target: str, apt: Path, package: str) -> Path:
    """The package that the kernel's meta package stands for today, without what installing it would need."""
    options = ["-c", str(apt / "apt.conf")]
    shown = subprocess.run(
        ["apt-cache", *options, "--no-all-versions", "show", package], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"^Depends: (linux-image-\S+)", shown, re.MULTILINE)
    if match is None:
        raise UserError(f"{target}: this machine's package sources have no {package}; give Debian's with --apt-sources")
    folder = apt / "kernel"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["apt-get", *options, "-q", "download", match[1]], capture_output=True, text=True, check=False, cwd=folder
    )
    found = sorted(folder.glob(f"{match[1]}_*.deb"), key=lambda path: path.stat().st_mtime)
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{target}: apt could not fetch {match[1]}: {said}; see to the network and try again")
    return found[-1]


def _take_kernel(target: str, machine: Machine, package: Path, partial: Path) -> str:
    """Unpack the kernel and the drivers that the machine needs; its version."""
    unpacked = partial / "kernel"
    unpack(target, [package], unpacked, lambda *_: None)
    files = sorted((unpacked / "boot").glob("vmlinuz-*"))
    if not files:
        raise UserError(f"{target}: {package.name} holds no kernel; take Debian's own sources")
    version = files[-1].name.removeprefix("vmlinuz-")
    files[-1].rename(partial / "vmlinuz")
    places = [unpacked / "lib/modules" / version, unpacked / "usr/lib/modules" / version]
    folder = next(place for place in places if place.is_dir())
    (partial / "modules").mkdir()
    order = []
    for path in needed_modules(target, folder, machine.modules):
        name = path.name.split(".")[0] + ".ko"
        (partial / "modules" / name).write_bytes(read_module(path))
        order.append(name)
    (partial / "modules" / "order").write_text("".join(f"{name}\n" for name in order))
    delete(unpacked)
    return version


def _furnish(tree: Path) -> None:
    """The few files that installing the packages would have made."""
    for name in _NOT_NEEDED:
        if (tree / name).is_dir():
            delete(tree / name)
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "etc", "var/log", "var/lib/quantrig", "mnt"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in ETC.items():
        (tree / "etc" / name).write_text(text)
    (tree / "etc/inittab").unlink(missing_ok=True)
    (tree / "etc/inittab").symlink_to(f"{RUN}/inittab")
    busybox = f"/{_busybox(tree).relative_to(tree)}"
    for name in BUSYBOX:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not path.is_symlink():
            path.symlink_to(busybox)


def _busybox(tree: Path) -> Path:
    """Linked statically, it runs before there is a root disk. Debian 13 has it in /usr."""
    return next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())


def _make_root(target: str, tools: Tools, tree: Path, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(ROOT_SIZE_MB << 20)
    # The journal makes a power cut what it is on a real board: files as of the last commit, never a broken disk.
    options = ["-q", "-t", "ext4", "-F", "-L", "quantrig", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1"]
    command = [tools.file_system, *options, "-d", str(tree), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{target}: mke2fs could not make the root disk: {said}; see to it and provision again")


def _python_version(target: str, tree: Path) -> str:
    found = sorted(path.name.removeprefix("python") for path in (tree / "usr" / "bin").glob("python3.*[0-9]"))
    if not found:
        raise UserError(f"{target}: the packages hold no Python; give other sources with --apt-sources FILE")
    return found[-1]


def _compile(tree: Path, python: str) -> None:
    """Compile modules here where this Python writes the same bytecode; else the board does it as it goes."""
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return
    options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-x", _NOT_COMPILED, "-s", str(tree)]
    folders = [str(tree / "usr/lib" / f"python{python}"), str(tree / _SITE)]
    # Packages hold a few files on purpose that are no Python: its exit status says nothing.
    subprocess.run([sys.executable, "-m", "compileall", *options, *folders], capture_output=True, check=False)


def _files_digest(machine: Machine) -> str:
    """Of what we put into the root disk ourselves, and of the drivers that were taken."""
    chosen = [ETC, BUSYBOX, PACKAGES, ROOT_SIZE_MB, _NOT_NEEDED, machine.kernel, machine.modules]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
