"""Lab: the boards a run may use, read from targets.yaml.

lab = load_lab(find_lab(None, job.path))
for target in lab.select(["rpi5-lab"]):
    print(target.via.kind, target.timed)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

from platformdirs import user_config_path
from pydantic import Discriminator, Field, Tag, field_validator

from harness.errors import UserError
from harness.targets.addresses import Address
from harness.targets.board_settings import Settings, SettingsFile, settings_of
from harness.targets.boards import BOARDS, Environment, find_board
from harness.targets.power.file import PowerFile, power_of
from harness.targets.power.values import Power
from harness.yamlfile import Document, FileModel, one_of, parse_yaml, read_yaml, validate

LAB_FILE = "targets.yaml"
#: Machines of QEMU's system mode (`harness.targets.qemu_system.recipe`).
MACHINES = ("virt", "xlnx-zcu102")
DpuArch = Literal["B512", "B800", "B1024", "B1152", "B1600", "B2304", "B3136", "B4096"]
ViaKind = Literal["local", "emulated", "qemu", "address", "channel"]
ServiceKind = Literal["system", "user", "supervisor"]
_WORDS = ("local", "emulated", "qemu")
_NAME = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Via:
    """How a target is reached.

    Args:
        kind: local (an agent started here, really measured), emulated or qemu (a stand-in here), address (on a board).
        address: HOST:PORT or unix:PATH; None unless kind is "address", or "qemu" with a machine that runs already.
        tls: folder with ca.pem, host.pem and host-key.pem; whether it exists is checked on connecting.
        machine: of QEMU's system mode; None: user mode.
        channel: of kind "channel": the plug-in that brings the agent's port here (`harness.targets.channels`).
        options: its own words.
    """

    kind: ViaKind
    address: str | None = None
    tls: Path | None = None
    machine: str | None = None
    channel: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ssh:
    """A login on the board, to install and start its agent.

    Args:
        host: name or number.
        user: None: this machine's user.
        key: private key; None: those of the SSH agent and of `~/.ssh`.
        port: of its SSH server.
        host_key: fingerprint (`SHA256:…`) that its key must have; None: known_hosts decides.
        python: interpreter on the board, a name or a path; None: the first of 3.10 or newer.
        folder: on the board, absolute, where the agent lives; None: the usual one of the login.
        service: who starts the agent: the system's systemd, the login's own, our supervisor; None: what is there.
    """

    host: str
    user: str | None = None
    key: Path | None = None
    port: int = 22
    host_key: str | None = None
    python: str | None = None
    folder: str | None = None
    service: ServiceKind | None = None


@dataclass(frozen=True, slots=True)
class RuntimePackages:
    """What the agent's environment on the board is made of, beyond the public packages.

    Args:
        wheel: a runtime that the user brings, in place of the public onnxruntime.
        system_site_packages: whether the board's own Python packages (TensorRT's bindings) can be imported.
    """

    wheel: Path | None = None
    system_site_packages: bool = False


@dataclass(frozen=True, slots=True)
class Console:
    """The board's serial console.

    Args:
        url: a device's path or a pyserial URL (`rfc2217://`, `socket://`).
        baud: its speed.
        prompt: regular expression of its login prompt; None: what getty prints.
        boot_timeout_s: how long a boot to that prompt may take.
    """

    url: str
    baud: int = 115_200
    prompt: str | None = None
    boot_timeout_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Bitstream:
    """Which programmable-logic design runs which network."""

    float_network: str | None = None
    int8_network: str | None = None


@dataclass(frozen=True, slots=True)
class Dpu:
    """Which AMD DPUCZDX8G the board's logic holds.

    Args:
        arch: B512 … B4096, the peak operations of one core and cycle.
        clock_mhz: None: what is usual on the board.
        cores: the same.
    """

    arch: DpuArch
    clock_mhz: float | None = None
    cores: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of targets.yaml.

    Args:
        name: [a-z0-9-]{1,64}.
        board: a kind that `harness.targets.boards` knows.
        environment: whose rules quantize for it.
        via: how it is reached.
        tags: free words that selections and test markers ask for.
        bitstream: MathWorks' designs, which exclude `dpu`: programmable logic holds one design.
        threads: of the runtime; None: its own choice.
        runtime: name of the agent's runtime; None: the board's default.
        base: folder of the lab file; relative paths in it start there.
        dpu: the processor in its logic.
        packages: what provisioning installs beside the agent.
        settings: of the board, while it is timed.
        batch: samples per inference, in a sweep (`runs.sweep`); None: the job's.
        entry: in a sweep, the entry that it is one setting of.
    """

    name: str
    board: str
    environment: Environment
    via: Via
    base: Path
    ssh: Ssh | None = None
    console: Console | None = None
    power: Power | None = None
    tags: tuple[str, ...] = ()
    bitstream: Bitstream | None = None
    threads: int | None = None
    runtime: str | None = None
    dpu: Dpu | None = None
    packages: RuntimePackages = RuntimePackages()
    settings: Settings | None = None
    batch: int | None = None
    entry: str = ""

    @property
    def entry_name(self) -> str:
        """Its name in the lab file: the settings of a sweep are one board."""
        return self.entry or self.name

    @property
    def timed(self) -> bool:
        """Whether its times are those of the board; a stand-in has the board's arithmetic only."""
        return self.via.kind in {"local", "address", "channel"}


