"""`quantrig targets provision` and `unprovision`: what a target needs before its first run, however it is reached."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, Lab
from harness.errors import ExitCode, Refused, UserError

if TYPE_CHECKING:
    from harness.targets.target import Target

Name = Annotated[str, typer.Argument(help="Name of the target in targets.yaml.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Over SSH: say every step, change nothing on the board.")]


def provision(
    name: Name,
    lab: Lab = None,
    apt_sources: Annotated[
        Path | None,
        typer.Option("--apt-sources", metavar="FILE", help="via qemu: a sources.list with arm64. Default: apt's own."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Although nothing changed, take everything anew.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="DIR", help="Over SSH: the lab's authority. Default: lab-ca by the lab file."),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Bring a target everything it needs; a second time nothing is done twice."""
    target = _target(name, lab)
    if target.via.address is not None and target.ssh is not None:
        with _unused(target, lab, dry_run=dry_run):
            return _provision_ssh(target, ca, fresh=fresh, dry_run=dry_run, as_json=as_json)
    if dry_run:
        raise UserError(
            f"{name}: --dry-run is for boards over SSH; on this machine only the user's cache is written to"
        )
    if target.via.machine is not None:
        return _provision_board(target, apt_sources, fresh=fresh, as_json=as_json)
    if target.via.kind == "qemu":
        return _provision_qemu(target, apt_sources, fresh=fresh, as_json=as_json)
    raise _nothing_to_do(target)


def unprovision(name: Name, lab: Lab = None, dry_run: DryRun = False, as_json: Json = False) -> int:
    """Remove what `provision` made for a target, and nothing else."""
    target = _target(name, lab)
    if target.via.address is not None and target.ssh is not None:
        with _unused(target, lab, dry_run=dry_run):
            return _unprovision_ssh(target, dry_run=dry_run, as_json=as_json)
    if dry_run:
        raise UserError(f"{name}: --dry-run is for boards over SSH")
    if target.via.machine is not None:
        from harness.targets.qemu_system.use import unprovision as remove_images

        removed = remove_images(target.name)
        said = "removed the image that all emulated boards share" if removed else "there was nothing to remove"
        typer.echo(json.dumps({"target": target.name, "removed": removed}) if as_json else f"{target.name}: {said}")
        return ExitCode.GOOD
    if target.via.kind == "qemu":
        from harness.targets.qemu.provision import unprovision as remove

        removed = remove(target.name)
        said = "removed the ARM system that all `via: qemu` targets share" if removed else "there was nothing to remove"
        typer.echo(json.dumps({"target": target.name, "removed": removed}) if as_json else f"{target.name}: {said}")
        return ExitCode.GOOD
    raise _nothing_to_do(target)


def _target(name: str, lab: Path | None) -> Target:
    from harness.targets.lab import find_lab, load_lab

    (target,) = load_lab(find_lab(lab, None)).select([name])
    return target


@contextmanager
def _unused(target: Target, lab: Path | None, *, dry_run: bool) -> Iterator[None]:
    """Hold the board: a new agent, or none, would end a run in the middle. Looking at it disturbs nobody."""
    from harness.runs.board import board_key
    from harness.runs.locks import board_now
    from harness.targets.lab import find_lab

    with ExitStack() as held:
        if not dry_run:
            try:
                key = board_key(target, find_lab(lab, None))
                held.enter_context(board_now(target.name, key, f"`quantrig targets provision {target.name}`"))
            except Refused as error:
                remedy = "wait for its end, since this ends the agent that serves there"
                raise Refused(target.name, f"{error.message}; {remedy}") from None
        yield


def _nothing_to_do(target: Target) -> UserError:
    if target.via.kind == "address":
        return UserError(f"{target.name}: to install an agent there, add `ssh: {{host: …, user: …}}` to targets.yaml")
    return UserError(f"{target.name}: `via: {target.via.kind}` needs no provisioning; run it")


