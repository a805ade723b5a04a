"""The inner loops of calibration, compiled by Numba: one reading of a tensor gives its range, sums and histogram.

The machine code is kept in Numba's cache (beside this file, in the user's cache folder where that is read-only, or
where NUMBA_CACHE_DIR says) and loaded with this module, which takes half a second as other libraries do; the first
time of all it takes some seconds to compile. Where there is no place for it, each first use compiles.

Floats are compared as integers: with the lower 31 bits of negative ones flipped, the bit patterns of float32 order
like the numbers, NaN beyond both infinities. So a minimum neither depends on the order of the data nor hides a NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from harness.quantize.layout import Column
from harness.quantize.pattern import EXPONENTS, HALF_BINS, MIN_EXPONENT, SIDE, SLOTS

Floats = NDArray[np.float32]
Bits = NDArray[np.int32]

#: Columns of the table that says where tensors lie; plain integers, which is what the compiler can take in.
_TENSOR, _START, _OUTER, _GROUPS, _ROWS, _LANES, _CHANNELS, _SUMS = (int(column) for column in Column)
_I32 = np.int32
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
#: The key of minus infinity.
_MINUS_INFINITY = np.int32(-0x7F800001)
#: Values whose bins are computed at a stretch, then counted: they and their bins stay in the first-level cache.
_PIECE = 1024
#: Lanes of a vector sum: a multiple of every processor's vector and of both of ONNX Runtime's channel blocks.
_WIDE = 16
#: Values read at a stretch: they stay in a cache for the sums, which are in float32 as a tree with at most 16 + 6
#: additions to a leaf.
_STRETCH = 16384
#: Pixels of a channel below which its sum is a plain loop.
_SHORT = 256
#: Of the float32 pattern: the exponent's upper five bits, the class of a sum (see `ChannelSums`).
_CLASS_SHIFT = np.int32(26)

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Functions that had to be compiled without a place to keep the result.
_uncached: list[str] = []


def _compiled(function: _Function, fastmath: set[str] | bool = False) -> _Function:
    def compiled(*, cache: bool) -> object:
        # Indices come from data that were measured before, so bounds are not checked again.
        decorator = numba.njit(cache=cache, nogil=True, boundscheck=False, error_model="numpy", fastmath=fastmath)
        return decorator(function)

    try:
        return cast("_Function", compiled(cache=True))
    except RuntimeError:  # neither this folder nor the user's cache folder can be written to
        _uncached.append(function.__name__)
        return cast("_Function", compiled(cache=False))


def _jit(function: _Function) -> _Function:
    return _compiled(function)


def _jit_sums(function: _Function) -> _Function:
    # Sums may be taken in any order the vectors like; it is the same for the same data on the same machine.
    return _compiled(function, {"reassoc", "nsz", "contract"})


@_jit
def _extremes(bits: Bits, keys: Bits) -> None:
    """Widen `keys`, (lowest, highest), by a run of values."""
    low, high = keys[0], keys[1]
    for index in range(bits.size):
        pattern = bits[index]
        key = _I32(pattern ^ _I32((pattern >> _I32(31)) & _MAGNITUDE))
        low = _I32(min(low, key))
        high = _I32(max(high, key))
    keys[0], keys[1] = low, high


@_jit
def _extremes_of_lanes(bits: Bits, lows: Bits, highs: Bits) -> None:
    """Lowest and highest key of the values at i, i + 16, i + 32, … in the first 16 places."""
    width = _folding_width(bits.size)
    lows[:width] = 2147483647
    highs[:width] = -2147483648
    for start in range(0, bits.size, width):
        part = bits[start : start + width]
        for index in range(part.size):
            pattern = part[index]
            key = _I32(pattern ^ _I32((pattern >> _I32(31)) & _MAGNITUDE))
            lows[index] = _I32(min(lows[index], key))
            highs[index] = _I32(max(highs[index], key))
    while width > _WIDE:
        width //= 2
        upper_lows, upper_highs = lows[width : 2 * width], highs[width : 2 * width]
        for index in range(upper_lows.size):
            lows[index] = _I32(min(lows[index], upper_lows[index]))
            highs[index] = _I32(max(highs[index], upper_highs[index]))


@_jit
def _folding_width(size: int) -> int:
    """16 times a power of two, no wider than the working arrays: halves fold onto each other down to 16 lanes."""
    width = _WIDE
    while 8 * width < size and width < _PIECE:
        width *= 2
    return width


@_jit_sums
def _add_wide(values: Floats, single: Floats, sums: NDArray[np.float64]) -> None:
    """Add the values at i, i + 16, i + 32, … to sums[i]; among themselves in float32."""
    width = _folding_width(values.size)
    single[:width] = 0.0
    for offset in range(0, values.size, width):
        part = values[offset : offset + width]
        for index in range(part.size):
            single[index] += part[index]
    while width > _WIDE:
        width //= 2
        upper = single[width : 2 * width]
        for index in range(upper.size):
            single[index] += upper[index]
    for lane in range(_WIDE):
        sums[lane] += single[lane]


@_jit_sums
def _short_sum(values: Floats) -> float:
    """Sum of a run too short for vectors to pay."""
    total = np.float32(0)
    for index in range(values.size):
        total += values[index]
    return float(total)


@_jit_sums
def _row_sums(values: Floats, sums: NDArray[np.float64]) -> None:
    """Add each row of `sums.size` values to `sums`."""
    lanes = sums.size
    for row in range(values.size // lanes):
        part = values[row * lanes : (row + 1) * lanes]
        for lane in range(lanes):
            sums[lane] += part[lane]


@_jit
def _bins(values: Floats, bits: Bits, factor: np.float32, table: Bits, slots: Bits) -> None:
    """Count a run of finite values below 1024 / factor; see `pattern` for the slots."""
    for start in range(0, values.size, _PIECE):
        piece, patterns = values[start : start + _PIECE], bits[start : start + _PIECE]
        for index in range(piece.size):
            pattern = patterns[index]
            magnitude = _I32(pattern & _MAGNITUDE)
            # A power of two scales exactly; below one bin the product may underflow, and is 0 all the same.
            slot = _I32(abs(piece[index]) * factor)
            slot = slot if slot > _I32(0) else _I32(_I32(HALF_BINS) + _I32(magnitude >> _I32(23)))
            slot = _I32(HALF_BINS + EXPONENTS) if magnitude == _I32(0) else slot
            slots[index] = _I32(slot + _I32((pattern >> _I32(31)) & _I32(SIDE)))
        # Neighbours are often alike: four tables, so that one count need not wait for the one before.
        quarter = piece.size >> 2
        for index in range(quarter):
            table[0, np.uint64(slots[4 * index])] += 1
            table[1, np.uint64(slots[4 * index + 1])] += 1
            table[2, np.uint64(slots[4 * index + 2])] += 1
            table[3, np.uint64(slots[4 * index + 3])] += 1
        for index in range(4 * quarter, piece.size):
            table[0, np.uint64(slots[index])] += 1


@_jit
def _widen(table: Bits, exponent: int, steps: int) -> None:
    """Merge bins of width 2^exponent into bins 2^steps as wide; what falls below one bin goes to its exponent's."""
    for copy in range(table.shape[0]):
        for side in range(0, SLOTS, SIDE):
            bit, top = 0, 2
            for slot in range(1, HALF_BINS):
                if slot == top:
                    bit, top = bit + 1, 2 * top
                count = table[copy, side + slot]
                if count:
                    table[copy, side + slot] = 0
                    wider = slot >> min(steps, 31)
                    table[copy, side + (wider if wider else HALF_BINS + bit + exponent + 127)] += count


