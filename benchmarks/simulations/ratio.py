"""The ratio of two networks: false alarms, power, drift, coverage; beside sequential means on the same noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from benchmarks.figures import Goal, Row
from benchmarks.simulations.noise import Blocks, Noise, normal, ratios, recorded
from harness.judge.statistics import t_quantile
from harness.judge.stopping import half_width, rounds, rounds_needed
from harness.record.timing import StoppingRule
from harness.runs.profile import QUICK, STANDARD

PEER = "sequential repetitions and a U test (as Google Benchmark's compare.py)"
#: A band for 95 % that simulation error of some thousand runs does not leave.
COVERS = Goal("ours", least=93, most=97)

Take = Callable[[int], Blocks]


def settle(rule: StoppingRule, logs: Blocks) -> tuple[float, float, int]:
    """(mean, half-width, rounds) as the product would come to: the rule's own functions on the pairs' log-ratios."""
    every = rounds(dict(enumerate(logs.tolist())))
    count = rule.first_stage
    while (needed := rounds_needed(rule, every[:count])) > count:
        count = needed if count == rule.first_stage else count + 1
    return float(np.mean(every[:count])), half_width(every[:count], rule.first_stage), count


def sequential(blocks: Blocks, shift: float) -> tuple[float, bool]:
    """First one arm, then the other: (ln of the ratio of the means, whether a U test at 5 % calls a difference).

    Google Benchmark repeats one benchmark after the other; its compare.py puts a two-sided Mann-Whitney U test on the
    repetitions. A block's median stands for a repetition here, which is kinder to it than the mean would be.
    """
    half = len(blocks) // 2
    first, second = np.exp(blocks[:half]), np.exp(blocks[half:] + shift)
    called = bool(stats.mannwhitneyu(first, second).pvalue < 0.05)
    return float(np.log(second.mean() / first.mean())), called


def run(runs: int) -> list[Row]:
    """All of it; `runs` of each kind."""
    rng = np.random.default_rng(20_261_121)
    short, long = recorded("short"), recorded("long")
    rows = [
        _false_alarms(rng, runs, "quick", QUICK.rule(), short),
        _false_alarms(rng, runs, "standard", STANDARD.rule(), long),
        _false_alarms(rng, runs, "quick", QUICK.rule(), recorded("short", centred=False)),
        _power(runs, "normal noise, 3 % a pair", lambda n: normal(rng, n, 0.03)),
        _power(runs, "normal noise, 1 % a pair", lambda n: normal(rng, n, 0.01)),
        _power(runs, long.name, lambda n: long.run(rng, n)),
        _power(runs, short.name, lambda n: short.run(rng, n)),
        _drift(rng, runs, short),
    ]
    for spread in (0.01, 0.03, 0.06):
        rows.append(_coverage(runs, f"normal noise, {spread:.0%} a pair", lambda n, s=spread: normal(rng, n, s)))  # type: ignore[misc]
    rows += [_coverage(runs, noise.name, lambda n, noise=noise: noise.run(rng, n)) for noise in (short, long)]  # type: ignore[misc]
    rows.append(_optional_stopping(rng, runs))
    return rows


def _false_alarms(rng: np.random.Generator, runs: int, name: str, rule: StoppingRule, noise: Noise) -> Row:
    ours = theirs = 0
    for _ in range(runs):
        blocks = noise.run(rng, 2 * rule.most_rounds)
        mean, half, count = settle(rule, ratios(blocks))
        ours += abs(mean) > half
        theirs += sequential(blocks[: 4 * count], 0.0)[1]
    kind = "" if noise.centred else ", two processes that differ"
    return Row(
        f"A/A, {noise.name}{kind}, {name} profile: runs of 200 that call a difference",
        "runs",
        (200 * ours / runs,),
        PEER,
        (200 * theirs / runs,),
        Goal("ours", most=16) if noise.centred else None,
        f"{runs:,} runs",
    )


def _power(runs: int, name: str, take: Take) -> Row:
    rule, slower = STANDARD.rule(), np.log(1.03)
    ours = theirs = 0
    pairs = []
    for _ in range(runs):
        blocks = take(2 * rule.most_rounds)
        mean, half, count = settle(rule, ratios(blocks) - slower)
        ours += mean + half < 0  # the whole interval of float / int8 lies below 1
        ratio, called = sequential(blocks[: 4 * count], slower)
        theirs += called and ratio > 0
        pairs.append(2 * count)
    return Row(
        f"power, {name}, standard profile: int8 slowed by 3 % is called slower",
        "%",
        (100 * ours / runs,),
        PEER,
        (100 * theirs / runs,),
        Goal("ours", least=95),
        f"{np.mean(pairs):.0f} pairs on average, {runs:,} runs",
    )


def _drift(rng: np.random.Generator, runs: int, noise: Noise) -> Row:
    """Everything becomes 10 % slower, linearly, within a run; against the same noise without."""
    rule = STANDARD.rule()
    ours, theirs = [], []
    for _ in range(runs):
        blocks = noise.run(rng, 2 * rule.most_rounds)
        count = settle(rule, ratios(blocks))[2]
        still = blocks[: 4 * count]
        drifting = still + np.log1p(np.linspace(0, 0.10, len(still)))
        ours.append(float(np.mean(ratios(drifting)) - np.mean(ratios(still))))
        theirs.append(sequential(drifting, 0.0)[0] - sequential(still, 0.0)[0])
    return Row(
        "drift, everything 10 % slower by the end of a run, standard profile: bias of the ratio",
        "%",
        (100 * abs(float(np.expm1(np.mean(ours)))),),
        PEER,
        (100 * abs(float(np.expm1(np.mean(theirs)))),),
        Goal("ours", most=0.2),
        f"{runs:,} runs",
    )


def _coverage(runs: int, name: str, take: Take) -> Row:
    rule = STANDARD.rule()
    covered = 0
    pairs = []
    for _ in range(runs):
        mean, half, count = settle(rule, ratios(take(2 * rule.most_rounds)))
        covered += abs(mean) <= half
        pairs.append(2 * count)
    return Row(
        f"coverage of the ratio's interval, {name}, standard profile",
        "%",
        (100 * covered / runs,),
        goal=COVERS,
        note=f"{np.mean(pairs):.0f} pairs on average, {runs:,} runs",
    )


def _optional_stopping(rng: np.random.Generator, runs: int) -> Row:
    """The rule that this one replaced, at the same goal: stop as soon as Student's interval is narrow enough."""
    goal, least, most = STANDARD.half_width, 4, STANDARD.max_pairs
    rule = STANDARD.rule()
    ours = theirs = 0
    for _ in range(runs):
        logs = ratios(normal(rng, most, 0.03))
        mean, half, _ = settle(rule, logs)
        ours += abs(mean) <= half
        for n in range(least, most + 1):
            half = t_quantile(n) * float(np.std(logs[:n], ddof=1)) / np.sqrt(n)
            if half <= goal or n == most:
                theirs += abs(float(np.mean(logs[:n]))) <= half
                break
    return Row(
        "coverage of the ratio's interval, normal noise, 3 % a pair: two stages against looking after every pair",
        "%",
        (100 * ours / runs,),
        "stop when the interval is narrow, from 4 pairs on",
        (100 * theirs / runs,),
        COVERS,
        f"{runs:,} runs",
    )
