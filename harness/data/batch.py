"""The two values every stage downstream reads samples through: a batch and a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data.truth import Truth

Array = npt.NDArray[np.generic]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples, stacked, as the network takes them.

    Args:
        ids: names of the samples, one for each real one.
        inputs: by input name, of the network's dtype and layout, first axis = samples; an array of rank 0 is the same
            for every sample. A batch that was padded to a fixed size has more rows than ids; the rows beyond
            `len(ids)` repeat the last sample.
        labels: int64 [len(ids)], or None when the data has none.
    """

    ids: tuple[str, ...]
    inputs: Mapping[str, Array]
    labels: Labels | None

    @property
    def real(self) -> int:
        """How many rows are samples; the rest is padding."""
        return len(self.ids)

    @property
    def size(self) -> int:
        """How many rows the inputs have, padding included."""
        return rows(self.inputs)


@runtime_checkable
class DataSet(Protocol):
    """Samples by index. Reading decodes only what is asked for."""

    @property
    def name(self) -> str:
        """How messages and reports name the data."""

    @property
    def label_source(self) -> str:
        """Where the labels come from ("imagenet500/labels.csv"), for messages about them."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Name of every sample."""

    @property
    def labels(self) -> Labels | None:
        """Class numbers, int64 [N] with label_offset added; None where the labels are of another kind or missing."""

    @property
    def truth(self) -> Truth | None:
        """Masks, boxes or targets, where the labels are such."""

    def __len__(self) -> int:
        """How many samples there are."""

    def read(self, indices: Sequence[int]) -> Batch:
        """The named samples, preprocessed and stacked.

        Raises:
            UserError: a sample that cannot be read, or is not what the network takes.
        """

    def digest(self) -> str:
        """sha256 of everything `read` depends on: contents, labels, preprocessing. Computed once."""


def batches(dataset: DataSet, indices: Sequence[int], batch_size: int, *, fixed: bool) -> Iterator[Batch]:
    """The samples of `indices`, in that order, batch by batch.

    Args:
        dataset: to read from.
        indices: which samples.
        batch_size: rows per batch.
        fixed: the network insists on `batch_size`, so the last batch is padded by repeating its last sample
            (`Batch.real` tells how many rows count).
    """
    if batch_size < 1:
        raise UserError(f"batch: {batch_size} is not a batch size; give 1 or more")
    for start in range(0, len(indices), batch_size):
        batch = dataset.read(indices[start : start + batch_size])
        yield pad(batch, batch_size) if fixed else batch


def pad(batch: Batch, size: int) -> Batch:
    """The batch with its last sample repeated up to `size` rows (a real sample: zeros may be no input at all)."""
    missing = size - batch.size
    if missing <= 0:
        return batch
    return Batch(batch.ids, padded(batch.inputs, size), batch.labels)


def rows(inputs: Mapping[str, Array]) -> int:
    """How many samples arrays hold: the length of their first axis, those of rank 0 aside (they go with any number)."""
    return next((len(x) for x in inputs.values() if x.ndim), 1)


def cut(inputs: Mapping[str, Array], which: slice | Sequence[int]) -> dict[str, Array]:
    """Some samples of arrays by name; arrays of rank 0 belong to each of them."""
    return {name: x[which] if x.ndim else x for name, x in inputs.items()}


def padded(inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
    """Arrays with their last sample repeated up to `size` rows."""
    missing = size - rows(inputs)
    if missing <= 0:
        return dict(inputs)
    return {
        name: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if x.ndim else x for name, x in inputs.items()
    }
