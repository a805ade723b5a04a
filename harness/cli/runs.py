"""Commands about whole runs: demo, init, run, resume, runs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Brief, Budget, Json, Lab, Out, ProfileName, StoreUrl, Targets, Verbose, names
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.runs.engine import Run
    from harness.runs.plan import Plan


def demo(
    out: Out = None,
    profile: ProfileName = "quick",
    targets: Targets = None,
    as_json: Json = False,
    verbose: Verbose = False,
    store: StoreUrl = None,
) -> int:
    """The main job on the embedded default: real data, this machine and three emulated boards, a published table."""
    from harness.demo import JOB, LAB

    return _run(
        JOB,
        LAB,
        targets,
        out=out,
        profile=profile,
        split="validation",
        as_json=as_json,
        store_url=store,
        verbose=verbose,
    )


def run(
    job: Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.yaml")],
    lab: Lab = None,
    targets: Targets = None,
    out: Out = None,
    split: Annotated[
        str, typer.Option("--split", help="'validation' (what calibration leaves) or 'all'.")
    ] = "validation",
    profile: ProfileName = "standard",
    budget: Budget = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", help="Measure timed targets at each of these batch sizes.", metavar="1,4,16"),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option("--threads", help="And with each of these numbers of threads.", metavar="1,4"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and an estimate; touch no board.")] = False,
    diagnose: Annotated[
        bool,
        typer.Option("--diagnose", help="Then compare each board with the reference, layer by layer: diagnosis.html."),
    ] = False,
    diagnose_samples: Annotated[
        int, typer.Option("--diagnose-samples", min=1, help="How many validation samples that takes.", metavar="N")
    ] = 4,
    as_json: Json = False,
    brief: Brief = False,
    store: StoreUrl = None,
) -> int:
    """Quantize, ship, measure, judge, publish."""
    return _run(
        job,
        lab,
        targets,
        out=out,
        profile=profile,
        budget_s=budget,
        batch=batch,
        threads=threads,
        split=split,
        dry=dry_run,
        as_json=as_json,
        store_url=store,
        verbose=not brief,
        diagnosed_samples=diagnose_samples if diagnose else 0,
    )


def _run(
    job_path: Path,
    lab_path: Path | None,
    targets: str | None,
    *,
    out: Path | None,
    profile: str,
    split: str,
    as_json: bool,
    store_url: str | None,
    verbose: bool,
    dry: bool = False,
    budget_s: float | None = None,
    batch: str | None = None,
    threads: str | None = None,
    diagnosed_samples: int = 0,
) -> int:
    from harness.cli.display import watching
    from harness.job import load_job
    from harness.runs.engine import start
    from harness.runs.plan import make_plan
    from harness.runs.profile import find_profile
    from harness.runs.sweep import with_sweep
    from harness.store import open_store
    from harness.targets.lab import find_lab, load_lab

    job = with_sweep(load_job(job_path), batch, threads)
    lab = load_lab(find_lab(lab_path, job.path))
    with _stdout_kept_clean(as_json):
        plan = make_plan(
            job,
            lab,
            names(targets),
            profile=find_profile(profile),
            split_name=split,
            out=out,
            budget_s=budget_s,
        )
    if dry:
        return _print_plan(plan, as_json=as_json)
    store = open_store(store_url)
    try:
        with _stdout_kept_clean(as_json), watching(quiet=as_json, verbose=verbose) as observer:
            finished = start(plan, store, observer)
    finally:
        store.close()
    if diagnosed_samples:
        from harness.cli.diagnosis import diagnose_run

        return diagnose_run(plan, finished, diagnosed_samples, lambda: _print_run(finished, as_json=as_json), as_json)
    return _print_run(finished, as_json=as_json)


def resume(
    run_id: Annotated[str, typer.Argument(help="As `quantrig runs` lists it; a beginning is enough.")],
    as_json: Json = False,
    verbose: Verbose = False,
    store: StoreUrl = None,
) -> int:
    """Go on with a run: only what is missing or failed is done again."""
    from harness.cli.display import watching
    from harness.runs.engine import resume as resume_run
    from harness.store import open_store

    opened = open_store(store)
    try:
        with _stdout_kept_clean(as_json), watching(quiet=as_json, verbose=verbose) as observer:
            finished = resume_run(run_id, opened, observer)
    finally:
        opened.close()
    return _print_run(finished, as_json=as_json)


def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, the newest first.")] = 20,
    as_json: Json = False,
    store: StoreUrl = None,
) -> int:
    """The runs in the results database, the newest first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.store import open_store

    opened = open_store(store)
    try:
        found = opened.runs(limit)
    finally:
        opened.close()
    if as_json:
        listed = [
            {
                "run_id": one.run_id, "job": one.job_name, "status": one.status, "started": one.started,
                "finished": one.finished, "out": str(one.out), "targets": dict(one.targets),
            }
            for one in found
        ]  # fmt: skip
        typer.echo(json.dumps(listed, indent=2))
        return ExitCode.GOOD
    if not found:
        typer.echo("no runs yet: `quantrig demo` makes the first one")
        return ExitCode.GOOD
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("targets")
    table.add_column("folder", overflow="fold")
    for one in found:
        table.add_row(*(Text(cell) for cell in (one.run_id, one.status, _tally(one.targets), _near(one.out))))
    Console().print(table)
    return ExitCode.GOOD


