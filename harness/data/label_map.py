"""From the numbers that masks and boxes are stored with to the classes of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: What an unmapped number or a stored one may become instead of a class; pixels are not counted, boxes dropped.
IGNORE = "ignore"
#: In place of a class.
IGNORED = -1
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A job's `data.label_map`.

    Args:
        classes: (stored number, class) pairs; `IGNORED` for none.
        other: what every number not named becomes; None leaves them as they are.
    """

    classes: tuple[tuple[int, int], ...]
    other: int | None = None

    @classmethod
    def of(cls, section: Mapping[str | int, str | int]) -> LabelMap:
        """From the section of a job: {stored: class, …, other: class}, where a class may be `ignore`.

        Raises:
            ValueError: something that is neither a number nor one of the two words.
        """
        pairs: dict[int, int] = {}
        other = None
        for key, value in section.items():
            target = IGNORED if value == IGNORE else _number(value)
            if key == _OTHER:
                other = target
            else:
                pairs[_number(key)] = target
        return cls(tuple(sorted(pairs.items())), other)

    def as_json(self) -> dict[str, int | str]:
        """The section that means the same."""
        known = {str(stored): IGNORE if one == IGNORED else one for stored, one in self.classes}
        return known if self.other is None else known | {_OTHER: IGNORE if self.other == IGNORED else self.other}

    def apply(self, stored: NDArray[np.integer]) -> NDArray[np.int32]:
        """Classes of the same shape, int32; `IGNORED` where there is none."""
        result = stored.astype(np.int32) if self.other is None else np.full(stored.shape, self.other, np.int32)
        if not self.classes:
            return result
        keys, values = (np.array(column, np.int64) for column in zip(*self.classes, strict=True))
        at = np.searchsorted(keys, stored).clip(0, len(keys) - 1)
        return np.where(keys[at] == stored, values[at], result).astype(np.int32)


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no class; write stored: class, such as 1: 15, other: 0 or 0: ignore")
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"'{value}' is no class; write a whole number, `ignore`, or `other` as a key") from None
    if abs(number) > 2**31 - 1:
        raise ValueError(f"{number} is no class number")
    return number
