"""Compiled networks for a DPU: rows 15, 21 and 23 of docs/security.md, with stand-ins for AMD's packages.

Permits are signed here by a library of others, never by the code that is tested.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import ed25519
from agents.faults import AgentError, Fault
from agents.permits import PermitDesk, read_public_key
from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import AgentProcess, failure
from tests.agents.runtimes.conftest import STAND_INS, Board, MakeBoard, run

RunAgent = Callable[..., AgentProcess]
MINE, OTHER = 0x101000016010407, 0x101000056010407
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
CONTEXT = b"quantrig permit 1\n"
BOARD = "0" * 64
DIGEST = "a" * 64
NOW = 1_800_000_000


def xmodel(fingerprint: int = MINE, *devices: str) -> bytes:
    parts = [{"device": one, "dpu_fingerprint": fingerprint, "dims": [1, 4]} for one in devices or ("USER", "DPU")]
    return json.dumps({"subgraphs": parts}).encode()


def statement(**changes: object) -> dict[str, object]:
    said: dict[str, object] = {"version": 1, "sha256": DIGEST, "board": BOARD, "nonce": "1" * 32}
    said |= {"issued_unix_s": NOW - 10, "expires_unix_s": NOW + 600}
    return said | changes


def signed(said: dict[str, object] | bytes, key: Ed25519PrivateKey = KEY, context: bytes = CONTEXT) -> pb.Permit:
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    return pb.Permit(statement=data, signature=key.sign(context + data))


def desk(path: Path, now: float = NOW, board: str = BOARD) -> PermitDesk:
    return PermitDesk(PUBLIC, lambda: board, path / "permits.json", lambda: now)


def refused(permits: PermitDesk, permit: pb.Permit, digest: str = DIGEST) -> str:
    with pytest.raises(AgentError) as caught:
        permits.admit(permit, digest)
    assert caught.value.fault in (Fault.REFUSED, Fault.INVALID)
    return caught.value.message


# ---------------------------------------------------------------- signatures


def test_signatures_of_rfc_8032() -> None:
    """Section 7.1, tests 1 to 3."""
    vectors = [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ]
    for public, message, signature in vectors:
        assert ed25519.verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))
        assert not ed25519.verify(bytes.fromhex(public), bytes.fromhex(message) + b"x", bytes.fromhex(signature))


@settings(max_examples=20, deadline=None)
@given(message=st.binary(max_size=200), bit=st.integers(0, 511), seed=st.binary(min_size=32, max_size=32))
def test_signatures_of_another_library(message: bytes, bit: int, seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = key.sign(message)
    assert ed25519.verify(public, message, signature)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not ed25519.verify(public, message, bytes(changed))


def test_a_signature_has_one_form_and_a_key_is_no_small_point() -> None:
    signature = KEY.sign(b"m")
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not ed25519.verify(PUBLIC, b"m", signature[:32] + scalar.to_bytes(32, "little"))
    neutral = (1).to_bytes(32, "little")  # the point that every multiple of is itself: "signs" anything with s = 0
    assert not ed25519.verify(neutral, b"anything", neutral + bytes(32))


def test_the_public_key_is_read_from_pem(tmp_path: Path) -> None:
    path = tmp_path / "signing-key.pem"
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert read_public_key(path) == PUBLIC
    for text in ("", "-----BEGIN PUBLIC KEY-----\n?\n-----END PUBLIC KEY-----\n", "ssh-ed25519 AAAA"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"public key|Ed25519"):
            read_public_key(path)


# ---------------------------------------------------------------- permits


def test_row_23_a_permit_is_good_once_even_for_the_next_agent(tmp_path: Path) -> None:
    permit = signed(statement())
    desk(tmp_path).admit(permit, DIGEST)
    assert "was used before" in refused(desk(tmp_path), permit)
    # The same number in another statement is used up as well.
    assert "was used before" in refused(desk(tmp_path), signed(statement(expires_unix_s=NOW + 700)))
    desk(tmp_path).admit(signed(statement(nonce="2" * 32)), DIGEST)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"board": "1" * 64}, "is for another board"),
        ({"board": ""}, "is for another board"),
        ({"sha256": "b" * 64}, "is for the file bbbb"),
        ({"expires_unix_s": NOW - 1}, "has expired"),
        ({"issued_unix_s": NOW + 3600, "expires_unix_s": NOW + 7200}, "was issued in the future"),
        ({"expires_unix_s": NOW + 10 * 86_400}, "lives longer than 24 hours"),
        ({"nonce": "short"}, "malformed"),
        ({"version": 2}, "malformed"),
        ({"more": 1}, "malformed"),
        ({"expires_unix_s": "soon"}, "malformed"),
    ],
)
def test_row_23_a_permit_for_another_board_file_or_time_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    assert reason in refused(desk(tmp_path), signed(statement(**changes)))


def test_row_23_a_used_number_is_remembered_until_its_permit_has_expired(tmp_path: Path) -> None:
    permit = signed(statement())
    desk(tmp_path).admit(permit, DIGEST)
    assert "has expired" in refused(desk(tmp_path, NOW + 601), permit)
    late = NOW + 86_400
    other = signed(statement(nonce="3" * 32, issued_unix_s=late, expires_unix_s=late + 60))
    desk(tmp_path, late).admit(other, DIGEST)
    assert list(json.loads((tmp_path / "permits.json").read_text())) == ["3" * 32]


def test_row_23_what_was_used_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "permits.json").write_text("{broken")
    assert "permits used before are not known" in refused(desk(tmp_path), signed(statement()))


def test_row_15_only_the_labs_key_signs(tmp_path: Path) -> None:
    permits = desk(tmp_path)
    assert "comes without the lab's permit" in refused(permits, pb.Permit())
    assert "not signed with the signing key" in refused(permits, signed(statement(), Ed25519PrivateKey.generate()))
    assert "not signed with the signing key" in refused(permits, signed(statement(), context=b""))
    changed = signed(statement())
    changed.statement = changed.statement.replace(DIGEST.encode(), b"c" * 64)
    assert "not signed with the signing key" in refused(permits, changed, "c" * 64)
    assert "a permit of 5000 bytes" in refused(permits, signed(b" " * 5000))
    none = PermitDesk(None, lambda: BOARD, tmp_path / "permits.json")
    assert "no signing key of its lab" in refused(none, signed(statement()))


# ---------------------------------------------------------------- agents


@pytest.fixture
def kria(make_board: MakeBoard) -> Board:
    """A KV260 with VART and the lab's public key."""
    board = make_board()
    for name in ("xir.py", "vart.py"):
        shutil.copy(STAND_INS / name, board.folder)
    (board.folder / "dpu.json").write_text(json.dumps({"fingerprint": hex(MINE)}))
    core = {"DPU Arch": "DPUCZDX8G_ISA1_B4096", "DPU Frequency (MHz)": 300, "fingerprint": hex(MINE)}
    query = json.dumps({"kernels": [core]})
    board.write("usr/bin/xdputil", f"#!/bin/sh\necho '{query}'\n", 0o755)
    key = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (board.folder / "signing-key.pem").write_bytes(key)
    return board


