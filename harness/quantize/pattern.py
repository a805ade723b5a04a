"""How a value becomes a count: one table from which both histograms of a tensor are read.

For each sign a side of slots: 1 … 1023 hold values of magnitude [k·2^e, (k+1)·2^e), where 2^e is the width of a bin;
values below one bin are counted by their exponent instead (slot 1024 + the exponent field of float32), zeros in a
slot of their own. Bins of equal width and most-significant bits follow from it exactly, because powers of two are
edges of bins; so each value is counted once.
"""

from __future__ import annotations

#: Bins on each side of zero. 1024 positive bins keep 4 bins for each of the 256 levels of a full range.
HALF_BINS = 1024
#: Exponent fields of a float32.
EXPONENTS = 256
#: Slots for one sign: bins, exponents, zeros.
SIDE = HALF_BINS + EXPONENTS + 1
#: Slots of a tensor.
SLOTS = 2 * SIDE
#: Narrowest bin: its inverse is still a normal float32.
MIN_EXPONENT = -126
