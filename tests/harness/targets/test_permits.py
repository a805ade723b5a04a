"""Permits signed here are those that an agent admits; keys never leave their folder by accident."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agents.faults import AgentError
from agents.permits import PermitDesk, read_public_key
from agents.protocol import agent_pb2 as pb
from harness.errors import UserError
from harness.targets.certificates import create_lab, issue_agent, issue_host
from harness.targets.permits import create_signing_key, sign_permit

FILE, BOARD = "a" * 64, "b" * 64


def test_an_agent_admits_a_permit_once_with_the_key_that_came_with_its_certificate(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    create_lab(lab, "bench")
    create_signing_key(lab)
    issue_agent(lab, "kria", ["127.0.0.1"], tmp_path / "kria-tls")
    key = read_public_key(tmp_path / "kria-tls" / "signing-key.pem")
    desk = PermitDesk(key, lambda: BOARD, tmp_path / "permits.json")
    signed = sign_permit(lab, FILE, BOARD)
    permit = pb.Permit(statement=signed.statement, signature=signed.signature)
    desk.admit(permit, FILE)
    with pytest.raises(AgentError, match="was used before"):
        desk.admit(permit, FILE)
    for refused, reason in (
        (sign_permit(lab, FILE, "c" * 64), "is for another board"),
        (sign_permit(lab, FILE, BOARD, life_s=100_000), "lives longer than 24 hours"),
    ):
        with pytest.raises(AgentError, match=reason):
            desk.admit(pb.Permit(statement=refused.statement, signature=refused.signature), FILE)


def test_the_private_key_stays_where_it_was_made(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    create_lab(lab, "bench")
    create_signing_key(lab)
    assert stat.S_IMODE((lab / "signing-private.pem").stat().st_mode) == 0o600
    issue_agent(lab, "kria", ["127.0.0.1"], tmp_path / "agent")
    issue_host(lab, "laptop", tmp_path / "host")
    assert "PRIVATE" not in (tmp_path / "agent" / "signing-key.pem").read_text()
    assert not (tmp_path / "host" / "signing-key.pem").exists()
    with pytest.raises(UserError, match="exists already and is never overwritten"):
        create_signing_key(lab)


def test_what_cannot_be_signed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"signing-private\.pem cannot be read"):
        sign_permit(tmp_path, FILE, BOARD)
    (tmp_path / "signing-private.pem").write_text("no key")
    with pytest.raises(UserError, match="is no private key in PEM"):
        sign_permit(tmp_path, FILE, BOARD)
    with pytest.raises(UserError, match="is no digest of a file"):
        sign_permit(tmp_path, "net.xmodel", BOARD)
    with pytest.raises(UserError, match="is no machine id of a board"):
        sign_permit(tmp_path, FILE, "kria")
