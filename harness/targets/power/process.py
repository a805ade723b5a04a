"""A command of this host that switches power: bounded in time, its output kept, its children ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BoardError, TimedOut, UserError
from harness.targets.power.switch import SwitchContext

#: Of what a command prints, the end is kept.
KEPT_OUTPUT_BYTES = 16_384
#: After SIGTERM, before SIGKILL, s.
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended by itself.

    Args:
        code: exit status.
        output: the end of stdout and stderr together, secrets blanked.
    """

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line with anything in it, "" where there is none."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def run_bounded(
    context: SwitchContext,
    words: Sequence[str],
    timeout_s: float,
    *,
    remedy: str = "",
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command in the lab file's folder without a terminal.

    Args:
        context: whose power it switches.
        words: program and arguments.
        timeout_s: then it and its children are ended.
        remedy: how to get the program where it lacks.
        environment: instead of ours.

    Raises:
        UserError: the program does not exist or cannot be run.
        TimedOut: it did not end in time.
    """
    program = Path(words[0]).name
    # a file, not a pipe: what a daemon left behind by the command holds open cannot make us wait
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                list(words), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=context.base,
                env=None if environment is None else dict(environment), start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            hint = remedy or "install it or give its path in `power:`"
            raise UserError(f"{context.target}: power: no program {program} on this host; {hint}") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{context.target}: power: {program} cannot be run ({why}); check `power:`") from error
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            said = Finished(-1, _tail(output.fileno(), context)).last_line
            raise TimedOut(
                context.target,
                f"power: {program} did not end within {timeout_s:.0f} s{f' (it said: {said[:200]})' if said else ''}; "
                "check the switch, or raise `timeout_s` in `power:`",
            ) from None
        finally:
            _end(process)
        return Finished(code, _tail(output.fileno(), context))


def succeed(context: SwitchContext, words: Sequence[str], finished: Finished) -> str:
    """The output of a command that exited 0.

    Raises:
        BoardError: it did not.
    """
    if finished.code:
        how = f"exit status {finished.code}" if finished.code > 0 else f"killed by signal {-finished.code}"
        said = f": {finished.last_line[:300]}" if finished.last_line else ""
        raise BoardError(
            context.target, f"power: {Path(words[0]).name} failed ({how}){said}; run it by hand to see why"
        )
    return finished.output


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started in its own session, should it still be there."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        # alive, so its pid is its own and the group of that number is what it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return


def _tail(descriptor: int, context: SwitchContext) -> str:
    size = os.fstat(descriptor).st_size
    raw = os.pread(descriptor, KEPT_OUTPUT_BYTES, max(0, size - KEPT_OUTPUT_BYTES))
    text = context.blank(raw.decode("utf-8", "replace"))
    return "".join(character for character in text if character.isprintable() or character == "\n").strip()