def start(run_agent: RunAgent, board: Board) -> AgentProcess:
    return run_agent(board, "--board", "kv260", "--signing-key", str(board.folder / "signing-key.pem"))


def permit_for(agent: AgentProcess, digest: str, nonce: str, **changes: object) -> pb.Permit:
    machine = agent.stub.Describe(pb.DescribeRequest(), timeout=60).machine_id
    now = int(time.time())
    said = {"sha256": digest, "board": machine, "nonce": nonce * 32, "issued_unix_s": now, "expires_unix_s": now + 600}
    return signed(statement(**(said | changes)))


def prepare(agent: AgentProcess, digest: str, permit: pb.Permit | None, runtime: str = "vart") -> pb.PreparedNetwork:
    request = pb.PrepareRequest(digest=digest, runtime=runtime, permit=permit)
    return list(agent.stub.Prepare(request, timeout=60))[-1].ready


def test_row_15_an_xmodel_runs_with_a_permit_only(kria: Board, run_agent: RunAgent) -> None:
    """Also row 21: the stand-in for xir first tries to write to the file that it is given."""
    agent = start(run_agent, kria)
    described = agent.stub.Describe(pb.DescribeRequest(), timeout=60)
    assert {one.name: one.format for one in described.runtimes if not one.problem}["vart"] == "xmodel"
    digest = agent.upload(xmodel())

    code, text = failure(lambda: prepare(agent, digest, None))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "comes without the lab's permit" in text
    # Nor as anything else: no other runtime takes what is no ONNX, and none a permit.
    code, text = failure(lambda: prepare(agent, digest, None, runtime="onnxruntime"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "ONNX network" in text
    code, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "a"), runtime="onnxruntime"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT

    permit = permit_for(agent, digest, "b")
    ready = prepare(agent, digest, permit)
    assert (ready.runtime, list(ready.providers)) == ("vart", ["DPU"])
    assert ready.settings["fix_point.in_fix"] == "6"
    given = np.array([[1, -3, 5, 126]], np.int8)
    np.testing.assert_array_equal(run(agent, ready, "in_fix", given)["out_fix"], given + 1)

    code, text = failure(lambda: prepare(agent, digest, permit))
    assert "was used before" in text
    agent.stop()
    agent = start(run_agent, kria)
    code, text = failure(lambda: prepare(agent, digest, permit))
    assert "was used before" in text
    assert prepare(agent, digest, permit_for(agent, digest, "c")).runtime == "vart"
    code, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "d", board="9" * 64)))
    assert "is for another board" in text
    threads = pb.SessionOptions(intra_op_threads=2)
    fresh = permit_for(agent, digest, "e")
    request = pb.PrepareRequest(digest=digest, runtime="vart", permit=fresh, options=threads)
    code, text = failure(lambda: agent.stub.Prepare(request, timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "runtime vart takes no option intra_op_threads" in text


def test_row_15_a_model_for_another_dpu_is_refused_before_it_is_loaded(kria: Board, run_agent: RunAgent) -> None:
    agent = start(run_agent, kria)
    digest = agent.upload(xmodel(OTHER))
    code, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "a")))
    # Not ABORTED, which is what the vendor's library does to its process.
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"compiled for DPU {OTHER:#x} and this board has {MINE:#x}: compile it again" in text
    mixed = agent.upload(xmodel(MINE, "DPU", "CPU"))
    code, text = failure(lambda: prepare(agent, mixed, permit_for(agent, mixed, "b")))
    assert "not one subgraph for the DPU but DPU, CPU" in text


