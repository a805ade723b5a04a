"""Nested facts as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.report import text


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain JSON as (dotted name, text); an unknown value is a dash, an empty list or text is left out."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, start=1):
                yield from flatten(item if isinstance(item, Mapping) else {"value": item}, f"{name}.{number}.")
        elif isinstance(value, list | tuple):
            if value:
                yield name, ", ".join(str(item) for item in value)
        elif value is None:
            yield name, text.MISSING
        elif value != "":
            yield name, ("yes" if value else "no") if isinstance(value, bool) else str(value)
