"""One connection to a board: commands whose words are seen and kept as they come, files, and a lock that ends with it.

    with open_session(target, log=path, tell=print) as board:
        board.run(["uname", "-a"])
        board.put(b"text", "/tmp/file", mode=0o600)

Every command is a list of words, quoted here for the board's shell; none is ever put together from text.
"""

from __future__ import annotations

import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import paramiko

from harness.errors import BoardError, Offline, TimedOut, UserError
from harness.targets.ssh.login import log_in
from harness.targets.ssh.transport import CONNECT_TIMEOUT_S, connect
from harness.targets.validate import clean_text

if TYPE_CHECKING:
    from harness.targets.target import Target

#: A command that only looks; a board under load may take seconds to start one.
COMMAND_TIMEOUT_S = 60.0
_PIECE_BYTES = 1 << 15
#: Kept of what one command says; the log has all of it.
_KEPT_BYTES = 4 << 20

Tell = Callable[[str], None]
# Its own lines about a broken connection would go to stderr beside ours, which say what to do.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended.

    Args:
        status: its exit status.
        out: its stdout.
        err: its stderr.
    """

    status: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line it said, as one printable line."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return clean_text(lines[-1], 300) if lines else f"exit status {self.status}"


class CommandFailed(BoardError):
    """A command on the board ended with another status than 0."""


class Log:
    """A file of everything said, each line with its time; readable by its owner only.

    Args:
        path: appended to; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def write(self, who: str, line: str) -> None:
        """One line; `who` is `$` for a command, `out` and `err` for the board, `#` for us."""
        if self._file is None:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        with self._lock:
            self._file.write(f"{now}Z {who:3} {clean_text(line, 4000)}\n".encode())
            self._file.flush()

    def close(self) -> None:
        """Nothing is written afterwards."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Session:
    """An open, accepted connection.

    Args:
        target: name in targets.yaml.
        transport: authenticated.
        log: keeps what is said.
        tell: is told each line the board says.
    """

    def __init__(self, target: str, transport: paramiko.Transport, log: Log, tell: Tell) -> None:
        self.target = target
        self.log = log
        self._transport = transport
        self._tell = tell

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes | Path | None = None,
        skip_bytes: int = 0,
        timeout_s: float = COMMAND_TIMEOUT_S,
        check: bool = True,
        quiet: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Done:
        """Run a command to its end.

        Args:
            command: its words.
            stdin: what it reads; a file is streamed.
            skip_bytes: of that file, which the board has already.
            timeout_s: afterwards it is given up; its process on the board gets SIGHUP from its SSH server.
            check: another status than 0 is an error.
            quiet: what it says is an answer for us, not words for the user; the log has it all the same.
            progress: is told how many bytes of `stdin` have gone.

        Raises:
            CommandFailed: status other than 0, with its last line.
            TimedOut: it did not end in time.
            Offline: the connection ended before the command did.
        """
        line = shlex.join(command)
        shown = line if len(line) < 400 else line[:400] + " …"
        self.log.write("$", shown)
        deadline = time.monotonic() + timeout_s
        try:
            channel = self._transport.open_session(timeout=CONNECT_TIMEOUT_S)
            channel.settimeout(timeout_s)
            channel.exec_command(line)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Offline(self.target, "the SSH connection ended; is the board still up?") from error
        out = _Words(channel.recv, lambda text: self._said("out", text, tell=not quiet))
        err = _Words(channel.recv_stderr, lambda text: self._said("err", text, tell=not quiet))
        try:
            self._feed(channel, stdin, skip_bytes, progress)
            if not channel.status_event.wait(max(0.1, deadline - time.monotonic())):
                raise TimedOut(self.target, f"`{_short(line)}` did not end within {timeout_s:g} s")
            for words in (out, err):
                words.join(max(0.1, deadline - time.monotonic()))
            status = channel.recv_exit_status()
        finally:
            channel.close()
        if status == -1:
            raise Offline(self.target, f"the SSH connection ended during `{_short(line)}`; run the same again")
        done = Done(status, out.text(), err.text())
        if check and status:
            raise CommandFailed(self.target, f"`{_short(line)}` on the board failed: {done.last_words}")
        return done

    def put(self, content: bytes, path: str, *, mode: int, sudo: Sequence[str] = ()) -> None:
        """Write a small file: complete or not at all, its mode right before the first byte is in it."""
        script = 'umask 077; cat >"$1.new" && chmod "$2" "$1.new" && mv -f "$1.new" "$1"'
        self.run([*sudo, "sh", "-c", script, "sh", path, f"{mode:o}"], stdin=content, quiet=True)

    @contextmanager
    def holding(self, command: Sequence[str]) -> Iterator[None]:
        """Keep a command running that says a line once it holds a lock; it ends with the connection.

        Raises:
            CommandFailed: it ended without that line.
        """
        channel = self._transport.open_session(timeout=CONNECT_TIMEOUT_S)
        try:
            channel.settimeout(COMMAND_TIMEOUT_S)
            channel.exec_command(shlex.join(command))
            try:
                said = channel.recv(64)
            except TimeoutError:
                said = b""
            if not said:
                raise CommandFailed(
                    self.target, "another provisioning of this board is under way; wait for its end, then run the same"
                )
            yield
        finally:
            channel.close()

    def _feed(
        self, channel: paramiko.Channel, stdin: bytes | Path | None, skip: int, progress: Callable[[int], None] | None
    ) -> None:
        try:
            if isinstance(stdin, bytes):
                channel.sendall(stdin)
            elif stdin is not None:
                sent = skip
                with stdin.open("rb") as file:
                    file.seek(skip)
                    while piece := file.read(_PIECE_BYTES):
                        channel.sendall(piece)
                        sent += len(piece)
                        if progress is not None:
                            progress(sent)
            channel.shutdown_write()
        except OSError:
            if not self._transport.is_active():
                raise Offline(self.target, "the SSH connection ended during an upload; run the same again") from None
            # the command ended without reading all: its status says why

    def _said(self, who: str, text: str, *, tell: bool) -> None:
        self.log.write(who, text)
        if tell and (shown := clean_text(text, 500)):
            self._tell(shown)


class _Words(threading.Thread):
    """Reads one stream of a command, line by line."""

    def __init__(self, receive: Callable[[int], bytes], line: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._receive = receive
        self._line = line
        self._kept = bytearray()
        self.start()

    def run(self) -> None:
        rest = b""
        while True:
            try:
                piece = self._receive(_PIECE_BYTES)
            except OSError:
                break
            if not piece:
                break
            self._kept += piece[: max(0, _KEPT_BYTES - len(self._kept))]
            *lines, rest = (rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._line(line.decode(errors="replace"))
        if rest:
            self._line(rest.decode(errors="replace"))

    def text(self) -> str:
        return self._kept.decode(errors="replace")


def _short(line: str) -> str:
    return clean_text(line, 120)


@contextmanager
def open_session(
    target: Target, *, log: Path | None = None, tell: Tell = lambda _: None, may_ask: bool = False
) -> Iterator[Session]:
    """Connect and log in to the board that `ssh:` of a target names.

    Args:
        target: entry of the lab file.
        log: everything said is appended there.
        tell: is told each line the board says.
        may_ask: a person is there to type a password.

    Raises:
        UserError: no `ssh:`, an unknown host, a key that cannot be used.
        Unreachable: nothing answers there, or it speaks no SSH.
        Refused: another host key than the known one, or no login.
    """
    if target.ssh is None:
        raise UserError(
            f"{target.name}: no login; add `ssh: {{host: …, user: …}}` to it in targets.yaml (docs/provisioning.md)"
        )
    transport = connect(target, target.ssh)
    written = Log(log)
    try:
        log_in(target.name, target.ssh, transport, may_ask=may_ask)
        yield Session(target.name, transport, written, tell)
    except EOFError as error:
        raise Offline(target.name, "the board ended the SSH connection") from error
    except paramiko.SSHException as error:
        raise Offline(target.name, f"the SSH connection broke ({clean_text(str(error))})") from error
    finally:
        transport.close()
        written.close()
