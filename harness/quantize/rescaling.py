"""How recovery scaled and shifted channels, kept beside the int8 network so that its tensors can be read as float ones.

Equalization multiplies each channel of a tensor, absorption then takes an amount out of it; the layers that read it
undo both. The function of the network stays, its tensors in between do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rescaling:
    """What became of a tensor's channels (axis 1): `rescaled = factor · original - offset`.

    Args:
        factor: per channel, positive.
        offset: per channel, in the rescaled tensor's units.
    """

    factor: FloatArray
    offset: FloatArray

    @staticmethod
    def none(channels: int) -> Rescaling:
        """Nothing happened."""
        return Rescaling(np.ones(channels), np.zeros(channels))

    def scaled(self, factor: FloatArray) -> Rescaling:
        """Multiplied once more."""
        return Rescaling(self.factor * factor, self.offset * factor)

    def lowered(self, amount: FloatArray) -> Rescaling:
        """With an amount taken out of each channel."""
        return Rescaling(self.factor, self.offset + amount)

    def applied(self, original: NDArray[Any]) -> NDArray[np.float32]:
        """The rescaled form of an original tensor, shape (N, channels, …)."""
        factor, offset = self._shaped(original)
        return np.asarray(original * factor - offset, np.float32)

    def undone(self, rescaled: NDArray[Any]) -> NDArray[np.float64]:
        """What a rescaled tensor, shape (N, channels, …), stands for."""
        factor, offset = self._shaped(rescaled)
        return np.asarray((rescaled.astype(np.float64) + offset) / factor)

    def _shaped(self, like: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        shape = (1, -1, *(1,) * (like.ndim - 2))
        return self.factor.reshape(shape), self.offset.reshape(shape)


Rescalings = Mapping[str, Rescaling]


def to_json(rescalings: Rescalings) -> list[dict[str, Any]]:
    """Plain JSON, floats to the last bit; the tensors of one link share an entry."""
    entries: dict[int, dict[str, Any]] = {}
    for tensor, found in rescalings.items():
        entry = entries.setdefault(
            id(found), {"tensors": [], "factor": found.factor.tolist(), "offset": found.offset.tolist()}
        )
        entry["tensors"].append(tensor)
    for entry in entries.values():
        if not any(entry["offset"]):
            del entry["offset"]
    return list(entries.values())


def from_json(entries: Iterable[Mapping[str, Any]]) -> dict[str, Rescaling]:
    """The value that `to_json` wrote."""
    found: dict[str, Rescaling] = {}
    for entry in entries:
        factor = np.asarray(entry["factor"], np.float64)
        offset = np.asarray(entry.get("offset", np.zeros(factor.shape)), np.float64)
        found |= dict.fromkeys(entry["tensors"], Rescaling(factor, offset))
    return found


def added(before: Rescalings, links: Iterable[tuple[Sequence[str], Rescaling]]) -> dict[str, Rescaling]:
    """The rescalings with those of some links' tensors replaced."""
    found = dict(before)
    for tensors, changed in links:
        found |= dict.fromkeys(tensors, changed)
    return found
