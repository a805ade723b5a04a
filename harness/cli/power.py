"""`quantrig targets power` and `release`: switch a board, ask whether it has power, end its quarantine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harness.cli.options import Json, Lab
from harness.errors import ExitCode, UserError


def power(
    name: Annotated[str, typer.Argument(help="A target with `power:` in the lab file.")],
    action: Annotated[str, typer.Argument(help="on, off, cycle or status.")],
    lab: Lab = None,
    as_json: Json = False,
) -> int:
    """Switch a board's power; `cycle` is off, a wait, on. `status` exits 4 when the switch cannot tell."""
    from harness.targets.lab import find_lab, load_lab
    from harness.targets.power.control import open_power
    from harness.targets.power.values import Action, PowerState
    from harness.yamlfile import one_of

    if action not in list(Action):
        raise UserError(f"unknown action '{action}'{one_of(action, list(Action))}")
    (target,) = load_lab(find_lab(lab, None)).select([name])
    control = open_power(target)
    if action == Action.STATUS:
        found = control.status()
        if as_json:
            typer.echo(json.dumps({"target": name, "state": found.state, "detail": found.detail}))
        else:
            typer.echo(f"{name}: {found.state}{f' ({found.detail})' if found.detail else ''}")
        return ExitCode.INCONCLUSIVE if found.state is PowerState.UNKNOWN else ExitCode.GOOD
    said = {Action.ON: control.on, Action.OFF: control.off, Action.CYCLE: control.cycle}[Action(action)]()
    if as_json:
        typer.echo(json.dumps({"target": name, "action": action, "said": said}))
    else:
        typer.echo(f"{name}: power {action}: done")
        if said:
            typer.echo(said)
    return ExitCode.GOOD


def release(
    name: Annotated[str, typer.Argument(help="A target that is quarantined.")], lab: Lab = None, as_json: Json = False
) -> int:
    """End a board's quarantine, after somebody has looked at it."""
    from harness.targets.lab import find_lab, load_lab
    from harness.targets.quarantine import release as end_quarantine

    (target,) = load_lab(find_lab(lab, None)).select([name])
    released = end_quarantine(target)
    said = (
        f"{name}: released; next: quantrig targets check --targets {name}" if released else f"{name}: not quarantined"
    )
    typer.echo(json.dumps({"target": name, "released": released}) if as_json else said)
    return ExitCode.GOOD