@_jit
def _exponent_for(keys: Bits) -> int:
    """Of the narrowest bins that hold the extremes; below MIN_EXPONENT when there are only zeros."""
    low = _I32(_I32(keys[0] ^ _MAGNITUDE) & _MAGNITUDE) if keys[0] < 0 else _I32(0)
    magnitude = max(keys[1], low)
    exponent = int(np.int64(magnitude) >> 23) - 136
    return max(exponent, MIN_EXPONENT) if magnitude > 0 else MIN_EXPONENT - 1


@_jit
def _count(
    values: Floats,
    bits: Bits,
    place: NDArray[np.int64],
    keys: Bits,
    filling: Bits,
    exponents: NDArray[np.int64],
    table: Bits,
    slots: Bits,
) -> None:
    """Histogram of one tensor whose extremes, `keys`, are known and finite; `filling` is what its filling holds."""
    tensor, start = place[_TENSOR], place[_START]
    needed = _exponent_for(keys)
    if needed > exponents[tensor]:
        if exponents[tensor] >= MIN_EXPONENT:
            _widen(table, exponents[tensor], needed - exponents[tensor])
        exponents[tensor] = needed
    exponent = exponents[tensor]
    factor = np.float32(2.0 ** -max(exponent, MIN_EXPONENT))
    lanes, rows, channels = place[_LANES], place[_ROWS], place[_CHANNELS]
    blocks, size = place[_OUTER] * place[_GROUPS], rows * lanes
    filled = place[_GROUPS] * lanes - channels
    if filled == 0 or (filling[0] == filling[1] and _exponent_for(filling) <= exponent):
        stop = start + blocks * size
        _bins(values[start:stop], bits[start:stop], factor, table, slots)
        if filled:
            # The filling is one number throughout: it was counted too, and is taken out again.
            before = table[0].copy()
            one = np.empty(1, np.int32)
            one[0] = _I32(filling[0] ^ _I32((filling[0] >> _I32(31)) & _MAGNITUDE))
            _bins(one.view(np.float32), one, factor, table, slots)
            for slot in range(SLOTS):
                table[0, slot] = before[slot] - (table[0, slot] - before[slot]) * filled * rows * place[_OUTER]
        return
    for block in range(blocks):
        valid = min(lanes, channels - (block % place[_GROUPS]) * lanes)
        for row in range(rows):
            first = start + block * size + row * lanes
            _bins(values[first : first + valid], bits[first : first + valid], factor, table, slots)


