"""`quantrig lab up`: emulated boards for as long as the command runs, and the lab file that reaches them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json
from harness.errors import ExitCode, UserError

if TYPE_CHECKING:
    from harness.targets.target import Target

lab_app = typer.Typer(help="A lab of emulated boards on this machine.", no_args_is_help=True)


@lab_app.command("up")
def up(
    boards: Annotated[int, typer.Option("--boards", "-n", min=1, max=16, help="How many.")] = 1,
    board: Annotated[str, typer.Option("--board", help="Kind that they stand for.")] = "raspberry-pi-4",
    machine: Annotated[str, typer.Option("--machine", help="QEMU's: virt, or xlnx-zcu102 for a zcu102.")] = "virt",
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Lab file to write; removed when the boards end.")
    ] = Path("emulated.yaml"),
    bare: Annotated[bool, typer.Option("--bare", help="Without an agent: to be provisioned over SSH.")] = False,
    as_json: Json = False,
) -> int:
    """Start boards, write the lab file that reaches them, and end them with Ctrl-C."""
    from harness.cli.display import watching
    from harness.targets.qemu_system.board import QemuBoard
    from harness.targets.qemu_system.recipe import Recipe

    if out.exists():
        raise UserError(f"{out} exists; remove it, or name another file with --out")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):  # before minutes of image and boot
        raise UserError(f"--out {out}: no folder {out.parent} that can be written to; name another file")
    recipe = Recipe(machine=machine, board=board, agent=not bare)
    names = [f"qemu-{number}" for number in range(1, boards + 1)]
    with contextlib.ExitStack() as stack:
        with watching(as_json) as observer:
            started = [
                stack.enter_context(
                    QemuBoard(
                        recipe, name=name,
                        progress=lambda phase, done, total: observer.progress("lab", phase, done, total),
                    )
                )
                for name in names
            ]  # fmt: skip
            observer.finished("lab", "up")
        stack.callback(out.unlink, missing_ok=True)
        try:
            out.write_text("targets:\n" + "".join(_entry(one.target) for one in started))
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({error.strerror}); name another file") from error
        said = f"{boards} emulated board{'s' * (boards > 1)}: quantrig targets list --lab {out}; Ctrl-C ends them"
        typer.echo(json.dumps({"lab": str(out), "targets": names}) if as_json else said)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while not stop.wait(1.0):  # a signal is only seen between waits
            pass
    return ExitCode.GOOD


def _entry(target: Target) -> str:
    """As a lab file has it; JSON's quoting is YAML's."""
    via, ssh, console, power = target.via, target.ssh, target.console, target.power
    fields: dict[str, object] = {
        "board": target.board,
        "environment": target.environment,
        "via": {"qemu": via.machine, "address": via.address, "tls": str(via.tls)},
    }
    if ssh is not None:
        fields["ssh"] = {
            "host": ssh.host, "user": ssh.user, "port": ssh.port, "key": str(ssh.key), "host_key": ssh.host_key,
        }  # fmt: skip
    if console is not None:
        fields["console"] = {"url": console.url, "boot_timeout_s": console.boot_timeout_s}
    if power is not None:
        fields["power"] = {"qmp": power.options["socket"], "wait_s": power.wait_s}
    lines = [f"    {name}: {json.dumps(value)}\n" for name, value in fields.items()]
    return f"  {target.name}:\n{''.join(lines)}"
