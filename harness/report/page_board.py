"""Where a run's figures came from, board by board: its clock, its settings, its rescues, what it says of itself."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge.clocks import tick_ns
from harness.record.run import RunRecord
from harness.record.target import RecoveryStep, SettingRecord, TargetRecord
from harness.record.timing import BlockRecord
from harness.report import text
from harness.report.chart import boards_of
from harness.report.flat import flatten


@dataclass(frozen=True, slots=True)
class BoardView:
    """One board; the settings of a sweep share it.

    Args:
        settings: what was asked of it while it was timed, before, during, after.
        mended: what was done when it was lost, step by step.
        facts: its own description.
    """

    number: int
    name: str
    settings: tuple[tuple[str, ...], ...]
    mended: tuple[tuple[str, ...], ...]
    facts: tuple[tuple[str, str], ...]


def board_views(record: RunRecord) -> list[BoardView]:
    """Every board that has something to tell."""
    found = [_view(number, name, targets) for number, (name, targets) in enumerate(boards_of(record.targets), start=1)]
    return [view for view in found if view.settings or view.mended or view.facts]


def _view(number: int, name: str, targets: Sequence[TargetRecord]) -> BoardView:
    described = next((target.description for target in targets if target.description), {})
    return BoardView(
        number,
        name,
        tuple(dict.fromkeys(_setting_cells(one) for target in targets for one in target.settings)),
        tuple(dict.fromkeys(_recovery_cells(step) for target in targets for step in target.recovery)),
        tuple(flatten(described)),
    )


def clock_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """(target, clock, resolution, smallest step, that step as a share of the shortest latency) of each timed target."""
    found: list[tuple[str, ...]] = []
    for target in record.targets:
        blocks = [block for block in target.blocks if block.clock]
        if not blocks:
            continue
        shares = [100 * step / middle for block in blocks if (step := tick_ns(block)) and (middle := _median_ns(block))]
        found.append(
            (
                target.name,
                " / ".join(dict.fromkeys(block.clock for block in blocks)),
                _ns([block.clock_resolution_ns for block in blocks]),
                _ns([block.clock_tick_ns for block in blocks]),
                f"{text.significant(max(shares), 2)} %" if shares else text.MISSING,
            )
        )
    return found


def _median_ns(block: BlockRecord) -> float:
    ordered = sorted(block.latency_ns)
    return float(ordered[len(ordered) // 2]) if ordered else 0.0


def _ns(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return f"{text.significant(max(known))} ns" if known else text.MISSING


def _setting_cells(one: SettingRecord) -> tuple[str, ...]:
    after = one.after if one.after is not None else "not known"
    cells = (one.asked, one.before, one.during, after)
    return one.name, *(cell or text.MISSING for cell in cells), one.problem


def _recovery_cells(step: RecoveryStep) -> tuple[str, ...]:
    began = dt.datetime.fromtimestamp(step.began_unix_s, dt.UTC).strftime("%H:%M:%S")
    seconds = f"{step.seconds:.1f} s" if step.outcome != "skipped" else text.MISSING
    return step.name, began, seconds, step.outcome, step.detail
