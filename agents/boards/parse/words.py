"""Words that several formats share."""

from __future__ import annotations

#: A decimal number as tools print it; bounded, so that no garbage becomes an infinite float.
NUMBER = r"[-+]?\d{1,15}(?:\.\d{1,12})?"