def test_a_dpu_that_aborts_its_process_leaves_the_agent_serving(kria: Board, run_agent: RunAgent) -> None:
    """The board's own query said otherwise than the DPU: what the comparison could not know."""
    (kria.folder / "dpu.json").write_text(json.dumps({"fingerprint": hex(OTHER)}))
    agent = start(run_agent, kria)
    digest = agent.upload(xmodel())
    code, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "a")))
    assert code is grpc.StatusCode.ABORTED
    assert "fingerprint check failure" in text
    assert agent.stub.Describe(pb.DescribeRequest(), timeout=60).board == "kv260"


def test_row_15_a_board_that_cannot_tell_its_dpu_loads_nothing(kria: Board, run_agent: RunAgent) -> None:
    kria.write("usr/bin/xdputil", "#!/bin/sh\necho 'no DPU here'\n", 0o755)
    agent = start(run_agent, kria)
    digest = agent.upload(xmodel())
    _, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "a")))
    assert "the fingerprint of this board's DPU is not known" in text


def test_row_15_an_agent_without_the_labs_key_takes_no_xmodel(kria: Board, run_agent: RunAgent) -> None:
    agent = run_agent(kria, "--board", "kv260")
    digest = agent.upload(xmodel())
    code, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "a")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "no signing key of its lab" in text


def test_row_21_a_swapped_xmodel_is_not_run(kria: Board, run_agent: RunAgent) -> None:
    agent = start(run_agent, kria)
    digest = agent.upload(xmodel())
    blob = kria.data / "blobs" / digest
    blob.unlink()
    blob.write_bytes(xmodel(MINE, "DPU"))
    code, text = failure(lambda: prepare(agent, digest, permit_for(agent, digest, "a")))
    assert code is grpc.StatusCode.DATA_LOSS
    assert "was damaged" in text
