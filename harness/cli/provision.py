"""`quantrig targets provision` and `unprovision`: what a target needs before its first run, however it is reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, Lab
from harness.errors import ExitCode, UserError

if TYPE_CHECKING:
    from harness.targets.lab import Target

Name = Annotated[str, typer.Argument(help="Name of the target in targets.yaml.")]


def provision(
    name: Name,
    lab: Lab = None,
    apt_sources: Annotated[
        Path | None,
        typer.Option("--apt-sources", metavar="FILE", help="via qemu: a sources.list with arm64. Default: apt's own."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Although nothing changed, take everything anew.")] = False,
    as_json: Json = False,
) -> int:
    """Bring a target everything it needs; a second time nothing is done twice."""
    target = _target(name, lab)
    if target.via.kind == "qemu":
        return _provision_qemu(target, apt_sources, fresh=fresh, as_json=as_json)
    raise _nothing_to_do(target)


def unprovision(name: Name, lab: Lab = None, as_json: Json = False) -> int:
    """Remove what `provision` made for a target, and nothing else."""
    target = _target(name, lab)
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
