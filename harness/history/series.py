"""Series: one figure of one job on one target, night after night, as its runs left it in the store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import special, stats

from harness.record.figure import Figure, Network, Source
from harness.store.nights import KeptFigure

#: Metrics that are followed unless a plan names others: (name, least change that matters as a fraction).
#: Changes are ratios. 1.5 % is half of the 3 % that nightly promises to find; a process's peak memory moves by pages
#: and arenas, so only 5 % of it is news.
RATIOS: Mapping[str, float] = {
    "latency_p50_ms": 0.015,
    "speedup": 0.015,
    "energy_mj": 0.03,
    "peak_memory_bytes": 0.05,
    "learnable_memory_bytes": 0.0001,
}
#: Any other metric that a plan names and that is no fraction.
OTHER_RATIO = 0.015
#: Differences of fractions: half of one sample, so that a sample that changes sides for good is seen; without n this.
LEAST_FRACTION = 0.0005
#: Decibels and cosines: what a reader would call a change.
DIFFERENCES: Mapping[str, float] = {"sqnr_db": 0.5, "cosine": 0.0001}
#: Agreement between float and int8, beside the job's own metrics.
_ALSO = ("top1_agreement", "sqnr_db")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which series."""

    job: str
    target: str
    network: str
    metric: str

    def __str__(self) -> str:
        """As a reader names it."""
        return f"{self.job} / {self.target} / {self.network} {self.metric}"


@dataclass(frozen=True, slots=True)
class Point:
    """One night of a series.

    Args:
        night: its name: that of the night of a plan, or the day of the run (UTC).
        run_id: the run that measured it.
        started: of the run, ISO 8601.
        value: the figure's, in its unit.
        low: lower end of its 95 % interval, None without one.
        high: upper end.
        n: what it rests on.
        surroundings: of that run on that target (`environment`).
    """

    night: str
    run_id: str
    started: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    surroundings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """The nights of one figure, oldest first, all of one unit and source.

    Args:
        key: which one.
        unit: of its values.
        source: measured, emulated, …
        points: its nights.
    """

    key: Key
    unit: str
    source: Source
    points: tuple[Point, ...]

    @property
    def logarithmic(self) -> bool:
        """Whether changes are ratios (times, memory) rather than differences (fractions, decibels)."""
        differs = self.unit == "fraction" or self.key.metric in DIFFERENCES
        return not differs and all(point.value > 0 for point in self.points)

    @property
    def least_change(self) -> float:
        """What matters, in the unit of `values`."""
        if self.logarithmic:
            return RATIOS.get(self.key.metric, OTHER_RATIO)
        if self.unit == "fraction":
            counts = [point.n for point in self.points if point.n]
            return 0.5 / max(counts) if counts else LEAST_FRACTION
        return DIFFERENCES.get(self.key.metric, LEAST_FRACTION)

    @property
    def values(self) -> list[float]:
        """What steps are looked for in: logarithms where changes are ratios."""
        return [math.log(point.value) if self.logarithmic else point.value for point in self.points]

    @property
    def errors(self) -> list[float]:
        """Standard errors of `values`, from the published intervals; 0 where there is none.

        A fraction's interval speaks of samples not yet seen; every night asks the same samples, so from night to night
        it has no error of that kind and any sample that changes sides counts.
        """
        if not self.logarithmic:
            return [0.0] * len(self.points)
        return [_log_error(point) for point in self.points]

    def back(self, value: float) -> float:
        """A level in the unit of the figure."""
        return math.exp(value) if self.logarithmic else value


def _log_error(point: Point) -> float:
    """A 95 % interval's half width on the logarithm over its quantile: Student's with n - 1 (n: blocks)."""
    if point.low is None or point.high is None or point.low <= 0:
        return 0.0
    freedom = (point.n or 0) - 1
    quantile = float(stats.t.ppf(0.975, freedom)) if freedom >= 1 else float(special.ndtri(0.975))
    return (math.log(point.high) - math.log(point.low)) / (2 * quantile)


def followed(figure: Figure, metrics: Sequence[str] | None = None) -> bool:
    """Whether a figure makes a series.

    Args:
        figure: of a run.
        metrics: those that a plan names; None: times, memory, energy, the job's own metrics and agreement.
    """
    if figure.value is None or not math.isfinite(figure.value):
        return False
    if metrics is not None:
        return figure.metric in metrics
    if figure.metric in RATIOS or figure.metric in _ALSO:
        return True
    return figure.unit == "fraction" and figure.network is not Network.RATIO


def gather(
    kept: Iterable[KeptFigure],
    surroundings: Mapping[tuple[str, str], Mapping[str, str]],
    nights: Mapping[str, str],
    metrics: Sequence[str] | None = None,
) -> tuple[Series, ...]:
    """Series from the figures of many runs.

    Args:
        kept: figures with their runs, in order of time.
        surroundings: of (run, target).
        nights: run → the night it belongs to; other runs go by their day.
        metrics: as `followed`.

    Returns:
        Sorted by key. A figure whose unit or source changed begins a new series; only the newest is returned.
    """
    points: dict[Key, list[Point]] = {}
    kinds: dict[Key, tuple[str, Source]] = {}
    for one in kept:
        figure = one.figure
        if not followed(figure, metrics):
            continue
        key = Key(one.job, figure.target, figure.network.value, figure.metric)
        kind = (figure.unit, figure.source)
        if kinds.get(key) != kind:
            kinds[key], points[key] = kind, []
        assert figure.value is not None  # followed
        night = nights.get(one.run_id, one.started[:10])
        around = surroundings.get((one.run_id, figure.target), {})
        points[key].append(
            Point(night, one.run_id, one.started, figure.value, figure.ci_low, figure.ci_high, figure.n, around)
        )
    return tuple(Series(key, *kinds[key], tuple(points[key])) for key in sorted(points))