@dataclass(frozen=True, slots=True)
class Lab:
    """All targets of a lab file, in its order."""

    path: Path
    targets: Mapping[str, Target]

    def select(self, names: Sequence[str] | None) -> list[Target]:
        """The named targets in the order of `names`, each once; all of them when there are no names.

        Raises:
            UserError: an unknown name.
        """
        for name in names or ():
            if name not in self.targets:
                raise UserError(f"{self.path}: no target '{name}'{one_of(name, self.targets)}")
        return [self.targets[name] for name in dict.fromkeys(names or self.targets)]


class _AddressFile(FileModel):
    address: str
    tls: str | None = Field(default=None, min_length=1)


class _MachineFile(FileModel):
    qemu: str = Field(min_length=1)
    address: str | None = None
    tls: str | None = Field(default=None, min_length=1)


class _SshFile(FileModel):
    host: str = Field(min_length=1)
    user: str | None = None
    key: str | None = None
    port: int = Field(default=22, ge=1, le=65_535)
    host_key: str | None = Field(default=None, pattern=r"^SHA256:[A-Za-z0-9+/]{43}=?$")
    python: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_./+-]+$")
    folder: str | None = Field(default=None, pattern=r"^(/[A-Za-z0-9_.+-]+)+$")
    service: ServiceKind | None = None


class _RuntimeFile(FileModel):
    name: str | None = Field(default=None, min_length=1)
    wheel: str | None = Field(default=None, pattern=r"\.whl$")
    system_site_packages: bool = False


class _ConsoleFile(FileModel):
    url: str = Field(min_length=1)
    baud: int = Field(default=115_200, ge=50)
    prompt: str | None = Field(default=None, min_length=1)
    boot_timeout_s: float = Field(default=180.0, gt=0, le=3600)

    @field_validator("prompt")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(
                f"not a regular expression ({error}); put \\ before signs that are meant literally"
            ) from None
        return value


class _BitstreamFile(FileModel):
    float_network: str | None = Field(default=None, alias="float")
    int8_network: str | None = Field(default=None, alias="int8")


class _DpuFile(FileModel):
    arch: DpuArch
    clock_mhz: float | None = Field(default=None, gt=0, le=1000)
    cores: int | None = Field(default=None, ge=1, le=4)


class _ChannelFile(FileModel):
    channel: str = Field(min_length=1)
    tls: str | None = Field(default=None, min_length=1)
    options: dict[str, str | int | float] | None = None


def _form(value: object) -> str:
    return "word" if isinstance(value, str) else "mapping"


def _way(value: object) -> str:
    for key, form in (("qemu", "machine"), ("channel", "channel")):
        if isinstance(value, Mapping) and key in value:
            return form
    return _form(value)


class _TargetFile(FileModel):
    board: str
    environment: Environment | None = None
    via: Annotated[
        Annotated[Literal["local", "emulated", "qemu"], Tag("word")]
        | Annotated[_AddressFile, Tag("mapping")]
        | Annotated[_MachineFile, Tag("machine")]
        | Annotated[_ChannelFile, Tag("channel")],
        Discriminator(_way),
    ]
    ssh: _SshFile | None = None
    console: _ConsoleFile | None = None
    power: PowerFile | None = None
    tags: list[str] | None = None
    bitstream: _BitstreamFile | None = None
    dpu: _DpuFile | None = None
    threads: int | None = Field(default=None, ge=1, le=1024)
    runtime: (
        Annotated[
            Annotated[str, Field(min_length=1), Tag("word")] | Annotated[_RuntimeFile, Tag("mapping")],
            Discriminator(_form),
        ]
        | None
    ) = None

    settings: SettingsFile | None = None

    @field_validator("board")
    @classmethod
    def _known_board(cls, value: str) -> str:
        if find_board(value) is None:
            raise ValueError(f"unknown board '{value}'{one_of(value, BOARDS)}")
        return value

    @field_validator("via", mode="before")
    @classmethod
    def _known_via(cls, value: object) -> object:
        if isinstance(value, str) and value not in _WORDS:
            from harness.targets.channels import channel_names  # which reads this module's values

            if value in channel_names():
                hint = f"; a channel is written {{channel: {value}}}"
            elif ":" in value:
                hint = f'; an agent\'s address is written {{address: "{value}"}}'
            else:
                hint = one_of(value, _WORDS)
            raise ValueError(f"unknown way '{value}'{hint}")
        return value


class _LabFile(FileModel):
    targets: dict[str, _TargetFile] | None  # all of them may be commented out


