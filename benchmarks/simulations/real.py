"""A/A on this machine, really timed: `python -m benchmarks.simulations.real N` with a load generator beside it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks import document
from benchmarks.figures import Goal, Row
from benchmarks.simulations.load import load
from benchmarks.simulations.same_network import both_arms
from harness.judge.timing import speedup
from harness.record.figure import Network
from harness.record.timing import BlockRecord
from harness.runs.profile import QUICK

#: The quick profile's rule on blocks a third as long, so that a repetition takes about three seconds.
SHORTEST = replace(QUICK, name="shortest", block_s=0.05, warm_up_s=0.1, warm_up_cap_s=0.3, warm_up_window_s=0.03)


def run(repetitions: int) -> list[Row]:
    """Both kinds of A/A, `repetitions` of each, every one with freshly loaded networks."""
    return [_row(repetitions, one_process=True), _row(repetitions, one_process=False)]


def _row(repetitions: int, *, one_process: bool) -> Row:
    alarms = 0
    with load(), both_arms(one_process=one_process) as repeat:
        for _ in range(repetitions):
            alarms += is_false_alarm(repeat(SHORTEST))
    kind = "one process, as an A/A job has" if one_process else "a process each"
    return Row(
        f"A/A really timed under load, {kind}, quick rule on blocks of {SHORTEST.block_s:g} s: "
        "runs of 200 that call a difference",
        "runs",
        (200 * alarms / repetitions,),
        goal=Goal("ours", most=16),
        note=f"{alarms} of {repetitions}",
    )


def is_false_alarm(blocks: list[BlockRecord]) -> bool:
    """Whether the interval of the speed-up leaves out 1, although both arms are the same network."""
    assert {block.network for block in blocks} == set(Network) - {Network.RATIO}
    found = speedup(blocks, SHORTEST.rule())
    assert found is not None
    assert found.interval is not None
    return not found.interval.low <= 1 <= found.interval.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repetitions", type=int, nargs="?", default=80, metavar="N")
    for row in run(parser.parse_args().repetitions):
        print(document.line(row), flush=True)


if __name__ == "__main__":
    main()
