"""Questions to the firmware of a Raspberry Pi: through its device node, else through `vcgencmd`.

The device node takes a property message (raspberrypi/firmware wiki, "Mailbox property interface"): 32-bit words, size
and code of the message, then tags, each with the size of its buffer and a response word. The tag GET_GENCMD_RESULT
carries what vcgencmd sends and prints: an error number, then the text.
"""

from __future__ import annotations

import fcntl
import os
import struct

from agents.boards.sources import Sources

_NODE = "dev/vcio"
_GET_GENCMD_RESULT = 0x00030080
_TEXT_BYTES = 1024
_HEADER = struct.Struct("=6I")
_END = struct.Struct("=I")
#: Asked for, of linux/ioctl.h: _IOWR(100, 0, char *), whose size is a pointer's.
_IOWR = 3 << 30 | struct.calcsize("P") << 16 | 100 << 8
_TOOL_TIMEOUT_S = 2.0


def question(command: str) -> bytearray:
    """The message that asks `command`.

    Raises:
        ValueError: it does not fit.
    """
    text = command.encode("ascii") + b"\0"
    if len(text) > _TEXT_BYTES:
        raise ValueError(f"a command of {len(text)} bytes: at most {_TEXT_BYTES}")
    size = _HEADER.size + _TEXT_BYTES + _END.size
    header = _HEADER.pack(size, 0, _GET_GENCMD_RESULT, _TEXT_BYTES, 0, 0)
    return bytearray(header + text.ljust(_TEXT_BYTES, b"\0") + _END.pack(0))


def answer(message: bytes | bytearray) -> str:
    """The text of a message that came back; "" when the firmware refused it."""
    _, code, tag, _, _, error = _HEADER.unpack_from(message)
    if code != 0x80000000 or tag != _GET_GENCMD_RESULT or error:
        return ""
    text = bytes(message[_HEADER.size : _HEADER.size + _TEXT_BYTES])
    return text.partition(b"\0")[0].decode("ascii", "replace")


class Firmware:
    """One way to ask, found when it is made; the device node costs no process."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._node: int | None = None
        self._is_node = bool(self._ask_node("version"))
        if not self._is_node:
            self.close()

    @property
    def is_node(self) -> bool:
        """Whether questions go through the device node."""
        return self._is_node

    def ask(self, *words: str) -> str:
        """What `vcgencmd` prints for these words; "" when there is no firmware to ask."""
        if self._is_node:
            return self._ask_node(" ".join(words))
        return self._sources.run(["vcgencmd", *words], timeout_s=_TOOL_TIMEOUT_S) or ""

    def close(self) -> None:
        """Let go of the device node, until the next question."""
        if self._node is not None:
            os.close(self._node)
            self._node = None

    def _ask_node(self, command: str) -> str:
        message = question(command)
        try:
            if self._node is None:
                self._node = os.open(self._sources.path(_NODE), os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(self._node, _IOWR, message, True)
        except OSError:
            return ""
        return answer(message)
