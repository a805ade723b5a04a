"""Reading and writing a serialized network piece by piece: its large tensors never pass through memory.

Field numbers are those of onnx.proto; the encoding is protobuf's (tag = number << 3 | kind, lengths as varints).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message
from onnx import GraphProto, ModelProto, TensorProto

GRAPH_OF_MODEL = 7
INITIALIZER_OF_GRAPH = 5
RAW_DATA_OF_TENSOR = 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: A varint of 64 bits takes ten bytes at most.
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a serialized message: all of it is data[start:end], its payload data[payload:end]."""

    number: int
    start: int
    payload: int
    end: int


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in data[start:end], in order.

    Raises:
        DecodeError: not a protobuf message, or cut off.
    """
    at = start
    while at < end:
        tag, after = _varint(data, at, end)
        kind = tag & 7
        payload = after
        if kind == _VARINT:
            _, stop = _varint(data, after, end)
        elif kind == _BYTES:
            length, payload = _varint(data, after, end)
            stop = payload + length
        elif kind in {_FIXED64, _FIXED32}:
            stop = after + (8 if kind == _FIXED64 else 4)
        else:
            msg = f"field of kind {kind} at byte {at}"
            raise DecodeError(msg)
        if stop > end:
            msg = f"cut off at byte {end}"
            raise DecodeError(msg)
        yield Field(tag >> 3, at, payload, stop)
        at = stop


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(_LONGEST_VARINT):
        if at + index >= end:
            msg = f"cut off at byte {end}"
            raise DecodeError(msg)
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    msg = f"no length at byte {at}"
    raise DecodeError(msg)


def varint(value: int) -> bytes:
    """An unsigned integer in protobuf's encoding."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def header(number: int, length: int) -> bytes:
    """What stands before a payload of `length` bytes in field `number`."""
    return varint(number << 3 | _BYTES) + varint(length)


def split_model(data: memoryview, least: int) -> tuple[ModelProto, dict[int, tuple[int, int]]]:
    """A serialized network without the raw data of its large initializers.

    Args:
        data: the whole file, mapped.
        least: raw data of at least so many bytes are left out.

    Returns:
        the network, and index of an initializer → (first byte, length) of the raw data it lacks.

    Raises:
        DecodeError: not a network, or cut off.
    """
    rest, graph = bytearray(), bytearray()
    tensors: list[TensorProto] = []
    left_out: dict[int, tuple[int, int]] = {}
    for field in fields(data, 0, len(data)):
        if field.number != GRAPH_OF_MODEL:
            rest += data[field.start : field.end]
            continue
        for inner in fields(data, field.payload, field.end):
            if inner.number != INITIALIZER_OF_GRAPH:
                graph += data[inner.start : inner.end]
                continue
            tensor, span = _split_tensor(data, inner, least)
            if span is not None:
                left_out[len(tensors)] = span
            tensors.append(tensor)
    model = ModelProto.FromString(bytes(rest))
    if graph or tensors:
        model.graph.MergeFrom(GraphProto.FromString(bytes(graph)))
        model.graph.initializer.extend(tensors)
    return model, left_out


def _split_tensor(data: memoryview, whole: Field, least: int) -> tuple[TensorProto, tuple[int, int] | None]:
    kept, span = bytearray(), None
    for field in fields(data, whole.payload, whole.end):
        if field.number == RAW_DATA_OF_TENSOR and field.end - field.payload >= least:
            span = (field.payload, field.end - field.payload)
        else:
            kept += data[field.start : field.end]
    return TensorProto.FromString(bytes(kept)), span


def around(message: Message, number: int) -> tuple[bytes, bytes]:
    """What a message serializes to before and after field `number`, which is left out.

    Serialized fields stand in the order of their numbers, so before + field + after is the message.
    """
    before, after = type(message)(), type(message)()
    before.CopyFrom(message)
    after.CopyFrom(message)
    for descriptor, _ in message.ListFields():
        if descriptor.number >= number:
            before.ClearField(descriptor.name)
        if descriptor.number <= number:
            after.ClearField(descriptor.name)
    return bytes(before.SerializeToString(deterministic=True)), bytes(after.SerializeToString(deterministic=True))
