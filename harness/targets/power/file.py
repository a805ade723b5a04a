"""`power:` of a target as it stands in targets.yaml."""

from __future__ import annotations

import shlex
from pathlib import Path

from pydantic import Field, field_validator

from harness.targets.power.values import Action, Command, Power
from harness.yamlfile import Document, FileModel

#: Ways that this package brings, by their field in targets.yaml. Others come through `tool:`.
SHIPPED = ("qmp", "labgrid", "uhubctl", "snmp", "tasmota")
_ACTIONS = tuple(action.value for action in Action)
#: Words that only a shell understands when they stand alone.
_SHELL_WORDS = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"})

_CommandFile = str | list[str]


class QmpFile(FileModel):
    """QEMU's monitor."""

    socket: str = Field(min_length=1)


class LabgridFile(FileModel):
    """A place of labgrid."""

    place: str = Field(min_length=1)
    coordinator: str | None = None
    client: str = "labgrid-client"


class UhubctlFile(FileModel):
    """A port of a USB hub that can switch its power."""

    location: str = Field(pattern=r"^\d+(-\d+(\.\d+)*)?$")
    port: int = Field(ge=1, le=63)
    program: str = "uhubctl"


class SnmpFile(FileModel):
    """An outlet of a rack PDU."""

    host: str = Field(min_length=1)
    outlet: int = Field(ge=1, le=1024)
    model: str = "apc-rpdu"


class TasmotaFile(FileModel):
    """A smart plug or relay board with Tasmota's firmware."""

    url: str = Field(pattern=r"^https?://[^\s?#]+$")
    output: int | None = Field(default=None, ge=1, le=32)
    user: str = "admin"


class PowerFile(FileModel):
    """Commands, or exactly one of the other ways."""

    cycle: _CommandFile | None = None
    on: _CommandFile | None = None
    off: _CommandFile | None = None
    status: _CommandFile | None = None
    shell: bool = False
    qmp: str | QmpFile | None = None
    labgrid: str | LabgridFile | None = None
    uhubctl: UhubctlFile | None = None
    snmp: SnmpFile | None = None
    tasmota: TasmotaFile | None = None
    tool: str | None = Field(default=None, min_length=1)
    options: dict[str, object] | None = None
    wait_s: float = Field(default=5.0, ge=0, le=600)
    timeout_s: float = Field(default=60.0, gt=0, le=3600)

    @field_validator("cycle", "on", "off", "status")
    @classmethod
    def _not_empty(cls, value: _CommandFile | None) -> _CommandFile | None:
        if value is not None and not (value.strip() if isinstance(value, str) else value):
            raise ValueError("the command is empty; write a program and its arguments, or remove the line")
        return value


def power_of(document: Document, where: tuple[str, ...], name: str, file: PowerFile, base: Path) -> Power:
    """The value of a `power:` entry.

    Args:
        where: position of the target in the document.
        name: of the target.
        base: folder of the lab file.

    Raises:
        UserError: two ways at once or none, shell syntax without `shell: true`.
    """
    at = (*where, "power")
    commands = [action for action in _ACTIONS if getattr(file, action) is not None]
    others = [way for way in (*SHIPPED, "tool") if getattr(file, way) is not None]
    if len(others) + bool(commands) != 1:
        found = " and ".join([*others, *(["commands"] if commands else [])]) or "none"
        known = ", ".join(SHIPPED)
        raise document.error(
            at, f"{name}: `power` needs exactly one way to switch, not {found}: commands ({', '.join(_ACTIONS)}), "
            f"{known}, or tool", at_key=True,
        )  # fmt: skip
    if file.options is not None and file.tool is None:
        raise document.error((*at, "options"), f"{name}: `options` belong to `tool`; remove them", at_key=True)
    if others:
        return Power(method=file.tool or others[0], options=_options(file, base),
                     wait_s=file.wait_s, timeout_s=file.timeout_s)  # fmt: skip
    for action in commands:
        _check_shell(document, (*at, action), name, getattr(file, action), shell=file.shell)
    return Power(
        cycle=_command(file.cycle),
        on=_command(file.on),
        off=_command(file.off),
        status=_command(file.status),
        shell=file.shell,
        wait_s=file.wait_s,
        timeout_s=file.timeout_s,
    )


def _options(file: PowerFile, base: Path) -> dict[str, object]:
    if file.qmp is not None:
        socket = file.qmp if isinstance(file.qmp, str) else file.qmp.socket
        return {"socket": str(base / Path(socket).expanduser())}
    if file.labgrid is not None:
        place = LabgridFile(place=file.labgrid) if isinstance(file.labgrid, str) else file.labgrid
        return place.model_dump()
    shipped = file.uhubctl or file.snmp or file.tasmota
    return dict(file.options or {}) if shipped is None else shipped.model_dump()


def _command(given: _CommandFile | None) -> Command | None:
    return tuple(given) if isinstance(given, list) else given


def _check_shell(document: Document, at: tuple[str, ...], name: str, given: _CommandFile, *, shell: bool) -> None:
    if isinstance(given, list):
        if shell:
            raise document.error(at, f"{name}: a list of words needs no shell; write one text, or remove `shell`")
        return
    if shell:
        return
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise document.error(at, f"{name}: {error} in this command; close it, or write a list of words") from None
    if found := next((word for word in words if word in _SHELL_WORDS), None):
        raise document.error(at, f"{name}: '{found}' means something to a shell only; add `shell: true` beside it")
