"""Which of a quantized network's notes a reader of its figures must see beside every figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.record.target import TargetRecord

#: What the quantizer says of networks whose boards round differently from ONNX Runtime; no longer so once lowered.
STANDS_IN = "QDQ arithmetic, not bit-exact"
#: How the quantizer arrived at its scales: of interest where quantization is described, no caveat of a figure. Listed
#: by exclusion, so that a note we do not know is shown rather than hidden.
_HOW_MADE = re.compile(
    r"method \S+: best output SQNR |analytic bias correction: |[\w-]+: \S+ -> \S+ dB, (?:not )?kept\b"
)


def caveats(notes: Iterable[str]) -> tuple[str, ...]:
    """The notes that limit what a figure means ("QDQ arithmetic, not bit-exact", "the network stays float")."""
    return tuple(note for note in notes if not _HOW_MADE.match(note))


def target_caveats(record: TargetRecord) -> tuple[str, ...]:
    """Those of a target: where its own arithmetic was run, what that claims takes the place of `STANDS_IN`."""
    notes = caveats(record.quantized.notes) if record.quantized else ()
    if record.lowered is None:
        return notes
    return (record.lowered.claim, *(note for note in notes if note != STANDS_IN))


def how_made(notes: Iterable[str]) -> tuple[str, ...]:
    """The others: how ranges and biases were chosen."""
    return tuple(note for note in notes if _HOW_MADE.match(note))
