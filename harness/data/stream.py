"""Data that comes piece by piece from Python code: consumed as a stream, checked as it passes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from harness.data.arrays import ArrayDataSet, ArrayFitter, as_labels
from harness.data.batch import Array, Batch, Labels, rows
from harness.data.functions import plugin_error
from harness.errors import UserError

#: What one piece may be, for messages.
_FORMS = "{input: array[N, …]} or (inputs, labels)"


def pieces(data: Iterable[Any], fitter: ArrayFitter, label_offset: int = 0) -> Iterator[tuple[dict[str, Array], Batch]]:
    """Each piece of an iterable as (its arrays as given, the batch that the network takes).

    Args:
        data: yields {input: array[N, …]} (with or without "labels"), or (inputs, labels) where inputs is such a
            mapping, or one array for a network with one input.
        fitter: to the network's inputs.
        label_offset: added to every label.

    Raises:
        UserError: a piece of another form, wrong shapes or dtypes, labels on some pieces only, or no piece at all.
    """
    done = 0
    labelled: bool | None = None
    for index, piece in enumerate(_guarded(data, fitter.source)):
        raw, raw_labels = take_apart(piece, f"{fitter.source}: piece {index}")
        arrays = fitter.match(raw)
        count = rows(arrays)
        if not count:
            continue
        plain = as_labels(raw_labels, count, f"{fitter.source}: piece {index}")
        if labelled is not None and labelled != (plain is not None):
            raise UserError(
                f"{fitter.source}: piece {index} {'lacks' if labelled else 'has'} labels unlike those before"
            )
        labelled = plain is not None
        ids = tuple(str(done + row) for row in range(count))
        done += count
        labels = None if plain is None else plain + label_offset
        yield arrays, Batch(ids, fitter.fit(arrays, ids), labels)
    if not done:
        raise UserError(f"{fitter.source}: gave no samples; a generator that was used up already gives none")


def take_apart(piece: object, where: str) -> tuple[dict[str, Array], object]:
    """One piece as (arrays by name, labels or None). A lone array goes by the name "".

    Raises:
        UserError: not one of the forms.
    """
    labels: object = None
    inputs = piece
    if isinstance(piece, tuple):
        if len(piece) != 2:
            raise UserError(f"{where} is a tuple of {len(piece)}; give {_FORMS}")
        inputs, labels = piece
    if isinstance(inputs, Mapping):
        named = dict(inputs)
        if labels is None and len(named) > 1:
            labels = named.pop("labels", None)
        return {str(name): _array(x, f"{where}, '{name}'") for name, x in named.items()}, labels
    if isinstance(inputs, np.ndarray):
        return {"": inputs}, labels
    raise UserError(f"{where} is of type {type(inputs).__name__}; give {_FORMS}")


def is_whole(result: object) -> bool:
    """Whether a function returned all samples at once: a mapping of arrays, an array, or (inputs, labels)."""
    if isinstance(result, Mapping | np.ndarray):
        return True
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Mapping | np.ndarray):
        return False
    return not isinstance(result[1], Mapping | tuple)  # else: two pieces


def spool(data: Iterable[Any], fitter: ArrayFitter, name: str, label_offset: int = 0) -> ArrayDataSet:
    """Write an iterable's pieces to unnamed temporary files as they come, and map those: memory holds one piece.

    Raises:
        UserError: as `pieces`, or pieces whose samples differ in shape or dtype.
    """
    files: dict[str, IO[bytes]] = {}
    kinds: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {}
    numbers: dict[str, Array] = {}
    labels: list[Labels] = []
    count = 0
    for arrays, batch in pieces(data, fitter):
        count += batch.real
        for key, x in arrays.items():
            if not x.ndim:
                if numbers.setdefault(key, x) != x:
                    raise UserError(
                        f"{name}: the number of '{key}' changes from {numbers[key]} to {x}; give one for all"
                    )
                continue
            kind = (x.shape[1:], x.dtype)
            if kinds.setdefault(key, kind) != kind:
                raise UserError(
                    f"{name}: samples of '{key}' change from {kinds[key][1]}{list(kinds[key][0])} to "
                    f"{x.dtype}{list(x.shape[1:])}; give one shape and dtype"
                )
            file = files.setdefault(key, tempfile.TemporaryFile(prefix="quantrig-data-"))  # noqa: SIM115 - outlives us
            file.write(np.ascontiguousarray(x).data)
        if batch.labels is not None:
            labels.append(batch.labels)
    mapped: dict[str, Array] = dict(numbers)
    for key, file in files.items():
        file.flush()
        shape, dtype = kinds[key]
        mapped[key] = np.memmap(file, dtype=dtype, mode="r", shape=(count, *shape))
    return ArrayDataSet(mapped, np.concatenate(labels) if labels else None, fitter, name, label_offset)


def _guarded(data: Iterable[Any], source: str) -> Iterator[Any]:
    """The items of a caller's iterable; what it raises becomes one line."""
    try:
        iterator = iter(data)
    except TypeError:
        kind = type(data).__name__
        raise UserError(f"{source}: a {kind} is no data; give an iterable of {_FORMS}") from None
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except UserError:
            raise
        except Exception as error:  # the iterable is the caller's code and may raise anything
            raise plugin_error(source, error) from error
        yield item


def _array(x: object, where: str) -> Array:
    try:
        return np.asarray(x)
    except ValueError:
        raise UserError(f"{where} is ragged; give one array, first axis = samples") from None
