"""The short way of writing a piece of a file writes what protobuf writes."""

from __future__ import annotations

import os

import pytest

from agents.protocol import CHUNK_BYTES, agent_pb2
from agents.protocol.agent_pb2 import UploadHeader, UploadRequest
from agents.protocol.pieces import UPLOAD_PATH, encode


@pytest.mark.parametrize("size", [0, 1, 127, 128, (1 << 14) - 1, 1 << 14, 512 << 10, CHUNK_BYTES, 1 << 21])
def test_a_piece_is_the_same_message(size: int) -> None:
    data = os.urandom(size)
    message = encode(memoryview(data))
    assert message == UploadRequest(chunk=data).SerializeToString()
    assert UploadRequest.FromString(message).chunk == data


def test_only_the_part_of_a_buffer_that_is_seen_is_sent() -> None:
    buffer = memoryview(bytearray(b"abcdef"))
    assert UploadRequest.FromString(encode(buffer[2:4])).chunk == b"cd"


def test_a_header_is_the_same_message() -> None:
    request = UploadRequest(header=UploadHeader(digest="ab" * 32, size_bytes=1 << 40, offset=3))
    assert encode(request) == request.SerializeToString()


def test_the_path_is_that_of_the_protocol() -> None:
    service = agent_pb2.DESCRIPTOR.services_by_name["Agent"]
    assert f"/{service.full_name}/{service.methods_by_name['Upload'].name}" == UPLOAD_PATH
