"""`quantrig run --diagnose`: after the run, each board beside the reference, layer by layer."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace

import typer
from rich.console import Console

from harness.cli.display import watching
from harness.errors import ExitCode
from harness.judge.verdict import worst
from harness.report.diagnosis_page import publish_diagnosis, render_diagnosis
from harness.report.publish import publish
from harness.report.runjson import dump
from harness.runs.diagnosis import diagnose_plan
from harness.runs.engine import Run
from harness.runs.plan import Plan


def diagnose_run(plan: Plan, finished: Run, samples: int, print_run: Callable[[], int], as_json: bool) -> int:
    """Diagnose the targets of a finished run, publish into its folder, print.

    Args:
        plan: the run's.
        finished: the run.
        samples: how many validation samples.
        print_run: prints the run itself and returns its exit code.
        as_json: one document for both: run.json with one key more, `diagnosis`.

    Returns:
        the exit code: what boards compute differently is a finding and changes nothing; a board that failed does.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        with watching(quiet=as_json) as observer:
            diagnosed = diagnose_plan(plan, samples, observer)
        paths = publish_diagnosis(plan.job.name, diagnosed.found, plan.out)
        # the finding stands in the run's own report too
        notes = tuple(f"{one.target}: {one.summary} (diagnosis.html)" for one in diagnosed.found)
        record = replace(finished.record, notes=(*finished.record.notes, *notes))
        publish(record, plan.out)
    if as_json:
        document = json.loads(dump(record))
        document["diagnosis"] = [one.as_json() for one in diagnosed.found]
        document["not_diagnosed"] = {name: str(error) for name, error in diagnosed.failed}
        typer.echo(json.dumps(document, indent=1))
        code = finished.exit_code
    else:
        code = ExitCode(print_run())
        console = Console()
        for found in diagnosed.found:
            console.print()
            render_diagnosis(found, console)
        for _, error in diagnosed.failed:
            typer.echo(f"not diagnosed: {error}", err=True)
        pictures = f" and {len(paths) - 2} pictures in diagnosis/" if len(paths) > 2 else ""
        typer.echo(f"diagnosis in {plan.out}: {', '.join(path.name for path in paths[:2])}{pictures}")
    return worst([code, diagnosed.exit_code])
