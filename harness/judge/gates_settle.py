"""What would settle a gate whose threshold lies inside the interval."""

from __future__ import annotations

import math

from harness.judge.gates_values import Gate
from harness.judge.noninferiority import fewest_samples, samples_needed
from harness.judge.numbers import threshold_text
from harness.judge.statistics import tango
from harness.record.figure import Figure, Source
from harness.record.gates import Rule

#: Normal quantiles of a two-sided 95 % interval and of a power of 80 %. Planning with both is the usual sample-size
#: formula n = (z_a + z_b)^2 variance / distance^2 (e.g. Chow, Shao, Wang, Sample Size Calculations in Clinical
#: Research, 2008, 3.1); with z_a alone the next run would settle it only every other time.
_Z_95, _Z_POWER_80 = 1.959964, 0.841621
#: More than this many times the evidence at hand is no advice.
_HOPELESS = 1_000
_PAIRS = "pairs"
#: Estimated on the logarithm.
_ON_LOG = ("x", "ms", "1/s", "mJ", "W")


def settle(gate: Gate, figure: Figure, interval: tuple[float, float], most_pairs: int | None = None) -> str:
    """One line: how much more evidence decides at the figure as it is now.

    Args:
        gate: undecided.
        figure: with a value.
        interval: that holds the threshold.
        most_pairs: at which the run's profile ends; None where that is not known.
    """
    value = figure.value if figure.value is not None else math.nan
    if figure.source is Source.MODELLED:
        return "the threshold is within the model's error: measure it on a board"
    if gate.rule is Rule.NON_INFERIOR:
        return _samples(gate, figure.n, value, interval)
    if figure.n is None:
        return "the threshold lies inside the interval"
    low, high = interval
    if not math.isfinite(low):
        return "the bound lies above the threshold: measure longer (`--profile release`)"
    if figure.unit in _ON_LOG and min(low, value, gate.threshold) > 0:
        half, distance = math.log(high / low) / 2, abs(math.log(value / gate.threshold))
    else:
        half, distance = (high - low) / 2, abs(value - gate.threshold)
    more = _times(half, distance)
    what = _unit_of_evidence(figure)
    if more is None:
        return f"the figure lies on the threshold: no reasonable number of {what} settles it"
    needed = math.ceil(figure.n * more)
    said = f"about {needed - figure.n:,} more {what} (power 80 %), {figure.n:,} given"
    if what == _PAIRS and most_pairs is not None and needed > most_pairs:
        said += f"; this profile ends at {most_pairs:,}: take a longer one, or quieten the board"
    return said


def _samples(gate: Gate, n: int | None, value: float, interval: tuple[float, float]) -> str:
    loss, worst = (-value, -interval[0]) if gate.higher_is_better else (value, interval[1])
    margin = threshold_text(gate.threshold, gate.unit, difference=True)
    seen = threshold_text(float(f"{loss:.3g}"), gate.unit, difference=True)
    if n is None:
        return f"a loss of {seen} seen, margin {margin}: the margin lies inside the interval"
    times = _times(worst - loss, gate.threshold - loss)
    if loss >= gate.threshold:
        return f"a loss of {seen} seen, margin {margin}: more than {n:,} samples would rather show a fail"
    share = _discordant_share(value, interval, n) if gate.unit == "fraction" else None
    if share is not None:
        needed = max(samples_needed(gate.threshold, share, difference=loss), fewest_samples(gate.threshold))
    elif times is not None:
        needed = math.ceil(n * times)
    else:
        return f"a loss of {seen} seen, margin {margin}: no reasonable number of samples passes it"
    return f"about {max(needed, n + 1):,} samples needed (power 80 %), {n:,} given"


def _discordant_share(value: float, interval: tuple[float, float], n: int) -> float | None:
    """Share of samples that just one network got right, from Tango's interval; None for an interval of another kind.

    With the difference known the interval widens with every discordant pair: the one count that gives it is found by
    bisection, and nothing has to be read out of a note.
    """
    difference = round(value * n)
    if abs(value * n - difference) > 1e-6:
        return None
    low, high = 0, (n - abs(difference)) // 2  # samples on the side that has fewer
    while low < high:
        middle = (low + high) // 2
        found = tango(max(difference, 0) + middle, max(-difference, 0) + middle, n)
        low, high = (middle + 1, high) if found.low > interval[0] + 1e-9 else (low, middle)
    only = (max(difference, 0) + low, max(-difference, 0) + low)
    found = tango(*only, n)
    same = math.isclose(found.low, interval[0], abs_tol=1e-6) and math.isclose(found.high, interval[1], abs_tol=1e-6)
    return sum(only) / n if same else None


def _times(half: float, distance: float) -> float | None:
    """How many times the evidence; None where that is beyond reason."""
    if distance <= 0:
        return None
    times = (half / distance * (_Z_95 + _Z_POWER_80) / _Z_95) ** 2
    return times if times <= _HOPELESS else None


def _unit_of_evidence(figure: Figure) -> str:
    if figure.metric == "speedup" or figure.metric.endswith("_ratio"):
        return _PAIRS
    return "blocks" if figure.unit in _ON_LOG else "samples"
