"""A load generator: processes that are busy and idle by turns, at seeded random: a machine noisy on purpose."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Mean length of a busy and of an idle stretch, s: long enough to fall across several blocks, short enough that a run
#: sees many of them.
BUSY_S, IDLE_S = 0.8, 1.2
#: Bytes that a busy process copies over and over: more than a last-level cache, so that memory is contended too.
COPIED_BYTES = 48_000_000


@contextmanager
def load(processes: int = 1, seed: int = 0) -> Iterator[None]:
    """`processes` generators beside what the caller measures; they end with the block."""
    command = [sys.executable, "-m", "benchmarks.simulations.load"]
    started = [subprocess.Popen([*command, str(seed + number)]) for number in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main(seed: int) -> None:
    """Be busy and idle by turns while the parent lives; half of the busy stretches compute, the others copy memory."""
    parent = os.getppid()
    rng = random.Random(seed)
    block = bytearray(COPIED_BYTES)
    while os.getppid() == parent:
        end = time.monotonic() + rng.expovariate(1 / BUSY_S)
        copying = rng.random() < 0.5
        number = 1
        while time.monotonic() < end:
            if copying:
                bytes(block)
            else:
                for _ in range(20_000):
                    number = number * 1_103_515_245 + 12_345 & 0x7FFF_FFFF
        time.sleep(rng.expovariate(1 / IDLE_S))


if __name__ == "__main__":
    main(int(sys.argv[1]))
