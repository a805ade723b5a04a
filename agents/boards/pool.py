"""Samplers that outlive a stream, so that what happened between two streams is not lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agents.boards.base import Board, Sampler

#: A host that samples between blocks comes back after one of them. Whoever comes later begins a watch of his own: what
#: happened in between is none of his run's.
_KEPT_S = 120.0


@dataclass(frozen=True)
class _Resting:
    sampler: Sampler
    interval_s: float
    whose: str
    since_s: float


class SamplerPool:
    """Lends the samplers of one board; keeps the last one that came back (thread-safe).

    A host opens a short stream between two blocks, to leave the blocks alone. What is counted (throttling, loads,
    over-current) is then of the whole time since its stream before, the blocks included, although nothing ran beside
    them.

    Args:
        board: whose sensors.
        clock: seconds of any beginning.
    """

    def __init__(self, board: Board, clock: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._clock = clock
        self._guard = threading.Lock()
        self._resting: _Resting | None = None

    @contextlib.contextmanager
    def lend(self, interval_s: float, whose: str = "") -> Iterator[Sampler]:
        """A sampler for one stream; it is closed, so nothing it started runs on, and kept for the next.

        Args:
            interval_s: of the stream.
            whose: connection it is for. Another one begins a watch of its own, with its own limits of the clocks: a
                governor that somebody set between two runs is no throttling of the second.
        """
        with self._guard:
            resting, self._resting = self._resting, None
        if (
            resting is not None
            and (resting.interval_s, resting.whose) == (interval_s, whose)
            and self._clock() - resting.since_s <= _KEPT_S
        ):
            sampler = resting.sampler
        else:
            sampler = self._board.sampler(interval_s)
        try:
            yield sampler
        finally:
            sampler.close()
            with self._guard:
                self._resting = _Resting(sampler, interval_s, whose, self._clock())