def load_lab(path: Path) -> Lab:
    """Read a lab file.

    Raises:
        UserError: one line with the file, the line and the remedy.
    """
    return _lab(read_yaml(path), path)


def parse_lab(text: str, path: Path) -> Lab:
    """Like `load_lab`, from the text that `path` would hold."""
    return _lab(parse_yaml(text, str(path)), path)


def find_lab(lab: Path | None = None, job: Path | None = None) -> Path:
    """The lab file to use: the given one, else targets.yaml here, else beside the job file.

    Raises:
        UserError: there is none.
    """
    if lab is not None:
        return lab
    places = [Path(LAB_FILE)] + ([job.parent / LAB_FILE] if job is not None else [])
    for path in places:
        if path.is_file():
            return path
    where = "here" if job is None else f"here nor in {job.parent}"
    raise UserError(f"no {LAB_FILE} {where}; give one with --lab, or write one with `quantrig init`")


def find_tls(text: str, base: Path) -> Path:
    """The certificate folder that `tls:` names.

    A path beside the lab file where there is one, else a name in the user's configuration folder (`tls/<name>`).
    A folder that does not exist is returned too: connecting says what lacks, and other targets can still be used.
    """
    path = Path(text).expanduser()
    beside = base / path
    if path.is_absolute() or len(path.parts) > 1 or beside.is_dir():
        return beside
    return user_config_path("quantrig") / "tls" / text


def _lab(document: Document, path: Path) -> Lab:
    file = validate(document, _LabFile)
    base = path.resolve().parent
    return Lab(path, {name: _target(document, name, one, base) for name, one in (file.targets or {}).items()})


def _target(document: Document, name: str, file: _TargetFile, base: Path) -> Target:
    where = ("targets", name)
    if not _NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64]
        raise document.error(
            where, f"target name '{name}' may hold a-z, 0-9 and - only (64 at most); write {better or 'board-1'}",
            at_key=True,
        )  # fmt: skip
    via = _via(document, name, file.via, base)
    ssh = file.ssh
    runtime = _RuntimeFile(name=file.runtime) if isinstance(file.runtime, str) else file.runtime or _RuntimeFile()
    kind = find_board(file.board)
    environment = file.environment or (kind.environment if kind is not None else None)
    if environment is None:
        raise document.error(where, f"{name}: field 'environment' is missing; a {file.board} has no usual one: add it")
    if file.dpu is not None and file.bitstream is not None:
        raise document.error(
            (*where, "dpu"), f"{name}: `dpu` and `bitstream` exclude each other; remove the one that is not loaded",
            at_key=True,
        )  # fmt: skip
    if file.dpu is not None and environment != "fpga":
        raise document.error(
            (*where, "dpu"), f"{name}: `dpu` belongs to environment fpga, not {environment}; correct one of them",
            at_key=True,
        )  # fmt: skip
    return Target(
        name=name,
        board=file.board,
        environment=environment,
        via=via,
        base=base,
        ssh=None
        if ssh is None
        else Ssh(ssh.host, ssh.user, _path(ssh.key, base), ssh.port, ssh.host_key, ssh.python, ssh.folder, ssh.service),
        console=None
        if file.console is None
        else Console(file.console.url, file.console.baud, file.console.prompt, file.console.boot_timeout_s),
        power=None if file.power is None else power_of(document, where, name, file.power, base),
        tags=tuple(file.tags or ()),
        bitstream=None
        if file.bitstream is None
        else Bitstream(file.bitstream.float_network, file.bitstream.int8_network),
        threads=file.threads,
        runtime=runtime.name,
        dpu=None if file.dpu is None else Dpu(file.dpu.arch, file.dpu.clock_mhz, file.dpu.cores),
        packages=RuntimePackages(_path(runtime.wheel, base), runtime.system_site_packages),
        settings=None
        if file.settings is None
        else settings_of(document, where, name, file.settings, file.board, via.kind),
    )


def _via(document: Document, name: str, file: str | _AddressFile | _MachineFile | _ChannelFile, base: Path) -> Via:
    if isinstance(file, str):
        return Via(cast("ViaKind", file))
    where = ("targets", name, "via")
    if isinstance(file, _ChannelFile):
        certificates = None if file.tls is None else find_tls(file.tls, base)
        options = {word: str(value) for word, value in (file.options or {}).items()}
        return Via("channel", tls=certificates, channel=file.channel, options=options)
    machine = file.qemu if isinstance(file, _MachineFile) else None
    if machine is not None and machine not in MACHINES:
        raise document.error((*where, "qemu"), f"{name}: no QEMU machine '{machine}' here{one_of(machine, MACHINES)}")
    tls = None if file.tls is None else find_tls(file.tls, base)
    if file.address is not None:
        try:
            Address.parse(name, file.address, tls=tls)
        except UserError as error:
            raise document.error((*where, "address"), str(error)) from None
    return Via("address" if machine is None else "qemu", file.address, tls, machine)


def _path(text: str | None, base: Path) -> Path | None:
    return None if text is None else base / Path(text).expanduser()
