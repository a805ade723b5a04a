"""Text as a reader sees it; numbers are written by `harness.judge.numbers`, whose functions are here too.

Names, notes and descriptions come from boards, files and users: `plain` makes them safe to print anywhere (no control
characters that move a terminal's cursor or split a row, no invisible characters that reorder what is read). Escaping
for the format itself is each writer's own job.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from harness.judge.numbers import (
    MINUS,
    MISSING,
    TIMES,
    interval_text,
    percent,
    points,
    significant,
    size,
    value_text,
)

__all__ = [
    "MINUS",
    "MISSING",
    "TIMES",
    "elapsed",
    "instant",
    "interval_text",
    "percent",
    "plain",
    "points",
    "shortened",
    "significant",
    "size",
    "value_text",
]

#: Unicode categories that never belong in a table cell: controls, surrogates, private use, unassigned. Format
#: characters (Cf) hide or reorder text (U+202E and its kin), so they go too.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn")


def plain(text: str) -> str:
    """`text` on one line: white space of any kind becomes a space, an unprintable character becomes U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _UNPRINTABLE else character


def shortened(name: str, length: int) -> str:
    """A name without its middle where it is long; most of what is left is its end, which tells layers apart."""
    name = plain(name)
    if len(name) <= length:
        return name
    tail = 2 * length // 3
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def instant(iso: str) -> str:
    """An ISO 8601 instant in UTC, to the second; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(iso)
    except ValueError:
        return plain(iso)
    if parsed.tzinfo is None:
        return plain(iso)
    return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def elapsed(started: str, finished: str | None) -> str:
    """Time between two ISO 8601 instants: "1 min 12 s"; the dash when the run did not finish."""
    if finished is None:
        return MISSING
    try:
        seconds = round((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds())
    except (TypeError, ValueError):
        return MISSING
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
