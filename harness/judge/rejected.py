"""Which pairs of blocks count: those that nothing disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.record.timing import BlockRecord

#: With fewer clean pairs there is no interval, and nothing that a throttled board's figures could be judged by.
LEAST_CLEAN = 2


def clean_pairs(blocks: Sequence[BlockRecord]) -> list[BlockRecord]:
    """The blocks whose pair was not rejected: neither half of it is `disturbed`, in the order given."""
    rejected = rejected_pairs(blocks)
    return [block for block in blocks if block.pair not in rejected]


def rejected_pairs(blocks: Sequence[BlockRecord]) -> dict[int, tuple[str, ...]]:
    """Pairs with a disturbed half → the reasons of both halves, each once."""
    reasons: dict[int, dict[str, None]] = {}
    for block in blocks:
        if block.disturbed:
            reasons.setdefault(block.pair, {}).update(dict.fromkeys(block.disturbed))
    return {pair: tuple(told) for pair, told in reasons.items()}


def judged_blocks(blocks: Sequence[BlockRecord]) -> tuple[list[BlockRecord], str]:
    """The blocks that figures rest on, and what to say of them.

    Those of clean pairs; with fewer than two of these and some rejected, all of them, since a table that is silently
    empty tells less than one of a throttled board that says so.
    """
    rejected = rejected_pairs(blocks)
    clean = clean_pairs(blocks)
    if not rejected or len({block.pair for block in clean}) >= LEAST_CLEAN:
        return clean, ""
    why = "from rejected pairs too: fewer than two were clean"
    return [replace(block, disturbed=()) for block in blocks], why
