"""From the bytes of a serial line to clean lines of text, however they are cut, coloured or damaged."""

from __future__ import annotations

import codecs
import re

#: A line longer than this is cut: noise of a wrong baud rate may never hold a line's end.
MAX_LINE_CHARACTERS = 4096

#: Control sequences of ECMA-48: CSI (5.4), the control strings DCS, SOS, OSC, PM and APC (5.6), and two-character
#: escapes with intermediate bytes (ECMA-35 13). A string ends with ST or, as xterm allows for OSC, with BEL.
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[PX\]^_][^\x1b\x07]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-~]"
)
#: The beginning of such a sequence at the end of what has come so far.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[PX\]^_][^\x1b\x07]*\x1b?|[ -/]*)?$")
_LINE_END = re.compile(r"[\r\n]+")


class LineAssembler:
    """Collects bytes and gives lines: UTF-8 with U+FFFD for what is none, no escapes, no control characters.

    Carriage returns end a line too (a progress display overwrites itself); empty lines are left out.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *ended, self._pending = _LINE_END.split(self._pending + self._decoder.decode(data))
        if len(self._pending) > MAX_LINE_CHARACTERS:
            ended.append(self._pending)
            self._pending = ""
        lines = []
        for raw in ended:
            text = clean(raw)
            lines += [text[at : at + MAX_LINE_CHARACTERS] for at in range(0, len(text), MAX_LINE_CHARACTERS)]
        return lines

    @property
    def partial(self) -> str:
        """The line that has begun and not ended, such as a login prompt."""
        return clean(_UNFINISHED.sub("", self._pending))

    def flush(self) -> str:
        """Give the begun line up as if it had ended; "" where there is none."""
        text = self.partial
        self._pending = ""
        self._decoder.reset()
        return text


def clean(text: str) -> str:
    """`text` without escapes and control characters; tabs become blanks, blanks at the end go."""
    plain = _ESCAPE.sub("", text).replace("\t", " ")
    return "".join(character for character in plain if character >= " " and not "\x7f" <= character <= "\x9f").rstrip()
