"""Reading protobuf's wire format one message at a time, without protobuf and without copying.

The reader is stricter than any protobuf library: what two libraries could read differently (a singular field given
twice, two members of a oneof, an unknown field, a padded varint, a group) is refused, so that the runtime which
parses the same bytes afterwards sees what the check saw. Payloads are never read, only stepped over.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: first and one-past-last byte of a piece of the file
Span = tuple[int, int]

#: A string longer than this names nothing and documents nothing.
MAX_STRING_BYTES = 16 << 20
#: A packed run of integers up to this long is decoded; of a longer one only the elements are counted.
DECODED_RUN_BYTES = 1024
_VARINT_BYTES = 10  # 64 bits, seven a byte
_RUN_CHUNK_BYTES = 1 << 20
_CONTINUES = bytes(1 if value >= 0x80 else 0 for value in range(256))

_WIRE_VARINT, _WIRE_FIXED64, _WIRE_LENGTH, _WIRE_FIXED32 = 0, 1, 2, 5
_WIRE_NAMES = {3: "a group", 4: "a group end", 6: "wire type 6", 7: "wire type 7"}


class NetworkRefused(ValueError):
    """The bytes are not a network this agent runs: one line that names the thing and the remedy."""


class Kind(Enum):
    """How a field travels."""

    __hash__ = object.__hash__  # members are singletons; the inherited hash is Python code, and this is the inner loop

    VARINT = "varint"  # int32, int64, uint64, enum
    FIXED32 = "fixed32"  # float
    FIXED64 = "fixed64"  # double
    TEXT = "text"  # UTF-8
    BYTES = "bytes"
    MESSAGE = "message"


_SCALAR_WIRE = {Kind.VARINT: _WIRE_VARINT, Kind.FIXED32: _WIRE_FIXED32, Kind.FIXED64: _WIRE_FIXED64}


@dataclass(frozen=True)
class Field:
    """One field of a message type.

    Args:
        name: as in the .proto file.
        kind: how it travels.
        repeated: whether it may come more than once.
        message: the message type of a `Kind.MESSAGE`.
        slot: the oneof it belongs to, else "".
    """

    name: str
    kind: Kind
    repeated: bool = False
    message: str = ""
    slot: str = ""


@dataclass
class Message:
    """One message, read one level deep.

    Attributes:
        kind: name of the message type.
        depth: messages around this one.
        start: offset of its first byte.
        numbers: values of varint fields, signed 64 bit; a long packed run is only counted.
        counts: elements of each scalar field, packed or not.
        texts: decoded strings.
        spans: where the bytes and the nested messages lie.
    """

    kind: str
    depth: int
    start: int
    numbers: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    spans: dict[str, list[Span]] = field(default_factory=dict)

    def number(self, name: str, default: int = 0) -> int:
        """Value of a singular varint field."""
        values = self.numbers.get(name)
        return values[0] if values else default

    def text(self, name: str) -> str:
        """Value of a singular string field, "" when absent."""
        values = self.texts.get(name)
        return values[0] if values else ""

    def has(self, name: str) -> bool:
        """Whether the field came at all, even empty."""
        return name in self.spans or name in self.counts or name in self.texts


class Reader:
    """Reads messages of known types out of one buffer.

    Args:
        view: the file, as bytes.
        tables: fields by number, for every message type.
        max_depth: messages within messages that are followed.
        max_fields: fields read in total, which bounds the time and the memory of the check.
    """

    def __init__(
        self, view: memoryview, tables: Mapping[str, Mapping[int, Field]], *, max_depth: int, max_fields: int
    ) -> None:
        self._view = view
        self._tables = tables
        self._max_depth = max_depth
        self._fields_left = max_fields

    def read(self, kind: str, span: Span, depth: int) -> Message:
        """Read one message; nested messages stay spans.

        Raises:
            NetworkRefused: the bytes are not a well-formed message of that type, or a limit is passed.
        """
        start, end = span
        if depth > self._max_depth:
            raise NetworkRefused(
                f"{kind} at byte {start} is nested more than {self._max_depth} messages deep; flatten the subgraphs"
            )
        table = self._tables[kind]
        message = Message(kind, depth, start)
        seen: set[str] = set()
        view, position = self._view, start
        while position < end:
            at = position
            tag = view[position]
            position += 1
            if tag >= 0x80:
                tag, position = self._varint(at, end, kind)
            self._spend(kind, at)
            if tag & 7 in _WIRE_NAMES:
                raise self._garbled(_WIRE_NAMES[tag & 7], kind, at)
            entry = table.get(tag >> 3)
            if entry is None:
                raise self._garbled(f"unknown field {tag >> 3}", kind, at)
            if not entry.repeated:
                slot = entry.slot or entry.name
                if slot in seen:
                    raise self._garbled(f"field '{slot}' given twice", kind, at)
                seen.add(slot)
            position = self._value(message, entry, tag & 7, at, position, end)
        return message

    def skim(self, kind: str, span: Span, depth: int) -> None:
        """Check that a message and all within it are well formed, when nothing in it can harm."""
        self.skim_within(self.read(kind, span, depth))

    def skim_within(self, message: Message, but: frozenset[str] = frozenset()) -> None:
        """Check the nested messages of one already read, except the fields named."""
        for entry in self._tables[message.kind].values():
            if entry.kind is Kind.MESSAGE and entry.name not in but:
                for span in message.spans.get(entry.name, ()):
                    self.skim(entry.message, span, message.depth + 1)

    def content(self, span: Span) -> bytes:
        """A copy of a (small) piece of the file."""
        return bytes(self._view[span[0] : span[1]])

    def _value(self, message: Message, entry: Field, wire: int, at: int, position: int, end: int) -> int:
        """Take in one field's value and return the offset after it."""
        name, kind = entry.name, entry.kind
        if wire == _WIRE_LENGTH:
            if position < end and (length := self._view[position]) < 0x80:
                position += 1
            else:
                length, position = self._varint(position, end, message.kind)
            stop = position + length
            if length < 0 or stop > end:
                raise self._garbled(f"field '{name}' runs past the end (a truncated file?)", message.kind, at)
            if kind in _SCALAR_WIRE:
                if not entry.repeated:
                    raise self._garbled(f"field '{name}' has the wrong wire type", message.kind, at)
                self._packed(message, entry, (position, stop))
            elif kind is Kind.TEXT:
                message.texts.setdefault(name, []).append(self._text(name, message.kind, (position, stop)))
            else:
                message.spans.setdefault(name, []).append((position, stop))
            return stop
        if _SCALAR_WIRE.get(kind) != wire:
            raise self._garbled(f"field '{name}' has the wrong wire type", message.kind, at)
        message.counts[name] = message.counts.get(name, 0) + 1
        if kind is Kind.VARINT:
            if position < end and (value := self._view[position]) < 0x80:
                position += 1
            else:
                value, position = self._varint(position, end, message.kind)
            message.numbers.setdefault(name, []).append(value)
            return position
        position += 4 if kind is Kind.FIXED32 else 8
        if position > end:
            raise self._garbled(f"field '{name}' runs past the end (a truncated file?)", message.kind, at)
        return position

    def _packed(self, message: Message, entry: Field, span: Span) -> None:
        """Count the elements of a packed run; decode a short run of integers."""
        name, (start, stop) = entry.name, span
        if entry.kind is not Kind.VARINT:
            width = 4 if entry.kind is Kind.FIXED32 else 8
            count, rest = divmod(stop - start, width)
            if rest:
                raise self._garbled(f"field '{name}' ends within a number", message.kind, start)
        elif stop - start <= DECODED_RUN_BYTES:
            values = message.numbers.setdefault(name, [])
            count, position = 0, start
            while position < stop:
                value, position = self._varint(position, stop, message.kind)
                self._spend(message.kind, position)
                values.append(value)
                count += 1
        else:
            count = self._count_varints(name, message.kind, span)
        message.counts[name] = message.counts.get(name, 0) + count

    def _count_varints(self, name: str, kind: str, span: Span) -> int:
        """Number of varints in a long run, at memory speed: the bytes whose high bit is clear."""
        start, stop = span
        if self._view[stop - 1] >= 0x80:
            raise self._garbled(f"field '{name}' ends within a number", kind, start)
        count, carried = 0, b""
        for offset in range(start, stop, _RUN_CHUNK_BYTES):
            flags = bytes(self._view[offset : min(offset + _RUN_CHUNK_BYTES, stop)]).translate(_CONTINUES)
            count += flags.count(0)
            if b"\x01" * _VARINT_BYTES in carried + flags:
                raise self._garbled(f"field '{name}' holds an over-long number", kind, offset)
            carried = flags[1 - _VARINT_BYTES :]
        return count

    def _text(self, name: str, kind: str, span: Span) -> str:
        start, stop = span
        if stop - start > MAX_STRING_BYTES:
            raise NetworkRefused(
                f"{kind} at byte {start}: '{name}' is {stop - start} bytes long (at most {MAX_STRING_BYTES}); "
                "remove or shorten it"
            )
        try:
            return str(self._view[start:stop], "utf-8")
        except UnicodeDecodeError:
            raise self._garbled(f"field '{name}' is not UTF-8", kind, start) from None

    def _varint(self, position: int, end: int, kind: str) -> tuple[int, int]:
        """One varint as a signed 64-bit number, and the offset after it."""
        view, start, value, shift = self._view, position, 0, 0
        while position < end:
            byte = view[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64 or (byte == 0 and shift):
                    break
                return (value - (1 << 64) if value >> 63 else value), position
            shift += 7
            if shift >= 7 * _VARINT_BYTES:
                break
        else:
            raise self._garbled("a number runs past the end (a truncated file?)", kind, start)
        raise self._garbled("an over-long number", kind, start)

    def _spend(self, kind: str, at: int) -> None:
        self._fields_left -= 1
        if self._fields_left < 0:
            raise NetworkRefused(
                f"too many fields (stopped in {kind} at byte {at}); store tensors as raw_data and split the network"
            )

    @staticmethod
    def _garbled(what: str, kind: str, at: int) -> NetworkRefused:
        return NetworkRefused(f"not a readable ONNX network: {what} in {kind} at byte {at}; export and send it again")
