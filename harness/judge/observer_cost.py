"""What watching a run cost it: its blocks with telemetry beside them against those without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.judge.statistics import CONFIDENCE, Interval
from harness.record.figure import Network
from harness.record.timing import BlockRecord

#: Level, drift, cost: what is estimated.
_UNKNOWNS = 3
_LEAST_OF_EACH = 2


@dataclass(frozen=True, slots=True)
class ObserverCost:
    """How much slower a network's blocks were while telemetry streamed.

    Args:
        percent: of the median latency; below 0: faster.
        interval: 95 %.
        watched: blocks with the stream.
        unwatched: blocks without.
    """

    percent: float
    interval: Interval
    watched: int
    unwatched: int


def observer_cost(blocks: Sequence[BlockRecord], network: Network) -> ObserverCost | None:
    """Least squares of ln(median latency) = level + drift x time + cost x watched over the blocks of `network`.

    The drift keeps a board that warms up, or a load that comes and goes slowly, out of the cost. Student's t with
    n - 3 degrees of freedom.

    Args:
        blocks: of clean pairs.
        network: whose.

    Returns:
        None with fewer than two blocks of either kind.
    """
    from scipy import stats

    own = [block for block in blocks if block.network is network and block.watched is not None]
    watched = np.array([block.watched for block in own], dtype=np.float64)
    count = len(own)
    unwatched = count - int(watched.sum())
    if min(unwatched, count - unwatched) < _LEAST_OF_EACH or count <= _UNKNOWNS:
        return None
    at_s = np.array([block.started_unix_s + block.duration_s / 2 for block in own])
    design = np.column_stack([np.ones(count), at_s - at_s.mean(), watched])
    logs = np.log([float(np.median(block.latency_ns)) / block.batch_size for block in own])
    solution, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    if rank < _UNKNOWNS:
        return None
    free = count - _UNKNOWNS
    variance = float(np.sum((logs - design @ solution) ** 2)) / free
    error = math.sqrt(variance * float(np.linalg.inv(design.T @ design)[2, 2]))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, free)) * error
    cost = float(solution[2])
    interval = Interval(100 * math.expm1(cost - half), 100 * math.expm1(cost + half))
    return ObserverCost(100 * math.expm1(cost), interval, count - unwatched, unwatched)
