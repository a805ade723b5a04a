"""Checks that keep values true on their way into a network's dtype."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.data.batch import Array
from harness.errors import UserError


def require_finite(x: Array, names: Sequence[str], what: str) -> None:
    """Refuse NaN and infinity; names the first sample that has one.

    Args:
        x: any numbers, first axis = samples.
        names: of the samples.
        what: the input's name.
    """
    if x.dtype.kind != "f" or np.isfinite(x).all():
        return
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    first = int(np.flatnonzero(bad)[0])
    raise UserError(f"{names[first]}: input '{what}' holds NaN or infinity; correct or remove the sample")


def as_dtype(x: Array, dtype: np.dtype[np.generic], names: Sequence[str], what: str) -> Array:
    """Numbers as `dtype`, where that changes no value (a float may lose precision, not its range).

    Args:
        x: numbers or bools, first axis = samples.
        dtype: the network's.
        names: of the samples.
        what: the input's name.

    Raises:
        UserError: not numbers, or values that `dtype` cannot hold.
    """
    if x.dtype == dtype:
        return x
    if x.dtype.kind not in "fiub":
        raise UserError(f"input '{what}': values of type {x.dtype} where the network takes {dtype}; give numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        cast: npt.NDArray[np.generic] = x.astype(dtype)
    kept = np.isfinite(cast) if dtype.kind == "f" else cast == x
    if x.dtype.kind == "f" and dtype.kind == "f":
        kept = kept | ~np.isfinite(x)
    if not np.all(kept):
        bad = ~np.asarray(kept).reshape(len(x), -1).all(axis=1)
        first = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{names[first]}: input '{what}' holds values that {dtype} cannot; "
            "round or scale them (`preprocess: {scale: …}`) or correct the sample"
        )
    return cast
