"""`quantrig targets console`: a board's serial console in this terminal, or one line awaited by a script."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, Lab
from harness.errors import BoardError, ExitCode, UserError

if TYPE_CHECKING:
    from harness.targets.target import Console, Target

#: As long as a slow board takes to boot.
_EXPECT_TIMEOUT_S = 180.0


def console(
    name: Annotated[str, typer.Argument(help="A target with `console:` in the lab file.")],
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="Wait for a line in which this regular expression is found.", metavar="REGEX"),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="End after so many seconds. With --expect the default is 180.", metavar="S"),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Default: in the user's state folder.", metavar="FILE")
    ] = None,
    lab: Lab = None,
    as_json: Json = False,
) -> int:
    """A board's serial console; Ctrl-] ends. With --expect: print the line that matches, or exit 3 when none comes."""
    from harness.targets.lab import find_lab, load_lab

    (target,) = load_lab(find_lab(lab, None)).select([name])
    if as_json and expect is None:
        raise UserError("--json needs --expect: a console in a terminal has no result")
    if timeout is not None and timeout <= 0:
        raise UserError(f"--timeout {timeout:g}: give seconds above 0")
    kept = log if log is not None else _default_log(target.name)
    try:
        if expect is not None:
            wait_s = _EXPECT_TIMEOUT_S if timeout is None else timeout
            return _expect(target, _compiled(expect), wait_s, kept, as_json=as_json)
        return _interact(target, timeout, kept)
    except OSError as error:
        raise UserError(f"the console's log {kept} cannot be written ({error.strerror}); give --log FILE") from error


def _default_log(name: str) -> Path:
    from harness.targets.state import file_name, state_folder

    return state_folder("consoles") / f"{file_name(name)}.log"


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(
            f"--expect {text!r} is no regular expression ({error}); escape what is meant literally"
        ) from error


def _expect(target: Target, pattern: re.Pattern[str], timeout_s: float, log: Path, *, as_json: bool) -> int:
    from harness.targets.console.log import stamp
    from harness.targets.console.watch import ConsoleWatch

    begun = time.monotonic()
    with ConsoleWatch(target.name, _spec(target), log, purpose=f"console {target.name} --expect") as watch:
        found = watch.expect(pattern, timeout_s, since=0)
        said = watch.lines
    result = {
        "target": target.name, "found": found is not None, "line": found.text if found else None,
        "at": stamp(found.unix_s) if found else None, "seconds": round(time.monotonic() - begun, 3), "log": str(log),
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(result))
    elif found is not None:
        typer.echo(found.text)
    if found is None:
        last = f"the last of {len(said)} lines: {said[-1].text[:200]!r}" if said else "it said nothing"
        raise BoardError(target.name, f"no line with /{pattern.pattern}/ within {timeout_s:g} s; {last}; log: {log}")
    return ExitCode.GOOD


def _interact(target: Target, timeout_s: float | None, log: Path) -> int:
    from harness.targets.console.terminal import Screen, interact
    from harness.targets.console.watch import ConsoleWatch

    spec = _spec(target)
    screen = Screen(sys.stdout.fileno())

    def tell(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal must not stay raw behind us
        signal.signal(number, lambda *_: stop.set())
    with ConsoleWatch(target.name, spec, log, purpose=f"console {target.name}", on_bytes=screen) as watch:
        why = interact(
            watch, sys.stdin.fileno(), timeout_s=timeout_s, stop=stop,
            on_ready=lambda: tell(f"{target.name}: {spec.url} at {spec.baud}, Ctrl-] ends, log: {log}\r\n"),
        )  # fmt: skip
        if why == "input":  # keys from a file or a pipe have ended, the board's answer has not
            stop.wait(timeout_s)
    tell("\r\n")
    return ExitCode.GOOD


def _spec(target: Target) -> Console:
    if target.console is None:
        from harness.targets.qemu_system.use import nothing_runs

        raise UserError(
            nothing_runs(target)
            or f"{target.name}: no console; add `console: {{url: /dev/ttyUSB0}}` to it in targets.yaml "
            "(docs/console-and-power.md)"
        )
    return target.console
