"""Commands about the lab: targets and certificates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, Lab, Targets, names
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.targets.cross_isa import IsaCase

targets_app = typer.Typer(help="The boards of the lab.", no_args_is_help=True)
certificates_app = typer.Typer(help="The lab's own certificates, for mutual TLS.", no_args_is_help=True)


@targets_app.command("list")
def list_targets(lab: Lab = None, as_json: Json = False) -> int:
    """The targets of the lab file."""
    from rich.console import Console
    from rich.table import Table

    from harness.targets.lab import find_lab, load_lab
    from harness.targets.quarantine import quarantined

    loaded = load_lab(find_lab(lab, None))
    aside = {name: found.sentence for name, target in loaded.targets.items() if (found := quarantined(target))}
    if as_json:
        listed = [
            {
                "name": target.name, "board": target.board, "environment": target.environment,
                "via": target.via.kind, "address": target.via.address, "timed": target.timed, "tags": list(target.tags),
                "quarantine": aside.get(target.name),
            }
            for target in loaded.targets.values()
        ]  # fmt: skip
        typer.echo(json.dumps(listed, indent=2))
        return ExitCode.GOOD
    table = Table("target", "board", "rules", "reached", "timed", "tags", box=None, pad_edge=False)
    for target in loaded.targets.values():
        reached = target.via.address or target.via.kind
        timed = "yes" if target.timed else "no"
        table.add_row(target.name, target.board, target.environment, reached, timed, ", ".join(target.tags))
    Console().print(table)
    for name, sentence in aside.items():
        Console().print(f"{name}: {sentence}", style="red", markup=False, highlight=False)
    return ExitCode.GOOD


@targets_app.command("check")
def check(lab: Lab = None, targets: Targets = None, as_json: Json = False) -> int:
    """One line a target, in parallel: reachable, versions, clocks, memory, an exact canary; exit 3: one is unfit."""
    from rich.console import Console

    from harness.cli.health import HealthLines, remarks
    from harness.targets.check import check_targets
    from harness.targets.lab import find_lab, load_lab

    loaded = load_lab(find_lab(lab, None))
    chosen = loaded.select(names(targets)) if targets else list(loaded.targets.values())

    def cases() -> Sequence[IsaCase]:
        from harness.demo.cross_isa import digits_cases  # only boards of another instruction set need them

        return digits_cases()

    if as_json:
        found = check_targets(chosen, cases=cases)
        typer.echo(json.dumps([one.as_json() for one in found], indent=2))
    else:
        lines = HealthLines([one.name for one in chosen], Console(), Console(stderr=True))
        with lines.shown():
            found = check_targets(chosen, cases=cases, on_result=lines.add)
        for line in remarks(found):
            typer.echo(line)
    return ExitCode.GOOD if all(one.fit for one in found) else ExitCode.BOARD_FAILED


@targets_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the new target.")],
    board: Annotated[str, typer.Option("--board", help="Board kind, e.g. raspberry-pi-5.")],
    environment: Annotated[str | None, typer.Option("--environment", help="Default: the board's usual one.")] = None,
    via: Annotated[str, typer.Option("--via", help="local, emulated, or HOST:PORT of an agent.")] = "emulated",
    tls: Annotated[str | None, typer.Option("--tls", help="Name or folder of the lab's certificates.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    lab: Lab = None,
    as_json: Json = False,
) -> int:
    """Add a target to the lab file (made when it is not there), comments kept."""
    from harness.scaffold import add_target

    path = lab or Path("targets.yaml")
    fields: dict[str, object] = {"board": board}
    if environment is not None:
        fields["environment"] = environment
    if via in {"local", "emulated", "qemu"}:
        fields["via"] = via
    else:
        fields["via"] = {"address": via} | ({"tls": tls} if tls else {})
    if tag:
        fields["tags"] = list(tag)
    add_target(path, name, fields)
    said = f"added {name} to {path}; next: quantrig targets check --targets {name}"
    return _told(said, {"added": name, "lab": str(path)}, as_json=as_json)


def _told(said: str, result: dict[str, str], *, as_json: bool) -> int:
    typer.echo(json.dumps(result) if as_json else said)
    return ExitCode.GOOD


Folder = Annotated[Path, typer.Option("--folder", help="Folder of the lab's CA; its key stays there.", metavar="DIR")]


@certificates_app.command("create")
def create(
    lab: Annotated[str, typer.Argument(help="Name of the lab.")], folder: Folder = Path("lab-ca"), as_json: Json = False
) -> int:
    """Create the lab's own certificate authority."""
    from harness.targets.certificates import create_lab

    create_lab(folder, lab)
    return _told(f"wrote {folder}: keep ca-key.pem off the boards", {"folder": str(folder)}, as_json=as_json)


@certificates_app.command("agent")
def agent(
    name: Annotated[str, typer.Argument(help="Name of the board.")],
    address: Annotated[list[str], typer.Option("--address", help="DNS name or IP the host dials; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to carry to the board.", metavar="DIR")],
    folder: Folder = Path("lab-ca"),
    as_json: Json = False,
) -> int:
    """Issue a board's certificate: copy the folder there and start its agent with --tls."""
    from harness.targets.certificates import issue_agent

    issue_agent(folder, name, address, out)
    said = f"wrote {out}; on the board: quantrig-agent serve --listen 0.0.0.0:50443 --tls {out.name}"
    return _told(said, {"folder": str(out)}, as_json=as_json)


@certificates_app.command("host")
def host(
    name: Annotated[str, typer.Argument(help="Name of this host.")],
    out: Annotated[Path, typer.Option("--out", help="Folder named in `tls:` of targets.yaml.", metavar="DIR")],
    folder: Folder = Path("lab-ca"),
    as_json: Json = False,
) -> int:
    """Issue a host's certificate: name its folder in `tls:` of targets.yaml."""
    from harness.targets.certificates import issue_host

    issue_host(folder, name, out)
    return _told(f"wrote {out}", {"folder": str(out)}, as_json=as_json)