@contextlib.contextmanager
def _stdout_kept_clean(wanted: bool) -> Iterator[None]:
    """With --json, what a job's own functions print goes to stderr: stdout holds one document and nothing else."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def _tally(targets: Sequence[tuple[str, str]]) -> str:
    """Those that are done as a number, the others by name."""
    done = sum(status == "done" for _, status in targets)
    others = [f"{name} {status}" for name, status in targets if status != "done"]
    return ", ".join(([f"{done} done"] if done else []) + others)


def init(
    model: Annotated[Path, typer.Argument(help="A float ONNX network.", metavar="MODEL.onnx")],
    data: Annotated[str, typer.Argument(help="A folder of images, an .npz or module:function.", metavar="DATA")],
    folder: Annotated[Path, typer.Option("--folder", help="Where the two files go.", metavar="DIR")] = Path(),
    as_json: Json = False,
) -> int:
    """Write a first job.yaml and targets.yaml for a model and a data folder."""
    from harness.scaffold import init_files

    written = init_files(model, data, folder)
    if as_json:
        typer.echo(json.dumps({"written": [str(path) for path in written]}))
        return ExitCode.GOOD
    for path in written:
        typer.echo(f"wrote {_near(path)}")
    typer.echo("check the values marked 'guessed', then: quantrig run job.yaml")
    return ExitCode.GOOD


def _print_run(finished: Run, *, as_json: bool) -> int:
    from rich.console import Console

    from harness.report.runjson import dump
    from harness.report.terminal import render_terminal

    if as_json:
        typer.echo(dump(finished.record))
        return finished.exit_code
    render_terminal(finished.record, Console())
    typer.echo(
        f"published in {_near(finished.published.folder)}: {', '.join(p.name for p in finished.published.paths)}"
    )
    unfinished = {target.status for target in finished.record.targets} - {"done", "throttled"}
    if finished.exit_code is ExitCode.BOARD_FAILED and unfinished:  # a throttled target has all it can have
        typer.echo(
            f"some targets failed; `quantrig resume {finished.record.run_id}` does only the missing part", err=True
        )
    return finished.exit_code


def _print_plan(plan: Plan, *, as_json: bool) -> int:
    from rich.console import Console

    from harness.runs.estimate import estimate_plan, plan_as_json, plan_table

    with _stdout_kept_clean(as_json):  # the job's own functions may print
        estimate = estimate_plan(plan)
    if as_json:
        typer.echo(json.dumps(plan_as_json(plan, estimate), indent=2))
    else:
        Console().print(plan_table(plan, estimate))
    return ExitCode.GOOD


def _near(path: Path) -> str:
    """A path as the user would type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
