"""Feeding a network: checking what the user gives, cutting it into batches the network takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from harness.errors import UserError
from harness.quantize.graph import Graph

Batch = Mapping[str, NDArray[Any]]

#: Samples per pass of a network with a free batch axis: keeps memory flat however large a batch the user gives.
MAX_BATCH = 8


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Args:
        name: its name.
        shape: None for an axis that is free; None as a whole when even the rank is.
        dtype: what it must be fed.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]

    @property
    def batch(self) -> int | None:
        """Fixed size of the first axis, None when it is free or there is none."""
        return self.shape[0] if self.shape else None


_NUMBERS = "biuf"
#: Element types that exist in NumPy and can be handed to the runtime.
_FEEDABLE = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """What the network has to be fed.

    Raises:
        UserError: an input is no tensor of numbers that NumPy has (text, a sequence, an optional, bfloat16).
    """
    return tuple(InputSpec(name, graph.shape(name), _dtype(graph, name)) for name in graph.inputs)


def _dtype(graph: Graph, name: str) -> np.dtype[Any]:
    value = graph.value_info(name)
    kind = value.type.WhichOneof("value") if value is not None else None
    if kind not in {None, "tensor_type"}:
        found = kind.removesuffix("_type").replace("_", " ")
        msg = f"input {name!r} of the network is a {found}; only tensors can be fed"
        raise UserError(msg)
    element_type = graph.element_type(name) or TensorProto.FLOAT
    if element_type not in _FEEDABLE:
        found = TensorProto.DataType.Name(element_type).lower()
        msg = f"input {name!r} of the network is {found}; only numbers of NumPy's types can be fed: cast inside it"
        raise UserError(msg)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))


def checked(batch: Batch, specs: tuple[InputSpec, ...], what: str) -> dict[str, NDArray[Any]]:
    """The batch with the network's dtypes; only what fits exactly or converts without loss of meaning passes.

    Raises:
        UserError: an input is missing, misnamed, of the wrong rank, shape or type.
    """
    names = [spec.name for spec in specs]
    for name in batch:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            msg = f"{what}: the network has no input {name!r}; did you mean {near[0]!r}?"
            raise UserError(msg)
    fed: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if spec.name not in batch:
            msg = f"{what}: the data lack the input {spec.name!r}; they offer {', '.join(batch) or 'nothing'}"
            raise UserError(msg)
        value = _array(batch[spec.name], spec, what)
        if value.dtype.kind not in _NUMBERS or (spec.dtype.kind in "iu" and value.dtype.kind == "f"):
            msg = f"{what}: input {spec.name!r} is {value.dtype}, the network takes {spec.dtype}; convert the data"
            raise UserError(msg)
        fed[spec.name] = value.astype(spec.dtype, copy=False)
        _check_shape(value, spec, what)
    return fed


def _array(value: object, spec: InputSpec, what: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:
        msg = f"{what}: input {spec.name!r} is a list of different lengths; give one array per input"
        raise UserError(msg) from error


def _check_shape(value: NDArray[Any], spec: InputSpec, what: str) -> None:
    if spec.shape is None:
        return
    fits = value.ndim == len(spec.shape) and all(
        want is None or want == have for want, have in list(zip(spec.shape, value.shape, strict=False))[1:]
    )
    if not fits:
        wanted = "x".join("N" if size is None or axis == 0 else str(size) for axis, size in enumerate(spec.shape))
        given = "x".join(map(str, value.shape)) or "a scalar"
        msg = f"{what}: input {spec.name!r} is {given}, the network takes {wanted}; check layout and preprocessing"
        raise UserError(msg)


def passes(
    batches: Iterable[Batch], specs: tuple[InputSpec, ...], what: str, most: int = MAX_BATCH
) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
    """Cut a stream of batches into what one pass of the network takes.

    Networks with a free batch axis get at most `most` samples at a time, networks with a fixed one exactly
    that many: a remainder is filled by repeating its last sample.

    Yields:
        (inputs, number of new samples).

    Raises:
        UserError: the stream is empty, or a batch does not fit the network.
    """
    seen = False
    for batch in batches:
        fed = checked(batch, specs, what)
        for piece, count in _cut(fed, specs, what, most):
            seen = True
            yield piece, count
    if not seen:
        msg = f"{what}: the data hold no sample; give at least one"
        raise UserError(msg)


def _cut(
    fed: dict[str, NDArray[Any]], specs: tuple[InputSpec, ...], what: str, most: int
) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
    lengths = {value.shape[0] for value in fed.values() if value.ndim}
    if lengths == {0} and not any(spec.batch == 0 for spec in specs):
        return
    fixed = {spec.batch for spec in specs if spec.batch is not None and spec.shape}
    if all(spec.batch is None or fed[spec.name].shape[0] == spec.batch for spec in specs):
        # It fits as it is; only a batch axis that all inputs share may be cut.
        if len(lengths) != 1 or fixed or any(value.ndim == 0 for value in fed.values()):
            yield fed, next(iter(lengths), 1)
            return
        size = most
    else:
        if len(fixed) != 1 or len(lengths) != 1 or any(not value.ndim for value in fed.values()):
            shapes = ", ".join(f"{name} {value.shape}" for name, value in fed.items())
            msg = f"{what}: batches of {shapes} do not fit the network's fixed shapes; give one pass at a time"
            raise UserError(msg)
        size = next(iter(fixed))
    length = lengths.pop()
    for start in range(0, length, size):
        piece = {name: value[start : start + size] for name, value in fed.items()}
        count = min(size, length - start)
        if fixed and count < size:
            piece = {
                name: np.concatenate([value, np.repeat(value[-1:], size - count, axis=0)])
                for name, value in piece.items()
            }
        yield piece, count
