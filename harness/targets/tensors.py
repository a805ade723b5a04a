"""Tensors on the wire: cut into parts of at most 1 MiB, put together again under the eyes of the declared outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.protocol import CHUNK_BYTES
from agents.protocol import agent_pb2 as pb
from harness.errors import UserError
from harness.targets.validate import DTYPES, MAX_TENSOR_BYTES, Checker, clean_text
from harness.targets.values import TensorInfo

Array = npt.NDArray[Any]


def check_inputs(target: str, batch: Mapping[str, Array], inputs: tuple[TensorInfo, ...]) -> None:
    """Refuse a batch that does not fit the network's declared inputs, before a byte travels.

    Raises:
        UserError: a name, type or shape differs.
    """
    declared = {i.name: i for i in inputs}
    if batch.keys() != declared.keys():
        raise UserError(
            f"{target}: the network takes inputs {sorted(declared)}, the batch brings {sorted(batch)}; "
            "check the job's data and preprocessing"
        )
    for name, array in batch.items():
        info = declared[name]
        if array.dtype.name != info.dtype or not _fits(array.shape, info.shape):
            raise UserError(
                f"{target}: input {name!r} is {info.dtype}{list(info.shape)}, the batch brings "
                f"{array.dtype.name}{list(array.shape)}; check `preprocess` and `batch` of the job"
            )


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(d in (-1, s) for s, d in zip(shape, declared, strict=True))


def parts(batch: Mapping[str, Array]) -> Iterator[pb.TensorPart]:
    """The messages that carry one batch, tensor after tensor.

    Raises:
        UserError: a type that does not travel.
    """
    last_name = list(batch)[-1]
    for name, array in batch.items():
        if array.dtype.name not in DTYPES:
            raise UserError(
                f"input {name!r} is {array.dtype.name}, which does not travel; convert it to a plain number"
            )
        flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        data = flat.data
        count = max(1, -(-len(data) // CHUNK_BYTES))
        for index in range(count):
            part = pb.TensorPart(data=bytes(data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]))
            if index == 0:
                part.name, part.dtype = name, array.dtype.name
                part.shape.extend(array.shape)
            part.last_of_tensor = index == count - 1
            part.last_of_batch = part.last_of_tensor and name == last_name
            yield part


class OutputAssembler:
    """Puts one batch's outputs together and refuses whatever the network did not declare.

    Args:
        checker: raises for the target.
        outputs: what `Prepare` declared.
    """

    def __init__(self, checker: Checker, outputs: tuple[TensorInfo, ...]) -> None:
        self._checker = checker
        self._declared = {o.name: o for o in outputs}
        self._done: dict[str, Array] = {}
        self._name = ""
        self._array: Array | None = None
        self._filled = 0
        self._batch_bytes = 0

    def add(self, part: pb.TensorPart) -> None:
        """Take the next part.

        Raises:
            BadResult: an undeclared, repeated, oversized or malformed tensor.
        """
        if self._array is None:
            self._begin(part)
        array = self._array
        assert array is not None
        view = array.reshape(-1).view(np.uint8)
        if self._filled + len(part.data) > view.nbytes or (not part.data and not part.last_of_tensor):
            self._checker.fail(f"more data of output {self._name!r} than its shape holds, or an empty piece of it")
        view[self._filled : self._filled + len(part.data)] = np.frombuffer(part.data, np.uint8)
        self._filled += len(part.data)
        if part.last_of_tensor:
            if self._filled != view.nbytes:
                self._checker.fail(f"{self._filled} of the {view.nbytes} bytes of output {self._name!r}")
            self._done[self._name] = array
            self._array = None

    def _begin(self, part: pb.TensorPart) -> None:
        shown = clean_text(part.name, 60)
        info = self._declared.get(part.name)
        if info is None:
            self._checker.fail(f"an output {shown!r} that the network did not declare")
        if part.name in self._done:
            self._checker.fail(f"output {shown!r} twice in one batch")
        shape = tuple(part.shape)
        if part.dtype != info.dtype or not _fits(shape, info.shape) or any(d < 0 for d in shape):
            self._checker.fail(
                f"output {shown!r} as {clean_text(part.dtype, 20)}{clean_text(str(shape), 80)} where "
                f"{info.dtype}{info.shape} was declared"
            )
        dtype = np.dtype(info.dtype).newbyteorder("<")
        self._batch_bytes += math.prod(shape) * dtype.itemsize
        if self._batch_bytes > MAX_TENSOR_BYTES:
            self._checker.fail(f"output {shown!r}, with which the batch exceeds {MAX_TENSOR_BYTES >> 20} MiB")
        self._name, self._filled = part.name, 0
        self._array = np.empty(shape, dtype)

    def take(self, index: int) -> dict[str, Array]:
        """The finished batch, in the declared order; starts the next one.

        Raises:
            BadResult: an output is missing or unfinished.
        """
        missing = sorted(self._declared.keys() - self._done.keys())
        if self._array is not None or missing:
            self._checker.fail(f"batch {index} without its output {(missing or [self._name])[0]!r}")
        batch = {name: self._done[name] for name in self._declared}
        self._done, self._batch_bytes = {}, 0
        return batch
