"""`python -m benchmarks.simulations.record OUT.json`: noise to replay, one network timed against itself under load.

Every group is a fresh pair of processes; a group's blocks are in the order they were taken (ABBA). Kept of each block:
ln of its p50, p90 and p99 in ns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import numpy as np

from benchmarks.simulations.load import load
from benchmarks.simulations.same_network import both_arms
from harness.record.timing import BlockRecord
from harness.runs.profile import Profile


def fixed(block_s: float, pairs: int) -> Profile:
    """A profile that takes `pairs` pairs whatever they say."""
    return Profile("recording", block_s, 30, pairs, pairs, 1e-9, 0.3, 1.0, 0.1, 0.05)


def summary(block: BlockRecord) -> list[float]:
    """The ln of p50, p90 and p99."""
    return [round(float(value), 5) for value in np.log(np.quantile(block.latency_ns, (0.5, 0.9, 0.99)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--block-s", type=float, default=0.25)
    parser.add_argument("--quiet", action="store_true", help="no load beside it")
    parser.add_argument("--raw", type=int, default=0, help="keep every latency of so many blocks of the last group")
    given = parser.parse_args()
    groups, raw = [], []
    with contextlib.nullcontext() if given.quiet else load(), both_arms() as repeat:
        for _ in range(given.groups):
            blocks = repeat(fixed(given.block_s, given.pairs))
            groups.append([[block.network.name, *summary(block)] for block in blocks])
            raw = [[round(ns / 1000, 1) for ns in block.latency_ns] for block in blocks[: given.raw]]
            given.out.write_text(json.dumps({"block_s": given.block_s, "groups": groups, "raw_us": raw}) + "\n")


if __name__ == "__main__":
    main()
