"""A few items out of a stream of unknown length, spread evenly over it: the first ones alone would be one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Spread(Generic[T]):
    """Holds at most `2 * most` items while the stream passes.

    Args:
        most: how many are wanted in the end.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._stride = 1
        self._seen = 0
        self._held: list[T] = []

    def offer(self, make: Callable[[], T]) -> None:
        """The next item of the stream; `make` is called only where it is held."""
        if self._seen % self._stride == 0:
            if len(self._held) == 2 * self._most:
                self._held = self._held[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._held.append(make())
        self._seen += 1

    def picked(self) -> tuple[T, ...]:
        """At most `most` of what was offered, in order; all of it where it was no more."""
        count = len(self._held)
        if count <= self._most:
            return tuple(self._held)
        return tuple(self._held[(2 * index + 1) * count // (2 * self._most)] for index in range(self._most))
