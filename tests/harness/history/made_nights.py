"""Nights made for tests: real rows in a real store, with known truth, as runs would have left them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from harness.history.plan import NightPlan, load_night_plan
from harness.record.figure import Figure, Network, Source
from harness.record.target import TargetRecord
from harness.store import Store
from harness.store.nights import Night, Nights

FIRST = datetime(2026, 9, 1, 1, 0, tzinfo=UTC)
PLAN = "lab"


def latency(target: str, value: float, error: float, network: Network = Network.QUANTIZED) -> Figure:
    """A latency whose interval says that the standard error of its logarithm is `error` (20 blocks)."""
    half = 2.093 * error  # Student's t, 19 degrees of freedom
    ends = value * math.exp(-half), value * math.exp(half)
    return Figure(
        target, "generic", "cpu", network, "cpu", "latency_p50_ms", value, "ms", Source.MEASURED, *ends, 20
    )  # fmt: skip


def accuracy(target: str, value: float, n: int = 400) -> Figure:
    """An accuracy on n samples."""
    ends = value - 0.02, min(value + 0.02, 1.0)
    return Figure(
        target, "generic", "cpu", Network.QUANTIZED, "cpu", "accuracy_top1", value, "fraction", Source.MEASURED,
        *ends, n,
    )  # fmt: skip


def make_night(
    store: Store,
    number: int,
    figures: Mapping[str, list[Figure]],
    around: Callable[[str], Mapping[str, str]],
    plan: str = PLAN,
    out: Path = Path("out"),
) -> Night:
    """One night: a run a job, whose figures are given by job; `around`: target → surroundings; `out`: of its runs."""
    nights = Nights(store)
    began = FIRST + timedelta(days=number)
    entries: list[dict[str, object]] = []
    for job, rows in figures.items():
        run_id = f"{began:%Y%m%d-%H%M%S}-{job}"
        targets = sorted({row.target for row in rows})
        store.create_run(run_id, job_name=job, started=began.isoformat(), out=out, model_digest="0" * 64, request={})
        for target in targets:
            store.save_target(run_id, TargetRecord(target, "generic", "cpu", "local", Source.MEASURED, "done"))
            nights.save_surroundings(run_id, target, around(target))
        store.save_figures(run_id, rows)
        store.set_run_status(run_id, "done", began.isoformat())
        entries.append(
            {"job": job, "path": "job.yaml", "targets": targets, "profile": "quick", "folder": job, "run_id": run_id,
             "outcome": "done", "error": None, "statuses": {}, "code": 0}
        )  # fmt: skip
    night = Night(
        f"{began:%Y%m%d-%H%M%S}-{plan}", plan, "done", began.isoformat(),
        (began + timedelta(hours=2)).isoformat(), {"entries": entries, "new": 0, "code": 0},
    )  # fmt: skip
    nights.save(night)
    return night


def make_plan_file(folder: Path, more: str = "") -> NightPlan:
    """A plan whose jobs nobody runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "targets.yaml").write_text("targets:\n  this: {board: generic, environment: cpu, via: local}\n")
    (folder / "plan.yaml").write_text(f"name: {PLAN}\njobs: [job.yaml]\n{more}")
    return load_night_plan(folder / "plan.yaml")


def noise(seed: int, nights: int) -> tuple[np.ndarray, np.ndarray]:
    """(logarithms, standard errors) of quiet nights: se 0.5 to 0.75 %, and 0.5 % from night to night."""
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.005, 0.0075, nights)
    return rng.normal(scale=0.005, size=nights) + rng.normal(size=nights) * errors, errors
