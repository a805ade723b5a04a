"""An open serial port, whatever pyserial reaches it through, with one kind of error."""

from __future__ import annotations

import os
import termios
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.errors import Refused, Unreachable, UserError
from harness.targets.console.lock import holders_of_device

if TYPE_CHECKING:
    from harness.targets.target import Console

#: URL handlers of pyserial that are consoles. `spy://` and `alt://` wrap others and load code by name.
SCHEMES = ("rfc2217", "socket", "loop", "hwgrep")
_NETWORKED = ("rfc2217", "socket")
#: How long one read waits for a first byte, s: the time that closing takes at most.
READ_WAIT_S = 0.1
#: Read at once at most.
CHUNK_BYTES = 65_536


class Port:
    """One open console.

    Args:
        target: name in targets.yaml, for errors.
        console: where it is and how fast.

    Raises:
        UserError: no such way to reach a console.
        Refused: no right to open it, or another program has it.
        Unreachable: no such device, nothing listens.
    """

    def __init__(self, target: str, console: Console) -> None:
        import serial  # here, so that reading a lab file does not load it

        self._target = target
        self._url = console.url
        self._socket = console.url.lower().startswith("socket://")
        try:
            self._port: Any = serial.serial_for_url(console.url, do_not_open=True)
            self._port.baudrate = console.baud
            self._port.timeout = READ_WAIT_S
            if "://" not in console.url:
                self._port.exclusive = True
            for discard in ("reset_input_buffer", "_reset_input_buffer"):
                # pyserial throws away what came while it opened: the first words after a reconnection
                setattr(self._port, discard, _keep)
            self._port.open()
        except ValueError as error:
            raise UserError(f"{target}: console {console.url}: {error}; see docs/console-and-power.md") from error
        except (OSError, termios.error) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> Refused | Unreachable:
        is_device = "://" not in self._url
        if is_device and not os.path.exists(self._url):
            return Unreachable(self._target, f"its console {self._url} does not exist; plug the adapter in")
        if is_device and not os.access(self._url, os.R_OK | os.W_OK):
            return Refused(
                self._target,
                f"no right to open its console {self._url}; join the group that owns it: "
                "sudo usermod -a -G dialout $USER, then log in again",
            )
        holders = holders_of_device(self._url) if is_device else []
        if holders:
            return Refused(self._target, f"its console {self._url} is in use by {', '.join(holders)}; end it first")
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        return Unreachable(self._target, f"its console {self._url} cannot be opened ({why}); check `console: url`")

    def read(self) -> bytes:
        """What has come, at once; b"" when nothing came for `READ_WAIT_S`.

        Raises:
            OSError: the port is gone.
        """
        try:
            first: bytes = self._port.read(1)
        except termios.error as error:
            raise OSError(*error.args) from error
        return first + self._rest() if first else b""

    def _rest(self) -> bytes:
        """What else is there; a port that is lost just now says so at the next read, lest the first byte be lost."""
        try:
            if not self._socket:
                return bytes(self._port.read(self._port.in_waiting))
            self._port.timeout = 0  # `in_waiting` of a socket only says whether, not how much
            try:
                return bytes(self._port.read(CHUNK_BYTES))
            finally:
                self._port.timeout = READ_WAIT_S
        except (OSError, termios.error):
            return b""

    def write(self, data: bytes) -> None:
        """Send to the board.

        Raises:
            OSError: the port is gone.
        """
        try:
            self._port.write(data)
        except termios.error as error:
            raise OSError(*error.args) from error

    def close(self) -> None:
        """Close it; what goes wrong there concerns nobody any more."""
        try:
            self._port.close()
        except (OSError, termios.error):
            return


def check_url(target: str, url: str) -> None:
    """Whether a console may be at `url`: a device's path or one of `SCHEMES`.

    Raises:
        UserError: no.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES if name != "loop")
        raise UserError(f"{target}: console {url}: unknown way '{scheme}://'; write a device's path, or one of {known}")
    if scheme.lower() in _NETWORKED and not _has_port(url):
        raise UserError(f"{target}: console {url}: no host and port in it; write {scheme}://HOST:PORT")
    if not separator and not url.startswith("/"):
        raise UserError(f"{target}: console {url}: neither a path such as /dev/ttyUSB0 nor a URL")


def _keep() -> None:
    """Instead of discarding input."""


def _has_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port is not None
    except ValueError:  # a port that is no number
        return False