@_jit
def _measure(
    values: Floats, bits: Bits, place: NDArray[np.int64], keys: Bits, filling: Bits, totals: NDArray[np.float64]
) -> None:
    """Keys of a tensor's lowest and highest value, those of its filling, and its channel sums unless `totals` is empty.

    A stretch is read from memory once: for the sums it lies in a cache.
    """
    keys[0], keys[1] = 2147483647, -2147483648
    filling[0], filling[1] = 2147483647, -2147483648
    wide, single = np.empty(_WIDE, np.float64), np.empty(_PIECE, np.float32)
    lows, highs = np.empty(_PIECE, np.int32), np.empty(_PIECE, np.int32)
    lanes, rows, groups, channels = place[_LANES], place[_ROWS], place[_GROUPS], place[_CHANNELS]
    filled_up = groups * lanes > channels
    size = rows * lanes
    for block in range(place[_OUTER] * groups):
        first = (block % groups) * lanes
        start = place[_START] + block * size
        wide[:] = 0.0
        for at in range(start, start + size, _STRETCH):
            stop = min(at + _STRETCH, start + size)
            if filled_up:
                _extremes_of_lanes(bits[at:stop], lows, highs)
                for lane in range(_WIDE):
                    into = keys if first + lane % lanes < channels else filling
                    into[0] = min(into[0], lows[lane])
                    into[1] = max(into[1], highs[lane])
            else:
                _extremes(bits[at:stop], keys)
            if totals.size and _WIDE % lanes == 0:
                if lanes == 1 and rows <= _SHORT:
                    totals[first] += _short_sum(values[at:stop])
                else:
                    _add_wide(values[at:stop], single, wide)
        if totals.size:
            if _WIDE % lanes:
                _row_sums(values[start : start + size], totals[first : first + lanes])
            else:
                for lane in range(_WIDE):
                    totals[first + lane % lanes] += wide[lane]


@_jit
def _classify(totals: NDArray[np.float64], first: int, channels: int, sums: NDArray[np.float64]) -> None:
    """Add the channel sums of one tensor to the classes of `ChannelSums`."""
    single = np.empty(1, np.float32)
    pattern = single.view(np.int32)
    for channel in range(channels):
        # Rounded to 24 bits, sums of one class add up exactly.
        single[0] = totals[channel]
        sums[(pattern[0] >> _CLASS_SHIFT) & _I32(31), first + channel] += single[0]


@_jit
def count_values(
    values: Floats,
    places: NDArray[np.int64],
    extremes: Bits,
    exponents: NDArray[np.int64],
    tables: Bits,
    sums: NDArray[np.float64],
) -> int:
    """Count the tensors of one pass.

    Args:
        values: shape (n,): where they lie.
        places: shape (tensors, 8): `layout.Column` each.
        extremes: shape (tensors, 2): keys of the lowest and highest value so far; widened.
        exponents: shape (tensors,): widths of the bins so far.
        tables: shape (tensors, 4, SLOTS): counts so far; (0, 4, SLOTS) when none are wanted.
        sums: shape (32, channels): channel sums so far.

    Returns:
        the row of the first tensor with NaN or infinity, of which nothing was counted; -1 when all are finite.
    """
    bits = values.view(np.int32)
    slots = np.empty(_PIECE, np.int32)
    keys, filling = np.empty(2, np.int32), np.empty(2, np.int32)
    for row in range(places.shape[0]):
        place = places[row]
        tensor = place[_TENSOR]
        if place[_OUTER] * place[_GROUPS] * place[_ROWS] * place[_LANES] == 0:
            continue
        totals = np.zeros(place[_GROUPS] * place[_LANES] if place[_SUMS] >= 0 else 0, np.float64)
        _measure(values, bits, place, keys, filling, totals)
        if keys[0] <= _MINUS_INFINITY or keys[1] >= _INFINITY:
            return row
        extremes[tensor, 0] = min(extremes[tensor, 0], keys[0])
        extremes[tensor, 1] = max(extremes[tensor, 1], keys[1])
        if place[_SUMS] >= 0:
            _classify(totals, place[_SUMS], place[_CHANNELS], sums)
        if tables.shape[0]:
            _count(values, bits, place, keys, filling, exponents, tables[tensor], slots)
    return -1


def compile_all() -> None:
    """Load or compile every kernel, so that what follows can be timed."""
    places: NDArray[Any] = np.array([[0, 0, 1, 1, 4, 1, 1, 0]], np.int64)
    count_values(
        np.ones(4, np.float32),
        places,
        np.zeros((1, 2), np.int32),
        np.full(1, MIN_EXPONENT - 1, np.int64),
        np.zeros((1, 4, SLOTS), np.int32),
        np.zeros((32, 1), np.float64),
    )


if not _uncached:
    compile_all()
