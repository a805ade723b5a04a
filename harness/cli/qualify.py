"""Release evidence: `quantrig qualify`, `quantrig verify`, `quantrig keys`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Brief, Json, StoreUrl, names
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.evidence.qualify import Qualified
    from harness.evidence.verify import Verification

#: Figures that are named one by one; the others are counted.
_NAMED = 6

keys_app = typer.Typer(help="Keys that sign release bundles.", no_args_is_help=True)


def qualify(
    policy: Annotated[Path, typer.Argument(help="Jobs, targets and gates of a release.", metavar="POLICY.yaml")],
    runs: Annotated[
        list[str] | None,
        typer.Option("--runs", help="Judge these runs instead of running: A,B or once for each.", metavar="RUN_ID"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="In place of the policy's `out`.", metavar="DIR")] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Signing key, in place of the policy's `key`.", metavar="DIR")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything; touch no board.")] = False,
    as_json: Json = False,
    brief: Brief = False,
    store: StoreUrl = None,
) -> int:
    """Gates → verdict → evidence bundle. Exit 0 pass, 1 a gate failed, 3 a board failed, 4 inconclusive."""
    from harness.cli.display import watching
    from harness.evidence.policy import load_policy
    from harness.evidence.qualify import (
        judge_runs,
        out_folder,
        plan_policy,
        publish_decision,
        run_policy,
        signing_key,
    )
    from harness.store import open_store

    run_ids = [name for text in runs or () for name in names(text) or ()]
    asked = load_policy(policy)
    folder = out_folder(asked, out)
    plans = [] if run_ids else plan_policy(asked, folder)
    if dry_run:
        for _, plan in plans:
            gates = ", ".join(gate.name for gate in plan.job.gates)
            typer.echo(f"{plan.job.name} on {', '.join(one.name for one in plan.targets)}: {gates}")
        typer.echo(f"{asked.path.name} is in order; nothing was run")
        return ExitCode.GOOD
    signer = signing_key(key or asked.key, lambda text: typer.echo(text, err=True))
    opened = open_store(store)
    try:
        with watching(quiet=as_json, verbose=not brief) as observer:
            if run_ids:
                judged = judge_runs(asked, run_ids, opened)
            else:
                places = {entry.position: plan.out for entry, plan in plans}
                judged = [(at, record, places[at]) for at, record in run_policy(plans, opened, observer)]
            done = publish_decision(
                asked,
                judged,
                opened,
                out=folder,
                key=signer,
                say=lambda text: observer.progress("host", text, 0, None),
            )
            observer.finished("host", "done")
    finally:
        opened.close()
    _print_decision(done, as_json=as_json)
    return done.exit_code


def _print_decision(done: Qualified, *, as_json: bool) -> None:
    import dataclasses

    if as_json:
        gates = [
            {"run_id": record.run_id, "job": record.job_name, **dataclasses.asdict(gate)}
            for record in done.records
            for gate in record.gates
        ]
        said = {
            "verdict": None if done.verdict.outcome is None else done.verdict.outcome.value,
            "exit_code": int(done.exit_code),
            "runs": [record.run_id for record in done.records],
            "gates": gates,
            "bundle": str(done.bundle),
            "page": str(done.page),
            "signer": done.signer,
        }
        typer.echo(json.dumps(said, indent=2))
        return
    from rich.console import Console

    from harness.report.terminal import render_gates

    console = Console()
    for record in done.records:
        typer.echo(f"{record.job_name} (run {record.run_id})")
        render_gates(record, console)
    typer.echo(f"{done.verdict.text}")
    typer.echo(f"decision: {_near(done.page)}")
    typer.echo(f"bundle:   {_near(done.bundle)}, signed by {done.signer}")


def verify(
    bundle: Annotated[Path, typer.Argument(help="What `quantrig qualify` wrote.", metavar="BUNDLE")],
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The signer's public key, known from elsewhere: a file or a folder.", metavar="PUB"),
    ] = None,
    require_pass: Annotated[
        bool, typer.Option("--require-pass", help="Also exit 1 or 4 where the verdict is fail or inconclusive.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check a bundle offline: signature, digests, and every figure and verdict computed again from its raw data."""
    from harness.evidence.keys import load_public
    from harness.evidence.verify import as_json as plain
    from harness.evidence.verify import verify_bundle

    found = verify_bundle(bundle, None if key is None else load_public(key))
    if as_json:
        typer.echo(json.dumps(plain(found, require_pass=require_pass), indent=2))
    else:
        _print_verification(found)
    return found.exit_code(require_pass=require_pass)


def _print_verification(found: Verification) -> None:
    from harness.report.text import plain

    def say(text: str) -> None:
        typer.echo(plain(text))

    manifest = found.manifest
    if manifest is not None:
        say(f"{found.path.name}: policy {manifest.policy}, made {manifest.created} by quantrig {manifest.quantrig}")
    for line in found.touched:
        say(f"TOUCHED  {line}")
    for line in found.differences:
        say(f"WRONG    {line}")
    if found.signer:
        trust = {
            None: "; whose key that is was not checked (--key)",
            True: "; that is the key given",
            False: "; that is NOT the key given",
        }
        say(f"signed by {found.signer}{trust[found.trusted]}")
    if found.touched:
        say("not intact: nothing was computed from it")
        return
    say(f"{found.recomputed} figures computed again from the raw data")
    for title, named in (("of these not from raw outputs", found.kept), ("not computed again", found.unknown)):
        reasons: dict[str, list[str]] = {}
        for name, why in named:
            reasons.setdefault(why, []).append(name)
        for why, figures in reasons.items():
            more = f" and {len(figures) - _NAMED} more (--json lists them)" if len(figures) > _NAMED else ""
            say(f"{title} ({why}): {', '.join(figures[:_NAMED])}{more}")
    for remark in found.remarks:
        say(f"note: {remark}")
    verdict = "none" if found.verdict is None else found.verdict.value
    counted = ", ".join(
        f"{sum(gate.outcome == word for gate in found.gates)} {word}"
        for word in ("pass", "fail", "inconclusive")
        if any(gate.outcome == word for gate in found.gates)
    )
    say(f"verdict by the raw data: {verdict}" + (f" ({counted})" if counted else ""))
    say("intact" if found.intact else "not intact")


@keys_app.command("new")
def new_key(
    folder: Annotated[Path, typer.Argument(help="Where the two halves go.", metavar="DIR")],
    as_json: Json = False,
) -> int:
    """Make a signing key: the private half for you alone (mode 0600), the public one for whoever verifies."""
    from harness.evidence.keys import fingerprint, load_public, make_key

    private, public = make_key(folder)
    mark = fingerprint(load_public(public))
    if as_json:
        typer.echo(json.dumps({"private": str(private), "public": str(public), "fingerprint": mark}))
        return ExitCode.GOOD
    typer.echo(f"private: {_near(private)} (keep it; mode 0600)")
    typer.echo(f"public:  {_near(public)} (give it to whoever verifies)")
    typer.echo(f"fingerprint: {mark}")
    return ExitCode.GOOD


@keys_app.command("show")
def show_key(
    key: Annotated[Path, typer.Argument(help="A public key, or the folder it lies in.", metavar="PUB")],
) -> int:
    """The fingerprint of a public key, to be compared over another way."""
    from harness.evidence.keys import fingerprint, load_public

    typer.echo(fingerprint(load_public(key)))
    return ExitCode.GOOD


def _near(path: Path) -> str:
    """A path as the user would type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
