"""Numbers as every reader sees them: terminal, pages, Markdown, JUnit, a failed test.

A figure has three significant digits (a share two decimals). A threshold is written in the same way, with as many
digits as it takes to say exactly what was asked.
"""

from __future__ import annotations

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"

_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
#: Digits of a figure, the most that a threshold is written with, and the most of a number of bytes.
_DIGITS, _MOST_DIGITS, _SIZE_DIGITS = 3, 10, 6


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
    for factor, unit in _SIZES:
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
    if unit == "pairs":
        return f"{value:,.0f} pairs"
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


def threshold_text(value: float, unit: str, *, difference: bool = False) -> str:
    """What a gate asks for, exactly: "1.20×", "20.0 ms", "97.00 %", "200 MB"; a loss "1.00 pt", without a sign.

    Args:
        value: in `unit`.
        unit: as the figure's.
        difference: of two shares, in percentage points.
    """  # noqa: RUF002 - the sign of our tables
    value += 0.0  # no minus before a zero
    if unit == "fraction":
        decimals = max(2, _decimals(100 * value))
        return f"{100 * value:.{decimals}f} {'pt' if difference else '%'}".replace("-", MINUS)
    if unit == "bytes":
        factor, word = next(((f, w) for f, w in _SIZES if abs(value) >= f), (1.0, "B"))
        return f"{_exactly(value / factor, _SIZE_DIGITS)} {word}" if factor > 1 else f"{value:.0f} B"
    if unit in {"pairs", "LSB"}:  # counts, of which a gate asks whole ones
        return f"{value:,.10g} {unit}"
    if unit == "percent":
        return f"{_exactly(value)} %"
    return f"{_exactly(value)}{TIMES}" if unit == "x" else f"{_exactly(value)} {unit}".strip()


def _exactly(value: float, most: int = _MOST_DIGITS) -> str:
    digits = f"{value:.{most}g}".partition("e")[0].lstrip("-").replace(".", "").lstrip("0")
    return significant(value, max(_DIGITS, len(digits)))


def _decimals(value: float) -> int:
    return len(f"{value:.8f}".rstrip("0").partition(".")[2])
