"""What a stand-in says is programmed: skipped by digest, boot and device; never believed from a file of elsewhere."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import grpc
import pytest

from agents.boards.base import Identity
from agents.programming import ProgrammableLogic, device_fingerprint
from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import AgentProcess, StartAgent, failure, relu_bytes

DESIGN, OTHER_DESIGN = hashlib.sha256(b"B4096").hexdigest(), hashlib.sha256(b"B512").hexdigest()
NETWORK, OTHER_NETWORK = "1" * 64, "2" * 64


def program(agent: AgentProcess, design: str, digest: str) -> tuple[bool, bool]:
    reply = agent.stub.Program(pb.ProgramRequest(design=design, digest=digest), timeout=60)
    who = agent.stub.Describe(pb.DescribeRequest(), timeout=60)
    assert reply.boot_id == who.boot_id
    assert len(reply.device) == 64
    return reply.design_loaded, reply.network_loaded


def test_the_same_again_is_skipped_by_a_later_agent_too(start_agent: StartAgent, tmp_path: Path) -> None:
    options = ("--emulated", "--board", "zcu102")
    first = start_agent(*options, data_dir=tmp_path / "board")
    if not first.stub.Describe(pb.DescribeRequest(), timeout=60).boot_id:
        pytest.skip("this machine has no boot id: nothing is ever skipped")
    one, two = first.upload(relu_bytes("a")), first.upload(relu_bytes("b"))
    assert program(first, DESIGN, one) == (False, False)
    assert program(first, DESIGN, one) == (True, True)
    assert program(first, DESIGN, two) == (True, False)  # the design stays, the network is another
    assert program(first, OTHER_DESIGN, one) == (False, False)
    assert program(first, DESIGN, two) == (True, True)
    assert first.stop() == 0
    kept = tmp_path / "board" / "programmed.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = start_agent(*options, data_dir=tmp_path / "board")
    assert program(again, DESIGN, two) == (True, True)
    assert again.stop() == 0
    # the same folder found after another boot
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"boot_id": "another"}))
    rebooted = start_agent(*options, data_dir=tmp_path / "board")
    assert program(rebooted, DESIGN, two) == (False, False)
    # … or by a stand-in for another board
    assert rebooted.stop() == 0
    other = start_agent("--emulated", "--board", "kv260", data_dir=tmp_path / "board")
    assert program(other, DESIGN, two) == (False, False)


def test_a_real_board_a_missing_network_and_nonsense_are_refused(start_agent: StartAgent) -> None:
    real, standin = start_agent(), start_agent("--emulated")
    digest = real.upload(relu_bytes())

    def refused(agent: AgentProcess, **request: str) -> grpc.StatusCode:
        return failure(lambda: agent.stub.Program(pb.ProgramRequest(**request), timeout=60))[0]

    assert refused(real, design=DESIGN, digest=digest) is grpc.StatusCode.FAILED_PRECONDITION
    assert refused(standin, design=DESIGN, digest=digest) is grpc.StatusCode.NOT_FOUND
    assert refused(standin, design="../zcu102", digest=digest) is grpc.StatusCode.INVALID_ARGUMENT
    assert refused(standin, design=DESIGN, digest="") is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        '{"boot_id": "b", "device": "d", "designs": [1]}',
        '{"boot_id": "b", "device": "d", "designs": {"x": "y"}}',
        '{"boot_id": "b", "device": "d", "designs": {"' + DESIGN + '": 7}}',
    ],
)
def test_a_damaged_file_is_an_empty_board(tmp_path: Path, content: str) -> None:
    path = tmp_path / "programmed.json"
    path.write_text(content)
    logic = ProgrammableLogic(path, "b", "d")
    assert not logic.program(DESIGN, NETWORK).design_loaded
    assert logic.program(DESIGN, NETWORK).network_loaded


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    ProgrammableLogic(elsewhere, "b", "d").program(DESIGN, NETWORK)
    before = elsewhere.read_bytes()
    link = tmp_path / "programmed.json"
    link.symlink_to(elsewhere)
    assert not ProgrammableLogic(link, "b", "d").program(DESIGN, OTHER_NETWORK).design_loaded
    assert elsewhere.read_bytes() == before
    assert not link.is_symlink()


def test_without_a_boot_id_nothing_is_remembered(tmp_path: Path) -> None:
    logic = ProgrammableLogic(tmp_path / "programmed.json", "", "d")
    logic.program(DESIGN, NETWORK)
    assert not logic.program(DESIGN, NETWORK).design_loaded
    assert not (tmp_path / "programmed.json").exists()


def test_the_file_stays_small(tmp_path: Path) -> None:
    logic = ProgrammableLogic(tmp_path / "programmed.json", "b", "d")
    for number in range(100):
        logic.program(f"{number:064x}", NETWORK)
    assert (tmp_path / "programmed.json").stat().st_size < 16_000
    assert logic.program(f"{99:064x}", NETWORK).network_loaded
    assert not logic.program(f"{0:064x}", NETWORK).design_loaded


def test_devices_are_told_apart() -> None:
    def who(model: str, machine: str) -> Identity:
        return Identity(model, "h", machine, "b", "os", "aarch64", "cpu", 4, (), 1, 1)

    prints = {
        device_fingerprint(kind, who(model, machine))
        for kind in ("zcu102", "zcu104")
        for model in ("m", "n")
        for machine in ("1", "2")
    }
    assert len(prints) == 8
