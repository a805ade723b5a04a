"""One row of docs/benchmarks.md: raw repetitions of ours and of the peer, and what was promised."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

from harness.judge.statistics import GeometricMean, geometric_mean


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise: `of` is ours alone (in the row's unit) or ours over the peer's."""

    of: Literal["ours", "ratio"]
    least: float | None = None
    most: float | None = None

    def text(self, unit: str) -> str:
        """As a reader writes it: "≥ 2x", "≤ 60 MB"."""
        mark = "x" if self.of == "ratio" else f" {unit}"
        if self.least is not None and self.most is not None:
            return f"{self.least:g}-{self.most:g}{mark}"
        sign, limit = ("≥", self.least) if self.least is not None else ("≤", self.most)
        return f"{sign} {limit:g}{mark}"

    def met(self, value: float) -> bool:
        """Whether `value` keeps the promise."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Args:
        figure: what was measured, in words.
        unit: of `ours` and `peer`.
        ours: one value a repetition, in the order taken.
        peer_name: what ours is held against, "" when the figure stands alone.
        peer: the peer's value of the same repetition.
        goal: what was promised, None for a figure given for context.
        note: one line for the reader.
    """

    figure: str
    unit: str
    ours: tuple[float, ...]
    peer_name: str = ""
    peer: tuple[float, ...] = ()
    goal: Goal | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.ours or (self.peer and len(self.peer) != len(self.ours)):
            message = f"{self.figure}: {len(self.ours)} repetitions of ours, {len(self.peer)} of the peer"
            raise ValueError(message)

    @property
    def median(self) -> float:
        """Ours, over the repetitions."""
        return statistics.median(self.ours)

    @property
    def peer_median(self) -> float | None:
        """The peer's, None without one."""
        return statistics.median(self.peer) if self.peer else None

    @property
    def ratio(self) -> GeometricMean | None:
        """Ours over the peer's, repetition by repetition, with its 95 % t interval on the logarithm."""
        return (
            geometric_mean([mine / theirs for mine, theirs in zip(self.ours, self.peer, strict=True)])
            if self.peer
            else None
        )

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached: by the median, or by the ratio's point estimate; None without a goal."""
        if self.goal is None:
            return None
        if self.goal.of == "ours":
            return self.goal.met(self.median)
        return self.goal.met(self.ratio.value) if self.ratio else None


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found; `skipped` lists what could not be measured here, with the reason."""

    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to repeat: the published table takes `Effort()`, a try-out `Effort.quick()`."""

    repetitions: int = 12
    block_s: float = 1.0
    upload_bytes: int = 100_000_000
    is_quick: bool = field(default=False)

    @classmethod
    def quick(cls) -> Effort:
        """Seconds instead of minutes, to see that the scripts work; its figures are not for publishing."""
        return cls(repetitions=2, block_s=0.2, upload_bytes=20_000_000, is_quick=True)
