"""`quantrig targets power` and `release`: switch a board, ask whether it has power, end its quarantine."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated

import typer

from harness.cli.options import Json, Lab
from harness.errors import ExitCode, Refused, UserError


def power(
    name: Annotated[str, typer.Argument(help="A target with `power:` in the lab file.")],
    action: Annotated[str, typer.Argument(help="on, off, cycle or status.")],
    lab: Lab = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also while a run uses the board, which it will lose.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Switch a board's power; `cycle` is off, a wait, on. `status` exits 4 when the switch cannot tell."""
    from harness.runs.board import board_key
    from harness.runs.locks import board_now
    from harness.targets.lab import find_lab, load_lab
    from harness.targets.power.control import open_power
    from harness.targets.power.values import Action, PowerState
    from harness.yamlfile import one_of

    if action not in list(Action):
        raise UserError(f"unknown action '{action}'{one_of(action, list(Action))}")
    found_lab = load_lab(find_lab(lab, None))
    (target,) = found_lab.select([name])
    control = open_power(target)
    if action == Action.STATUS:
        found = control.status()
        if as_json:
            typer.echo(json.dumps({"target": name, "state": found.state, "detail": found.detail}))
        else:
            typer.echo(f"{name}: {found.state}{f' ({found.detail})' if found.detail else ''}")
        return ExitCode.INCONCLUSIVE if found.state is PowerState.UNKNOWN else ExitCode.GOOD
    taking = Action(action) is not Action.ON and not force  # giving power back takes nothing from anybody
    purpose = f"`quantrig targets power {name} {action}`"
    key = board_key(target, found_lab.path)
    with contextlib.ExitStack() as stack:
        if taking:
            try:
                stack.enter_context(board_now(name, key, purpose))
            except Refused as error:
                remedy = "wait for its end, or take the power all the same with --force"
                raise Refused(name, f"{error.message}; {remedy}") from None
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
