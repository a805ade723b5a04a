from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from agents.protocol import agent_pb2

ROOT = Path(__file__).parents[2]


def test_the_generated_code_is_that_of_the_proto_file(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is a development dependency")
    out = tmp_path / "agent.bin"
    code = protoc.main(["protoc", f"-I{ROOT}", f"--descriptor_set_out={out}", "agents/protocol/agent.proto"])
    assert code == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto()
    agent_pb2.DESCRIPTOR.CopyToProto(committed)
    for message in fresh.message_type:
        _without_json_names(message)
    for message in committed.message_type:
        _without_json_names(message)
    assert fresh == committed


def _without_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    """Which of the two carries them depends on the protoc; they follow from the names."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _without_json_names(nested)
