"""What passes between a calibration and its worker processes: a line of JSON, then plain arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def send(stream: IO[bytes], content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write one message.

    Raises:
        OSError: the other side is gone.
    """
    whole = {name: np.asarray(value, order="C") for name, value in (arrays or {}).items()}
    described = [[name, value.dtype.str, list(value.shape)] for name, value in whole.items()]
    stream.write(json.dumps({**content, "arrays": described}).encode() + b"\n")
    for value in whole.values():
        stream.write(value.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read one message; None when the other side has ended, even in the middle of one."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    content: dict[str, Any] = json.loads(line)
    arrays = {}
    for name, dtype, shape in content.pop("arrays"):
        value = np.empty(shape, np.dtype(dtype))
        view = value.reshape(-1).view(np.uint8).data
        read = 0
        while read < len(view):
            got = stream.readinto(view[read:])  # type: ignore[attr-defined] # BufferedReader has it
            if not got:
                return None
            read += got
        arrays[name] = value
    return content, arrays
