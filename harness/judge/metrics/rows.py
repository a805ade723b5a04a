"""What one sample contributes to a metric: rows, from which the metric of any multiset of samples can be computed.

A streamed evaluation, a bootstrap over images and the recomputation of a figure from a run's folder are the same thing:
rows first, then one step that combines them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Column that says how many entries of a group each sample has.
_COUNT = "count"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The sufficient statistics of N samples for one metric.

    Args:
        columns: name → array. A plain name has one entry a sample, [N, …]. A name with a dot belongs to a group whose
            samples have any number of entries: `detections.score` holds those of all samples one after another, and
            `detections.count` [N] says how many are whose.
    """

    columns: Mapping[str, Array]

    def __len__(self) -> int:
        """How many samples."""
        return next((len(array) for name, array in self.columns.items() if _per_sample(name)), 0)

    def __getitem__(self, name: str) -> Array:
        """A column."""
        return self.columns[name]

    def owner(self, group: str) -> NDArray[np.intp]:
        """Which sample each entry of a group belongs to."""
        return np.repeat(np.arange(len(self)), self.columns[f"{group}.{_COUNT}"])

    def fault(self, samples: int) -> str | None:
        """Why these cannot be the rows of so many samples; None where they can. For rows that come from outside."""
        for name, array in self.columns.items():
            group, dot, column = name.partition(".")
            counts = self.columns.get(f"{group}.{_COUNT}") if dot else None
            if array.dtype.kind not in "iuf" or array.ndim < 1:
                return f"column {name} is {array.dtype}{list(array.shape)}"
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"column {name} holds NaN or infinity"
            if not _per_sample(name):
                if counts is None or len(array) != int(counts.sum()):
                    return f"column {name} has {len(array)} entries, its samples another number"
            elif len(array) != samples:
                return f"column {name} has {len(array)} samples, there are {samples}"
            elif column == _COUNT and (array.dtype.kind == "f" or array.ndim > 1 or (array < 0).any()):
                return f"column {name} counts less than nothing"
        return None

    def take(self, indices: Sequence[int]) -> Rows:
        """Some samples, in that order, as often as they are named."""
        chosen = np.asarray(indices, np.intp)
        taken: dict[str, Array] = {}
        for name, array in self.columns.items():
            if _per_sample(name):
                taken[name] = array[chosen]
                continue
            counts = self.columns[f"{name.partition('.')[0]}.{_COUNT}"]
            ends = np.cumsum(counts)
            entries = [np.arange(ends[i] - counts[i], ends[i]) for i in chosen]
            taken[name] = array[np.concatenate(entries).astype(np.intp)] if entries else array[:0]
        return Rows(taken)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of several chunks of samples as those of all.

    Raises:
        ValueError: no part.
    """
    if not parts:
        msg = "no rows to join"
        raise ValueError(msg)
    return Rows({name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns})


def _per_sample(name: str) -> bool:
    return "." not in name or name.endswith(f".{_COUNT}")
