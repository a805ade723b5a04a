"""The protocol only grows: what a version once wrote, every later one reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from agents.protocol import agent_pb2

#: The protocol as its version 1 first went out (`protoc --descriptor_set_out`); a release adds a file, changes none.
RECORDED = sorted((Path(__file__).parents[1] / "vectors").glob("agent_protocol_*.pb"))


def breaks(old: descriptor_pb2.FileDescriptorProto, new: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """What a peer of the old version would misread or miss in the new one."""
    found = [] if old.package == new.package else ["another package"]
    messages = {message.name: message for message in new.message_type}
    for message in old.message_type:
        found += _message(message, messages.get(message.name), message.name)
    for service in old.service:
        methods = {method.name: method for one in new.service if one.name == service.name for method in one.method}
        for method in service.method:
            if methods.get(method.name) != method:
                found.append(f"{service.name}.{method.name} is gone or changed")
    return found


def _message(old: descriptor_pb2.DescriptorProto, new: descriptor_pb2.DescriptorProto | None, name: str) -> list[str]:
    if new is None:
        return [f"{name} is gone"]
    found = []
    fields = {field.number: field for field in new.field}
    for field in old.field:
        now = fields.get(field.number)
        if now is None or _meaning(field, old) != _meaning(now, new):
            found.append(f"{name}.{field.name} ({field.number}) is gone or changed")
    nested = {message.name: message for message in new.nested_type}
    for message in old.nested_type:
        found += _message(message, nested.get(message.name), f"{name}.{message.name}")
    return found


def _meaning(field: descriptor_pb2.FieldDescriptorProto, of: descriptor_pb2.DescriptorProto) -> tuple[object, ...]:
    """All of a field that bytes depend on, and its name; a oneof by its name, since it is numbered by its place."""
    oneof = of.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return field.name, field.type, field.label, field.type_name, field.proto3_optional, oneof


def now() -> descriptor_pb2.FileDescriptorProto:
    committed = descriptor_pb2.FileDescriptorProto()
    agent_pb2.DESCRIPTOR.CopyToProto(committed)
    return committed


def test_there_is_something_to_hold_it_against() -> None:
    assert RECORDED


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_everything_recorded_is_still_there(path: Path) -> None:
    (old,) = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
    assert breaks(old, now()) == []


def test_every_kind_of_break_is_found() -> None:
    """The comparison itself: each change is one that would confuse an old peer."""
    for number, change in enumerate((_renumber, _retype, _rename, _drop, _leave_oneof, _drop_call, _stream)):
        changed = now()
        change(changed)
        assert len(breaks(now(), changed)) == 1, f"change {number} of the list"
    grown = now()
    grown.message_type[0].field.add(name="more", number=99, type=9, label=1)
    grown.message_type.add(name="More")
    assert breaks(now(), grown) == []


def _named(file: descriptor_pb2.FileDescriptorProto, name: str) -> descriptor_pb2.DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def _renumber(file: descriptor_pb2.FileDescriptorProto) -> None:
    _named(file, "Block").field[2].number = 77


def _retype(file: descriptor_pb2.FileDescriptorProto) -> None:
    _named(file, "Block").field[1].type = descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT


def _rename(file: descriptor_pb2.FileDescriptorProto) -> None:
    _named(file, "Block").field[3].name = "watch"


def _drop(file: descriptor_pb2.FileDescriptorProto) -> None:
    del _named(file, "TensorSpec").field[1]


def _leave_oneof(file: descriptor_pb2.FileDescriptorProto) -> None:
    _named(file, "PrepareEvent").field[0].ClearField("oneof_index")


def _drop_call(file: descriptor_pb2.FileDescriptorProto) -> None:
    del file.service[0].method[0]


def _stream(file: descriptor_pb2.FileDescriptorProto) -> None:
    file.service[0].method[0].server_streaming = True
