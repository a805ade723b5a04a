"""Text and numbers as a reader sees them.

Names, notes and descriptions come from boards, files and users: `plain` makes them safe to print anywhere (no control
characters that move a terminal's cursor or split a row, no invisible characters that reorder what is read). Escaping
for the format itself is each writer's own job.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

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


def significant(value: float, digits: int = 3) -> str:
    """`value` with that many significant digits, never in scientific notation while it is readable without."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    magnitude = f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - int(magnitude.partition("e")[2]))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(fraction: float, decimals: int = 2) -> str:
    """0.975 → "97.50 %"."""
    return f"{100 * fraction:.{decimals}f} %".replace("-", MINUS)


def points(fraction: float, decimals: int = 2) -> str:
    """A difference of fractions in percentage points with its sign: -0.0025 → -0.25 pt (with a real minus sign)."""
    return f"{_signed(100 * fraction, decimals)} pt"


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    if float(text) == 0:
        text = text.replace("-", "").replace("+", "")
    return text.replace("-", MINUS)


def size(size_bytes: float) -> str:
    """2900244 → "2.90 MB" (powers of 1000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{significant(size_bytes / factor)} {unit}"
    return f"{size_bytes:.0f} B"


def value_text(value: float | None, unit: str, metric: str = "") -> str:
    """A figure's value with its unit; the dash when it is unknown."""
    if value is None:
        return MISSING
    if unit == "fraction":
        return points(value) if metric.endswith("_delta") else percent(value)
    if unit == "bytes":
        return f"{value:,.0f} bytes"
    if unit == "percent":
        return f"{significant(value)} %"
    if metric.endswith("_threads"):
        return f"{value:,.0f}"
    if metric == "cosine":
        return f"{value:.5f}"  # differs from 1 in the fourth digit at best
    if unit == "x":
        return f"{significant(value)}{TIMES}"
    sign = "+" if metric.endswith("_delta") and value > 0 else ""
    return f"{sign}{significant(value)} {unit}".strip()


def interval_text(low: float | None, high: float | None, unit: str, metric: str = "") -> str:
    """The 95 % interval in the unit of the value beside it, "" when there is none."""
    if low is None or high is None:
        return ""
    if unit == "fraction" and metric.endswith("_delta"):
        return f"[{_signed(100 * low, 2)}, {_signed(100 * high, 2)}]"
    if unit == "fraction":
        return f"[{100 * low:.2f}, {100 * high:.2f}]"
    return f"[{significant(low)}, {significant(high)}]"


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
