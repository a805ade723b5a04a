"""How ours is fed: calibration samples cut into those that give the ranges and those that score the choices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

#: Share of the calibration samples that is kept out of the ranges and scores the choices.
HELD_BACK = 0.25
BATCH = 32


def cut(samples: Arrays) -> tuple[Arrays, Arrays]:
    """Calibration samples as (those that give the ranges, those that score the choices), evenly taken."""
    count = len(next(iter(samples.values())))
    held = np.zeros(count, bool)
    held[:: round(1 / HELD_BACK)] = True
    return {k: v[~held] for k, v in samples.items()}, {k: v[held] for k, v in samples.items()}


def batches(samples: Arrays) -> Iterator[Arrays]:
    """Pieces of `BATCH` samples."""
    count = len(next(iter(samples.values())))
    for start in range(0, count, BATCH):
        yield {name: value[start : start + BATCH] for name, value in samples.items()}
