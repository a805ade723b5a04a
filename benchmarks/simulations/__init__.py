"""What the statistics promise, put to the test: false alarms, power, drift, coverage; with fixed seeds.

`python -m benchmarks simulations` runs all of it (some minutes); docs/statistics.md says what it means.
"""

from __future__ import annotations

from benchmarks.figures import Effort, Result

#: Runs of each kind: the simulation error of 95 % is then a third of a point.
RUNS = 4000
#: Real repetitions of each kind of A/A: about four minutes.
REPETITIONS = 60


def run(effort: Effort) -> Result:
    """Simulations on recorded and on normal noise, and A/A really timed."""
    # not above: the load generator is a module of this package too, and needs none of them
    from benchmarks.simulations import intervals, ratio, real

    runs, repetitions = (100, 3) if effort.is_quick else (RUNS, REPETITIONS)
    return Result((*real.run(repetitions), *ratio.run(runs), *intervals.run(runs)))
