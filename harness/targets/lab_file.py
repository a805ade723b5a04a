"""An entry of targets.yaml as it is written, and the target that it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

from platformdirs import user_config_path
from pydantic import Discriminator, Field, Tag, field_validator

from harness.errors import UserError
from harness.targets.addresses import Address
from harness.targets.board_settings import SettingsFile, settings_of
from harness.targets.boards import BOARDS, Environment, find_board
from harness.targets.channels import channel_names
from harness.targets.power.file import PowerFile, power_of
from harness.targets.target import (
    Bitstream,
    Console,
    Dpu,
    DpuArch,
    RuntimePackages,
    ServiceKind,
    Ssh,
    Target,
    Via,
    ViaKind,
)
from harness.yamlfile import Document, FileModel, one_of

#: Machines of QEMU's system mode (`harness.targets.qemu_system.recipe`).
MACHINES = ("virt", "xlnx-zcu102")
_WORDS = ("local", "emulated", "qemu")
_NAME = re.compile(r"[a-z0-9-]{1,64}")


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


class TargetFile(FileModel):
    """One entry, field by field."""

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
            if value in channel_names():
                hint = f"; a channel is written {{channel: {value}}}"
            elif ":" in value:
                hint = f'; an agent\'s address is written {{address: "{value}"}}'
            else:
                hint = one_of(value, _WORDS)
            raise ValueError(f"unknown way '{value}'{hint}")
        return value


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


def target_of(document: Document, name: str, file: TargetFile, base: Path) -> Target:
    """The value of one entry.

    Args:
        document: the lab file.
        name: key of the entry.
        file: the entry as read.
        base: folder of the lab file.

    Raises:
        UserError: one line with the file, the line and the remedy.
    """
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
