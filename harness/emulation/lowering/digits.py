"""Weights as sums of digits: each digit's products add up exactly in float32 where those of the weights do not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

#: How many digits an int8 weight may become, and the base that makes so many.
_BASES = {1: 0, 2: 16, 4: 4, 8: 2}


def splits(weights: NDArray[np.int64]) -> Iterator[list[tuple[NDArray[np.int64], int]]]:
    """Ways to write integers as Σ digit·factor, fewest digits first.

    Args:
        weights: int8 values.

    Yields:
        [(digits, of the weights' shape; factor), …].
    """
    for count, base in _BASES.items():
        if count == 1:
            yield [(weights, 1)]
            continue
        rest, factor, parts = weights, 1, []
        for _ in range(count - 1):
            digits = (rest + base // 2) % base - base // 2
            parts.append((digits, factor))
            rest, factor = (rest - digits) // base, factor * base
        yield [*parts, (rest, factor)]
