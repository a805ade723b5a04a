"""What the intervals of mAP and mIoU promise, put to the test, and what their bootstrap costs.

    python -m benchmarks metric_intervals --quick

Coverage: samples of images are drawn again and again from a made population of 20,000 whose mAP and mIoU are known;
how often does the paired bootstrap's interval hold the truth? Classes are of very different frequency, images of
different difficulty, and the quantized network is a little worse on each. Time: ours against pycocotools' own
accumulation, called once a resample on the same matches.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from pycocotools.cocoeval import COCOeval

from benchmarks.figures import Effort, Goal, Result, Row
from harness.judge.bootstrap import draws, paired_bootstrap
from harness.judge.metrics import Formula, Rows, formula_of
from harness.judge.metrics.coco import accumulated, matches

POPULATION = 20_000
CLASSES = 8
#: Class k is 1 / k as frequent as the first: 37 % to 5 % of the objects.
FREQUENCY = (1 / np.arange(1, CLASSES + 1)) / np.sum(1 / np.arange(1, CLASSES + 1))
#: In simulation; a published interval takes 2,000.
RESAMPLES = 1000
COVERS = Goal("ours", least=93, most=97)

Pair = tuple[Rows, Rows]


def run(effort: Effort) -> Result:
    """Coverage of both metrics on few and on more images, and the seconds of one paired bootstrap."""
    quick = effort.is_quick
    rows: list[Row] = []
    cases = (
        ("miou", segmented, ((40, 1000), (100, 1000))),
        ("map50", detected, ((100, 600), (400, 500))),
    )
    for name, make, sizes in cases:
        rng = np.random.default_rng(20_261_121)
        population = make(rng)
        for images, runs in sizes:
            rows += _coverage(name, population, images, 20 if quick else runs, rng)
    rows.append(_seconds(3 if quick else effort.repetitions, 100 if quick else 2000))
    return Result(tuple(rows))


def segmented(rng: np.random.Generator) -> Pair:
    """Images of one to three classes, whose pixels are partly taken for others."""
    counts = rng.integers(1, 4, POPULATION)
    owner = np.repeat(np.arange(POPULATION), counts)
    label = rng.choice(CLASSES, len(owner), p=FREQUENCY)
    pixels = rng.integers(200, 4000, len(owner))
    other = rng.choice(CLASSES, len(owner))
    base = rng.beta(1.5, 6, len(owner))
    made = []
    for loss in (0.0, 0.01):
        wrong = (pixels * np.clip(base + loss + rng.normal(0, 0.02, len(owner)), 0, 1)).astype(np.int64)
        columns = {
            "pairs.count": 2 * counts,
            "pairs.truth": np.repeat(label, 2),
            "pairs.predicted": np.column_stack([label, other]).ravel(),
            "pairs.pixels": np.column_stack([pixels - wrong, wrong]).ravel(),
        }
        made.append(Rows(columns))
    return made[0], made[1]


def detected(rng: np.random.Generator) -> Pair:
    """Images of up to five boxes and some false alarms; a box that is hard to see is missed and scored low."""
    boxes = rng.integers(0, 6, POPULATION)
    alarms = rng.poisson(4, POPULATION)
    owner, false_owner = (np.repeat(np.arange(POPULATION), count) for count in (boxes, alarms))
    label, false_label = (rng.choice(CLASSES, len(one), p=FREQUENCY) for one in (owner, false_owner))
    seen = rng.normal(0, 1, len(owner)) - rng.normal(0, 0.8, POPULATION)[owner]
    noise = rng.normal(-1.5, 1, len(false_owner))
    image = np.concatenate([owner, false_owner])
    order = np.argsort(image, kind="stable")
    made = []
    for loss in (0.0, 0.08):
        score = seen - loss + rng.normal(0, 0.2, len(owner))
        found = seen - loss + rng.normal(0, 0.2, len(owner)) > -1
        scores = np.concatenate([score + 1, noise + rng.normal(0, 0.2, len(noise))])
        columns = {
            "detections.count": boxes + alarms,
            "detections.class": np.concatenate([label, false_label])[order],
            "detections.score": scores[order],
            "detections.found": np.concatenate([found, np.zeros(len(noise), bool)])[order].astype(np.uint16),
            "detections.ignored": np.zeros(len(order), np.uint16),
            "boxes.count": boxes,
            "boxes.class": label,
            "boxes.counted": np.ones(len(label), np.uint8),
        }
        made.append(Rows(columns))
    return made[0], made[1]


def _coverage(name: str, population: Pair, images: int, runs: int, rng: np.random.Generator) -> list[Row]:
    formula = formula_of(name, population[0])
    first, second = (_exactly(formula, rows) for rows in population)
    truths = (first, second - first)
    covered = np.zeros(2, int)
    for number in range(runs):
        chosen = rng.integers(0, POPULATION, images).tolist()
        one, other = (rows.take(chosen) for rows in population)
        found = paired_bootstrap(formula, one, other, resamples=RESAMPLES, seed=number)
        for at, interval in enumerate((found.first, found.difference)):
            covered[at] += interval is not None and interval.low <= truths[at] <= interval.high
    what = ("one network", "the difference")
    note = f"{runs:,} runs of {RESAMPLES:,} resamples"
    return [
        Row(f"coverage: {name} of {images} images, {kind}", "%", (100 * count / runs,), goal=COVERS, note=note)
        for kind, count in zip(what, covered.tolist(), strict=True)
    ]


def _exactly(formula: Formula, rows: Rows) -> float:
    return float(formula.values(rows, np.ones((1, len(rows))))[0])


def _seconds(repetitions: int, resamples: int) -> Row:
    population = detected(np.random.default_rng(1))
    one, other = (rows.take(range(128)) for rows in population)
    formula = formula_of("map50", one)
    few = max(resamples // 100, 5)
    drawn = np.concatenate(list(draws(128, few)))

    matched = [matches(rows, range(CLASSES), [0]) for rows in (one, other)]

    def library() -> None:
        for weights in drawn:
            chosen = np.repeat(np.arange(128), weights.astype(int)).tolist()
            for known in matched:
                resampled = [known[128 * label + image] for label in range(CLASSES) for image in chosen]
                accumulated(COCOeval(iouType="bbox"), resampled, range(CLASSES), 128, [0])

    ours, theirs = [], []
    for _ in range(repetitions):
        ours.append(_timed(lambda: paired_bootstrap(formula, one, other, resamples=resamples)))
        theirs.append(_timed(library) * resamples / few)
    return Row(
        f"paired bootstrap of map50, 128 images, {resamples:,} resamples of both networks",
        "s",
        tuple(ours),
        "pycocotools' accumulate, once a resample",
        tuple(theirs),
        Goal("ratio", most=0.2),
        f"the peer's time is that of {few} resamples, times {resamples / few:g}",
    )


def _timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
