"""The `quantrig` command and what it does with errors."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from harness._version import __version__
from harness.cli import (
    board_lab,
    compare,
    console,
    estimate,
    history,
    lab,
    looking,
    lowering,
    networks,
    nightly,
    power,
    precision,
    provision,
    qualify,
    runs,
)
from harness.errors import ExitCode, QuantrigError

app = typer.Typer(
    name="quantrig",
    help="Float and int8 networks side by side, on the boards themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantrig {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("demo")(runs.demo)
app.command("init")(runs.init)
app.command("run")(runs.run)
app.command("resume")(runs.resume)
app.command("runs")(runs.list_runs)
app.command("qualify")(qualify.qualify)
app.command("verify")(qualify.verify)
app.command("nightly")(nightly.nightly)
app.add_typer(history.history_app, name="history")
app.command("compare")(compare.compare)
app.command("calibrate")(networks.calibrate)
app.command("quantize")(networks.quantize)
app.command("sensitivity")(precision.sensitivity)
app.command("inspect")(looking.inspect)
app.command("estimate")(estimate.estimate)
app.command("lower")(lowering.lower)
lab.targets_app.command("console")(console.console)
lab.targets_app.command("power")(power.power)
lab.targets_app.command("release")(power.release)
lab.targets_app.command("provision")(provision.provision)
lab.targets_app.command("unprovision")(provision.unprovision)
app.add_typer(lab.targets_app, name="targets")
app.add_typer(lab.certificates_app, name="certificates")
app.add_typer(qualify.keys_app, name="keys")
app.add_typer(board_lab.lab_app, name="lab")


def main() -> None:
    """Run the command line; every error of ours is one line on stderr and an exit code (see `ExitCode`)."""
    try:
        code = app(standalone_mode=False)
    except QuantrigError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # the reader (head, less) has gone: silence the interpreter's own attempt to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.GOOD)
    except Exception as error:  # noqa: BLE001 (the last door: usage errors are click's, anything else is our bug)
        show = getattr(error, "show", None)
        if show is not None:  # click's UsageError and its like print themselves
            show()
            sys.exit(getattr(error, "exit_code", ExitCode.BAD_INPUT))
        traceback.print_exc()
        sys.stderr.write("this is a bug in quantrig; please report the lines above\n")
        sys.exit(ExitCode.OUR_BUG)
    sys.exit(code if isinstance(code, int) else ExitCode.GOOD)