def _provision_qemu(target: Target, apt_sources: Path | None, *, fresh: bool, as_json: bool) -> int:
    from harness.cli.display import watching
    from harness.targets.qemu.provision import provision as make

    if apt_sources is not None and not apt_sources.is_file():
        raise UserError(f"--apt-sources {apt_sources}: no such file")
    with watching(as_json) as observer:
        tree, made = make(
            target.name,
            apt_sources=apt_sources,
            fresh=fresh,
            progress=lambda phase, done, total: observer.progress(target.name, phase, done, total),
        )
        observer.finished(target.name, "ready")
    known = tree.manifest
    if as_json:
        result = {"target": target.name, "made": made, "path": str(tree.path), **known.model_dump(mode="json")}
        typer.echo(json.dumps(result, indent=2))
    else:
        what = f"Python {known.python} and ONNX Runtime {known.onnxruntime} for ARM"
        how = f"made in {known.built_s:.0f} s" if made else "there already"
        typer.echo(f"{target.name}: {what}, {how}; next: quantrig targets check --targets {target.name}")
    return ExitCode.GOOD


def _provision_board(target: Target, apt_sources: Path | None, *, fresh: bool, as_json: bool) -> int:
    from harness.cli.display import watching
    from harness.targets.qemu_system.use import provision as make

    if apt_sources is not None and not apt_sources.is_file():
        raise UserError(f"--apt-sources {apt_sources}: no such file")
    with watching(as_json) as observer:
        path, what, made = make(
            target,
            apt_sources=apt_sources,
            fresh=fresh,
            progress=lambda phase, done, total: observer.progress(target.name, phase, done, total),
        )
        observer.finished(target.name, "ready")
    if as_json:
        typer.echo(json.dumps({"target": target.name, "made": made, "path": str(path), "system": what}, indent=2))
    else:
        how = "made" if made else "there already"
        typer.echo(f"{target.name}: {what}, {how}; next: quantrig targets check --targets {target.name}")
    return ExitCode.GOOD


def _provision_ssh(target: Target, ca: Path | None, *, fresh: bool, dry_run: bool, as_json: bool) -> int:
    from harness.cli.display import watching
    from harness.targets.ssh.provision import Wishes, provision

    wishes = Wishes(dry_run=dry_run, refresh=fresh, ca=ca, may_ask=not as_json)
    with watching(as_json) as observer:
        done = provision(
            target,
            wishes,
            log=_log(target.name),
            tell=lambda text: observer.message(target.name, text),
            progress=lambda file, total, sent: observer.progress(target.name, f"sending {file}", sent, total),
        )
        observer.finished(target.name, "would change" if dry_run and done.changed else "ready")
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2))
        return ExitCode.GOOD
    if dry_run and done.changed:
        typer.echo(f"{target.name}: {done.board}, {done.folder}; would, one after the other:")
        for number, step in enumerate(done.steps, 1):
            typer.echo(f"{number:3}. {step}")
    elif done.changed:
        typer.echo(f"{target.name}: {done.release} serves; next: quantrig targets check --targets {target.name}")
    else:
        typer.echo(f"{target.name}: nothing new; {done.release} serves")
    for notice in done.notices:
        typer.echo(f"note: {notice}")
    return ExitCode.GOOD


def _unprovision_ssh(target: Target, *, dry_run: bool, as_json: bool) -> int:
    from harness.cli.display import watching
    from harness.targets.ssh.unprovision import unprovision as remove

    with watching(as_json) as observer:
        gone = remove(
            target,
            dry_run=dry_run,
            may_ask=not as_json,
            log=_log(target.name),
            tell=lambda text: observer.message(target.name, text),
        )
    if as_json:
        typer.echo(json.dumps(gone.as_json(), indent=2))
    elif gone.removed:
        typer.echo(f"{target.name}: {'would remove' if dry_run else 'removed'} {', '.join(gone.removed)}")
    else:
        typer.echo(f"{target.name}: there was nothing to remove")
    return ExitCode.GOOD


def _log(name: str) -> Path:
    from harness.targets.state import file_name, state_folder

    return state_folder("provision") / f"{file_name(name)}.log"
