"""The table of `xmutil listapps`: which applications a board has, and which of them is in the programmable logic."""

from __future__ import annotations

import re

_SLOTS = re.compile(r"\(\d{1,4}\+\d{1,4}\)")
_ACTIVE = re.compile(r"\d{1,4}(?:,\d{1,4})*,?")


def active_applications(text: str) -> list[str]:
    """Names of the applications that hold a slot; the last column is the slot's number, "-1" where there is none."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and _SLOTS.fullmatch(words[-2]) and _ACTIVE.fullmatch(words[-1]):
            found.append(words[0])
    return found
