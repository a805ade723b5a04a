"""`settings:` of a target: the state a board shall be in while it is timed.

    settings: {power_mode: MAXN, lock_clocks: true, governor: performance}

A run sets them when its timing begins and gives back what was there before (`harness.targets.board_hold`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from harness.targets.boards import find_board
from harness.yamlfile import Document, FileModel

if TYPE_CHECKING:
    from collections.abc import Sequence

_CPUFREQ = ("lock_clocks", "governor")
#: What the boards of a family can be asked for; any other family is asked through cpufreq, as any Linux.
SETTABLE = {"jetson": ("power_mode", *_CPUFREQ)}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a target asks for; None or False: stays as it is.

    Args:
        power_mode: name or number of a mode of the board's own (nvpmodel's).
        lock_clocks: one clock for each unit in place of a range.
        governor: of cpufreq.
        required: a run that does not get them fails; else it says so in its notes.
    """

    power_mode: str | None = None
    lock_clocks: bool = False
    governor: str | None = None
    required: bool = False

    def asked(self) -> dict[str, str]:
        """What is asked for, by name, as text."""
        named = {"power_mode": self.power_mode, "governor": self.governor}
        found = {name: value for name, value in named.items() if value is not None}
        return found | ({"lock_clocks": "yes"} if self.lock_clocks else {})


class SettingsFile(FileModel):
    """As it stands in targets.yaml."""

    power_mode: str | int | None = Field(default=None, union_mode="left_to_right")
    lock_clocks: bool = False
    governor: str | None = Field(default=None, pattern=r"^[a-z_]{1,16}$")  # the kernel's CPUFREQ_NAME_LEN
    required: bool = False

    @field_validator("power_mode")
    @classmethod
    def _is_a_mode(cls, value: str | int | None) -> str | None:
        if value is None:
            return None
        text = str(value)
        if isinstance(value, bool) or not 0 < len(text) <= 64 or not text.isprintable() or text != text.strip():
            raise ValueError("a mode is a name or a number as `nvpmodel -q` prints them on the board")
        return text


def settings_of(
    document: Document, where: Sequence[str], name: str, file: SettingsFile, board: str, via: str
) -> Settings:
    """The settings of one target, when its board can have them.

    Args:
        document: the lab file.
        where: of the target in it.
        name: of the target.
        file: the field as read.
        board: the kind.
        via: kind of `via`.

    Raises:
        UserError: a setting that the family has not, nothing asked for, or a board that only stands in.
    """
    settings = Settings(
        None if file.power_mode is None else str(file.power_mode), file.lock_clocks, file.governor, file.required
    )
    if via not in {"local", "address", "channel"}:
        raise document.error(
            (*where, "settings"),
            f"{name}: `via: {via}` stands in for a board and has neither clocks nor a power mode; remove `settings`",
            at_key=True,
        )
    kind = find_board(board)
    can = SETTABLE.get(kind.family if kind is not None else "", _CPUFREQ)
    for one in settings.asked():
        if one not in can:
            raise document.error(
                (*where, "settings", one),
                f"{name}: a {board} has no `{one}`, it can be asked for {' and '.join(can)}; remove it",
                at_key=True,
            )
    if not settings.asked():
        raise document.error(
            (*where, "settings"), f"{name}: `settings` asks for nothing; write {' or '.join(can)}, or remove it",
            at_key=True,
        )  # fmt: skip
    return settings
