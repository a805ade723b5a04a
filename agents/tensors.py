"""Tensors from and to the wire: raw little-endian bytes with a dtype and a shape, and nothing else (no pickle)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agents.faults import AgentError, Fault, one_line
from agents.protocol import CHUNK_BYTES
from agents.protocol import agent_pb2 as pb

Array = NDArray[np.generic]

#: Element types that travel. Objects and strings do not: their bytes are pointers, or need a decoder.
DTYPES = frozenset(
    {"float16", "float32", "float64", "bool"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
#: numpy itself stops at 64; networks use 5.
_MAX_RANK = 16


class BatchAssembler:
    """Puts parts together until a batch is whole.

    Args:
        inputs: what the network takes.
        max_tensor_bytes: of one tensor.
    """

    def __init__(self, inputs: Sequence[pb.TensorSpec], max_tensor_bytes: int) -> None:
        self._specs = {spec.name: spec for spec in inputs}
        self._max_tensor_bytes = max_tensor_bytes
        self._batch: dict[str, Array] = {}
        self._name = ""
        self._tensor: Array | None = None  # the one being filled
        self._bytes = memoryview(b"")
        self._filled = 0

    def add(self, part: pb.TensorPart) -> dict[str, Array] | None:
        """Take in the next part; the batch, by input name, when it was the last one.

        Raises:
            AgentError: INVALID, naming the tensor.
        """
        if self._tensor is None:
            self._begin(part)
        elif part.name not in ("", self._name):
            raise _invalid(f"a part of {_shown(part.name)} came before the last part of {_shown(self._name)}")
        end = self._filled + len(part.data)
        if end > len(self._bytes):
            raise _invalid(f"input {_shown(self._name)} got more than the {len(self._bytes)} bytes of its shape")
        self._bytes[self._filled : end] = part.data
        self._filled = end
        if part.last_of_tensor or part.last_of_batch:
            self._finish()
        if not part.last_of_batch:
            return None
        missing = sorted(set(self._specs) - set(self._batch))
        if missing:
            raise _invalid(f"the batch lacks input {_shown(missing[0])}")
        batch, self._batch = self._batch, {}
        return batch

    def _begin(self, part: pb.TensorPart) -> None:
        spec = self._specs.get(part.name)
        if spec is None:
            known = ", ".join(list(self._specs)[:8])
            raise _invalid(f"the network has no input {_shown(part.name)}: it has {known}")
        if part.name in self._batch:
            raise _invalid(f"input {_shown(part.name)} came twice in one batch")
        if part.dtype not in DTYPES or part.dtype != spec.dtype:
            raise _invalid(f"input {_shown(part.name)} is {spec.dtype}, not {_shown(part.dtype)}")
        shape = tuple(part.shape)
        expected = tuple(spec.shape)
        fits = len(shape) == len(expected) <= _MAX_RANK and all(
            size >= 0 and want in (-1, size) for size, want in zip(shape, expected, strict=True)
        )
        if not fits:
            message = f"input {_shown(part.name)} has the shape {expected} (-1: any), not {shape[:_MAX_RANK]}"
            raise _invalid(message)
        dtype = np.dtype(part.dtype)
        size_bytes = math.prod(shape) * dtype.itemsize  # Python's integers do not overflow
        if size_bytes > self._max_tensor_bytes:
            message = f"input {_shown(part.name)} of {size_bytes} bytes: at most {self._max_tensor_bytes}"
            raise _invalid(message)
        self._name = part.name
        self._tensor = np.empty(shape, dtype.newbyteorder("<"))
        self._bytes = self._tensor.reshape(-1).view(np.uint8).data if size_bytes else memoryview(bytearray())
        self._filled = 0

    def _finish(self) -> None:
        assert self._tensor is not None
        if self._filled != len(self._bytes):
            message = f"input {_shown(self._name)} got {self._filled} of the {len(self._bytes)} bytes of its shape"
            raise _invalid(message)
        self._batch[self._name] = self._tensor
        self._tensor = None


def split(tensors: Mapping[str, Array]) -> Iterator[pb.TensorPart]:
    """The parts of a batch of outputs, in order."""
    names = list(tensors)
    for name in names:
        tensor = tensors[name]
        # Not np.ascontiguousarray: it makes a scalar one-dimensional.
        contiguous = np.asarray(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")
        raw = contiguous.reshape(-1).view(np.uint8).data if contiguous.size else memoryview(b"")
        for offset in range(0, max(len(raw), 1), CHUNK_BYTES):
            last = offset + CHUNK_BYTES >= len(raw)
            yield pb.TensorPart(
                name=name,
                dtype=tensor.dtype.name if not offset else "",
                shape=tensor.shape if not offset else (),
                data=bytes(raw[offset : offset + CHUNK_BYTES]),
                last_of_tensor=last,
                last_of_batch=last and name == names[-1],
            )


def _invalid(message: str) -> AgentError:
    return AgentError(Fault.INVALID, message)


def _shown(name: str) -> str:
    return repr(one_line(name)[:80])
