"""Which samples calibrate and which validate; and whether labels can be what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import UserError


@dataclass(frozen=True, slots=True)
class Split:
    """Two disjoint, sorted sets of sample indices."""

    calibration: tuple[int, ...]
    validation: tuple[int, ...]


def split(n: int, calibration: int | float, seed: int) -> Split:
    """Choose calibration samples at random; the rest validate.

    The order is that of sha256("seed:index"), so it is the same on every machine and with every version of numpy and
    Python, whose generators promise no such thing (NEP 19).

    Args:
        n: samples in the data set.
        calibration: a count, or (float) the fraction of `n`; at least one sample.
        seed: of the shuffle.

    Raises:
        UserError: nothing would be left to validate, or nothing to calibrate with.
    """
    count = calibration if isinstance(calibration, int) else max(1, round(n * calibration))
    if count < 1:
        raise UserError(f"data.calibration: {calibration} samples cannot calibrate; give at least 1")
    if count >= n:
        raise UserError(
            f"data.calibration: {count} of {n} samples leave none to validate with; lower it or give more data"
        )
    order = sorted(range(n), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return Split(tuple(sorted(order[:count])), tuple(sorted(order[count:])))


def check_labels(
    labels: npt.NDArray[np.int64], classes: int, *, ids: Sequence[str] | None = None, where: str = "labels"
) -> None:
    """Refuse labels that the network has no class for.

    Args:
        labels: int64 [N], label_offset included.
        classes: how many classes the network tells apart.
        ids: names of the samples, for the message.
        where: the file that holds the labels.

    Raises:
        UserError: names the first sample whose label is outside 0..classes-1.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if not outside.size:
        return
    first = int(outside[0])
    name = ids[first] if ids is not None else str(first)
    raise UserError(
        f"{where}: sample {name} has label {labels[first]}, outside the {classes} classes 0..{classes - 1} of the "
        f"network ({outside.size} of {labels.size} labels are); correct it, or shift all with data.label_offset"
    )
