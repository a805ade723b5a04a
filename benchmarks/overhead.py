"""What the host adds to a whole run: its wall time against the work that it ordered from the board.

The work is what cannot be saved: the timed blocks (by the board's clock), the warm-up, and each validation sample once
through each network at the latency the same run measured. Everything else is overhead: Python's start, calibration and
quantization, starting the agent, shipping, loading, the statistics, and publishing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Effort, Goal, Result, Row

REPOSITORY = Path(__file__).parents[1]
#: Good, a gate failed, inconclusive: the run was whole in each case.
WHOLE = (0, 1, 4)
RUNS = 2


def run(effort: Effort) -> Result:
    """Whole runs of the example jobs on this machine."""
    jobs = ["digits"]
    skipped: tuple[str, ...] = ()
    if (REPOSITORY.parent / "shared/data/imagenet500").is_dir():
        jobs.append("squeezenet")
    else:
        skipped = ("overhead of the SqueezeNet job: its images are not beside the repository",)
    profile = "quick" if effort.is_quick else "standard"
    return Result(tuple(_row(job, profile, 1 if effort.is_quick else RUNS) for job in jobs), skipped)


def _row(job: str, profile: str, runs: int) -> Row:
    pairs = [_whole_run(job, profile) for _ in range(runs)]
    return Row(
        figure=f"whole run of the {job} job on this machine, {profile} profile: wall time",
        unit="s",
        ours=tuple(wall for wall, _ in pairs),
        peer_name="blocks, warm-up and inference it ordered",
        peer=tuple(work for _, work in pairs),
        goal=Goal("ratio", most=1.15),
    )


def _whole_run(job: str, profile: str) -> tuple[float, float]:
    """(wall, ordered work) in seconds of one `quantrig run` with a results database and agent of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = [
            *(str(Path(sys.executable).parent / "quantrig"), "run", str(REPOSITORY / f"examples/{job}/job.yaml")),
            *("--lab", str(REPOSITORY / "targets.yaml"), "--targets", "this-machine", "--profile", profile),
            *("--out", str(out), "--store", f"sqlite:///{folder}/results.db"),
        ]
        started = time.perf_counter()
        finished = subprocess.run(command, check=False, capture_output=True, text=True)
        wall = time.perf_counter() - started
        if finished.returncode not in WHOLE:
            message = f"the {job} run ended with {finished.returncode}: {finished.stderr.strip()[-300:]}"
            raise RuntimeError(message)
        return wall, ordered_s(json.loads((out / "run.json").read_text()))


def ordered_s(record: dict[str, Any]) -> float:
    """Seconds of work on the board that the one target of a run was ordered to do."""
    (target,) = record["targets"]
    blocks = target["blocks"]
    warm_up_s = sum(loading["warm_up_s"] for loading in target["loadings"])
    inference_s = 0.0
    for network in {block["network"] for block in blocks}:
        latencies = [statistics.median(b["latency_ns"]) / b["batch_size"] for b in blocks if b["network"] == network]
        inference_s += record["samples"] * statistics.median(latencies) / 1e9
    return float(sum(block["duration_s"] for block in blocks) + warm_up_s + inference_s)
