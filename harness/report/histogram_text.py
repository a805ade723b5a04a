"""Dynamic ranges for a terminal: bars of one tensor, a strip of a few characters for a row of a table."""

from __future__ import annotations

from collections.abc import Iterator

from harness.quantize.dynamic_range import DynamicRange
from harness.report.histogram_svg import losses, number, power, type_text

_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def bars(name: str, found: DynamicRange) -> Iterator[str]:
    """Lines of one tensor, a bit each, the highest first; a bit outside the window has a pale bar."""
    low, high = number(found.minimum), number(found.maximum)
    yield f"{name}: {type_text(found)}, min {low}, max {high}, zeros {found.zeros:,}"
    if found.counts:
        fullest = max(found.counts.values())
        top, bottom = max(found.window[0], *found.counts), min(found.window[1], *found.counts)
        wide = len(f"{fullest:,}")
        for bit in range(top, bottom - 1, -1):
            count = found.counts.get(bit, 0)
            bar = _bar(count, fullest, grey=found.is_grey(bit))
            yield f"  {power(bit):>5} {_edge(bit, found)} {count:>{wide},} {bar}".rstrip()
    yield f"  {', '.join(losses(found))}"


def strip(found: DynamicRange, most_bits: int = 24) -> str:
    """A character a bit, the highest first, in brackets those that the window holds.

    Args:
        found: the dynamic range.
        most_bits: the strip ends here; what lies below is in its last character.
    """
    if not found.counts:
        return ""
    fullest = max(found.counts.values())
    top = max(found.window[0], *found.counts)
    bottom = max(min(found.window[1], *found.counts), top - most_bits + 1)
    text = []
    for bit in range(top, bottom - 1, -1):
        count = found.counts.get(bit, 0)
        if bit == bottom:
            count += sum(more for other, more in found.counts.items() if other < bottom)
        height = 0 if not count else min(8, max(1, round(8 * count / fullest)))
        text.append("[" * (bit == found.window[0]) + _HEIGHTS[height] + "]" * (bit == found.window[1]))
    return "".join(text)


def _edge(bit: int, found: DynamicRange) -> str:
    """A line beside the bits that the window holds."""
    if found.is_grey(bit):
        return " "
    highest, lowest = found.window
    return {highest: "┌", lowest: "└"}.get(bit, "│")


def _bar(count: int, fullest: int, *, grey: bool) -> str:
    if not count:
        return ""
    eighths = max(1, round(8 * _BAR * count / fullest))
    if grey:
        return "░" * max(1, eighths // 8)
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
