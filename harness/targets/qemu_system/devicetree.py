"""A device tree as a kernel reads it: the flattened format of the Devicetree Specification 0.4, chapter 5."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Text; texts; 32-bit cells; bytes as they are; True is a property without a value.
Value = str | Sequence[str] | int | Sequence[int] | bytes | bool

_MAGIC, _VERSION, _OLDEST_READER = 0xD00DFEED, 17, 16
_BEGIN, _END_NODE, _PROPERTY, _END = 1, 2, 3, 9
_HEADER_BYTES, _RESERVED_BYTES = 40, 16


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree.

    Args:
        properties: by name.
        children: by name with unit address.
    """

    properties: Mapping[str, Value] = field(default_factory=dict)
    children: Mapping[str, Node] = field(default_factory=dict)


def flatten(root: Node) -> bytes:
    """The tree as one block, version 17, without reserved memory."""
    names: dict[str, int] = {}
    words = bytearray()
    _write(words, "", root, names)
    words += struct.pack(">I", _END)
    strings = b"".join(name.encode() + b"\0" for name in names)
    at_words = _HEADER_BYTES + _RESERVED_BYTES
    at_strings = at_words + len(words)
    header = struct.pack(
        ">10I", _MAGIC, at_strings + len(strings), at_words, at_strings, _HEADER_BYTES, _VERSION, _OLDEST_READER, 0,
        len(strings), len(words),
    )  # fmt: skip
    return header + bytes(_RESERVED_BYTES) + bytes(words) + strings


def _write(words: bytearray, name: str, node: Node, names: dict[str, int]) -> None:
    words += struct.pack(">I", _BEGIN) + _padded(name.encode() + b"\0")
    for key, value in node.properties.items():
        if key not in names:
            names[key] = sum(len(known.encode()) + 1 for known in names)
        data = _bytes_of(value)
        words += struct.pack(">3I", _PROPERTY, len(data), names[key]) + _padded(data)
    for key, child in node.children.items():
        _write(words, key, child, names)
    words += struct.pack(">I", _END_NODE)


def _bytes_of(value: Value) -> bytes:
    if value is True:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode() + b"\0"
    if isinstance(value, int):
        return struct.pack(">I", value)
    return b"".join(_bytes_of(one) for one in value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
