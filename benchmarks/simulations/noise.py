"""Recorded noise, replayed: what the block medians of one network did on a machine under load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORDED = Path(__file__).parent / "noise.json"

#: Blocks that are drawn together: four ABBA rounds.
_STRETCH = 16

#: ln of block medians, in the order they were taken.
Blocks = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Noise:
    """Groups of consecutive blocks, each of a fresh pair of processes of the same network.

    Args:
        name: for a reader.
        groups: [blocks] each, in ABBA order.
        centred: the usual (median) difference between a group's two processes is taken out, which no timing of one pair
            of processes can tell from a difference of the networks.
    """

    name: str
    groups: tuple[Blocks, ...]
    centred: bool = True

    def run(self, rng: np.random.Generator, pairs: int) -> Blocks:
        """A run on one group's noise: stretches of four rounds, drawn with replacement (a moving-block bootstrap).

        A stretch keeps what outlasts a block. Which arm a disturbance hit is chance: stretches are swapped at random,
        so that the truth is 0 (with the processes' own difference left in, whole runs are).
        """
        group = self.groups[rng.integers(len(self.groups))]
        if self.centred:
            usual = float(np.median(ratios(group)))
            group = group - np.where(is_first_arm(len(group)), 0.5, -0.5) * usual
        count = -(-2 * pairs // _STRETCH)
        starts = 4 * rng.integers(len(group) // 4, size=count)
        stretches = [np.roll(group, -start)[:_STRETCH] for start in starts]
        swaps = rng.random(count) < 0.5 if self.centred else np.full(count, rng.random() < 0.5)
        parts = [swapped(one) if swap else one for one, swap in zip(stretches, swaps, strict=True)]
        return np.concatenate(parts)[: 2 * pairs]


def recorded(kind: str, *, centred: bool = True) -> Noise:
    """The noise in noise.json: `short` (0.25 s) or `long` (1 s) blocks."""
    stored = json.loads(RECORDED.read_text())[kind]
    groups = tuple(np.array(group) for group in stored["groups"])
    return Noise(f"recorded noise, {stored['block_s']:g} s blocks", groups, centred)


def is_first_arm(blocks: int) -> NDArray[np.bool_]:
    """Which places of the ABBA order belong to the first arm: 0 and 3 of every four."""
    place = np.arange(blocks) % 4
    return np.asarray((place == 0) | (place == 3), np.bool_)


def ratios(blocks: Blocks) -> Blocks:
    """ln(first arm / second arm) of each pair."""
    two = blocks.reshape(-1, 2)
    sign = np.where(np.arange(len(two)) % 2 == 0, 1.0, -1.0)
    return np.asarray(sign * (two[:, 0] - two[:, 1]), np.float64)


def swapped(blocks: Blocks) -> Blocks:
    """The same with the arms exchanged."""
    return np.asarray(blocks.reshape(-1, 2)[:, ::-1].ravel(), np.float64)


def normal(rng: np.random.Generator, pairs: int, spread: float) -> Blocks:
    """Independent normal noise whose pairs' log-ratios have the standard deviation `spread`."""
    return rng.normal(0, spread / np.sqrt(2), 2 * pairs)
