"""Blocks to figures by hand, and a hostile board's blocks refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.errors import BadResult
from harness.judge.timing import block_medians_ms, check_blocks, network_timing, speedup
from harness.record.figure import Network
from harness.record.timing import BlockRecord

F, Q = Network.FLOAT, Network.QUANTIZED


def block(network: Network, pair: int, latency_ms: list[float], **changes: object) -> BlockRecord:
    total_s = sum(latency_ms) / 1e3
    plain = BlockRecord(
        network=network,
        pair=pair,
        latency_ns=tuple(round(ms * 1e6) for ms in latency_ms),
        started_unix_s=1000.0 + pair,
        duration_s=total_s * 1.001,
        batch_size=1,
        cpu_time_s=total_s * 2,
        peak_memory_bytes=50_000_000 + pair,
    )
    changed: BlockRecord = dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # any field, any hostile value
    return changed


def test_throughput_memory_and_cpu_by_hand() -> None:
    blocks = [block(F, 0, [2.0] * 50), block(F, 1, [8.0] * 50), block(Q, 0, [1.0] * 50)]
    timing = network_timing(blocks, F)
    assert timing is not None
    assert timing.samples_per_s.value == pytest.approx(math.sqrt(500 * 125))
    assert timing.peak_memory_bytes == 50_000_001
    assert timing.cpu_percent == pytest.approx(200 / 1.001)
    assert block_medians_ms(blocks, F) == [2.0, 8.0]
    assert network_timing([], F) is None


def test_batched_blocks_count_samples() -> None:
    timing = network_timing([block(F, 0, [4.0] * 50, batch_size=8)], F)
    assert timing is not None
    assert timing.samples_per_s.value == pytest.approx(2000)


def test_percentiles_use_every_sample_and_say_when_they_cannot() -> None:
    rng = np.random.default_rng(4)
    blocks = [block(F, b, list(rng.gamma(9, 0.2, 125))) for b in range(8)]
    timing = network_timing(blocks, F)
    assert timing is not None
    samples = np.sort(np.concatenate([b.latency_ns for b in blocks])) / 1e6
    p99, p50 = timing.percentile(0.99), timing.percentile(0.5)
    assert p99.value_ms == samples[989]
    assert p99.interval is None  # 125 iterations a block carry no p99
    assert p99.iterations == 1000
    assert p50.value_ms == pytest.approx(float(np.median(samples)), rel=0.01)
    assert p50.value_ms is not None
    assert p50.interval is not None
    assert p50.interval.low < p50.value_ms < p50.interval.high
    short = network_timing(blocks[:2], F)
    assert short is not None
    assert short.percentile(0.99).value_ms is None


def test_speedup_needs_whole_pairs() -> None:
    blocks = [block(F, 0, [2.0] * 9), block(Q, 0, [1.0] * 9), block(Q, 1, [1.0] * 9), block(F, 1, [8.0] * 9)]
    ratio = speedup([*blocks, block(F, 2, [100.0] * 9)])
    assert ratio is not None
    assert ratio.value == pytest.approx(4.0)  # sqrt(2 * 8); the third pair has no second half
    assert ratio.n == 2
    one = speedup(blocks[:2])
    assert one is not None
    assert (one.value, one.interval) == (2.0, None)
    assert speedup(blocks[:1]) is None
    with pytest.raises(ValueError, match="pair 0 has two"):
        speedup([blocks[0], blocks[0]])


@pytest.mark.parametrize(
    "changes",
    [
        {"latency_ns": ()},
        {"latency_ns": (1, -5)},
        {"latency_ns": (0,)},
        {"latency_ns": (10**18,)},
        {"duration_s": math.nan},
        {"duration_s": 0.001},
        {"cpu_time_s": -1.0},
        {"cpu_time_s": math.inf},
        {"peak_memory_bytes": -1},
        {"batch_size": 0},
    ],
)
def test_blocks_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    check_blocks("pi", [block(F, 0, [1.0] * 30)])
    with pytest.raises(BadResult, match="pi: timed block 0 of Floating-Point"):
        check_blocks("pi", [block(F, 0, [1.0] * 30, **changes)])
