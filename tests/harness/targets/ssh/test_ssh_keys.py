"""Which certificates provisioning makes, keeps and refuses."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from harness.errors import Refused, UserError
from harness.targets import certificates
from harness.targets.certificates import create_lab, issue_agent, issue_host
from harness.targets.ssh.keys import KeyPlan, board_files, make_own, plan_keys
from harness.targets.target import Ssh, Target, Via

NOTHING = (None, None, False)


def board(folder: Path, address: str = "rpi5.lab:50443", host: str = "192.168.7.20") -> Target:
    return Target("rpi5", "generic", "cpu", Via("address", address, folder / "lab"), folder, ssh=Ssh(host))


def on_board(target: Target, plan: KeyPlan) -> tuple[str, str, bool]:
    files = board_files(target, plan)
    return files["ca.pem"][0].decode(), files["agent.pem"][0].decode(), True


def planned(target: Target, found: tuple[str | None, str | None, bool] = NOTHING, ca: Path | None = None) -> KeyPlan:
    plan = plan_keys(target, ca, found)
    assert plan is not None
    return plan


def test_a_first_board_makes_the_lab_in_the_users_configuration(tmp_path: Path) -> None:
    target = board(tmp_path)
    plan = planned(target)
    assert (plan.make_authority, plan.make_host, plan.names) == (True, True, ("rpi5.lab", "192.168.7.20"))
    assert "config" in plan.authority.parts  # not beside a lab file that may lie in a repository
    assert not plan.authority.exists()  # planning makes nothing
    make_own(plan)
    certificate = x509.load_pem_x509_certificate(board_files(target, plan)["agent.pem"][0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["rpi5.lab"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.168.7.20"]
    assert board_files(target, plan)["agent-key.pem"][1] == 0o600
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(tmp_path / "lab" / "host.pem", tmp_path / "lab" / "host-key.pem")


def test_a_good_certificate_is_kept_and_others_are_renewed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = board(tmp_path)
    make_own(planned(target))
    plan = planned(target)
    assert not plan.make_authority
    assert not plan.make_host
    good = on_board(target, plan)
    assert planned(target, good).issue is None
    assert planned(target, (good[0], good[1], False)).issue == "the board has none"
    assert planned(target, (good[0], "nonsense", True)).issue == "the board's cannot be used"
    moved = board(tmp_path, address="rpi6.lab:50443")
    assert planned(moved, good).issue == "the board's does not name rpi6.lab"
    monkeypatch.setattr(certificates, "CERTIFICATE_VALIDITY", dt.timedelta(days=59))
    ending = on_board(target, plan)
    assert str(planned(target, ending).issue).startswith("the board's ends on 2")


def test_a_board_of_another_lab_is_not_taken_over(tmp_path: Path) -> None:
    target = board(tmp_path)
    create_lab(tmp_path / "theirs", "theirs")
    issue_agent(tmp_path / "theirs", "rpi5", ["rpi5.lab"], tmp_path / "their-board")
    theirs = tuple((tmp_path / "their-board" / name).read_text() for name in ("ca.pem", "agent.pem"))
    for _ in range(2):  # before this lab exists, and after
        with pytest.raises(Refused, match="belongs to another lab"):
            plan_keys(target, None, (theirs[0], theirs[1], True))
        if not (tmp_path / "lab").exists():
            make_own(planned(target))
    with pytest.raises(UserError, match="is of another lab than"):
        plan_keys(target, tmp_path / "theirs", NOTHING)


def test_an_authority_that_is_elsewhere_is_asked_for(tmp_path: Path) -> None:
    create_lab(tmp_path / "safe", "bench")
    issue_host(tmp_path / "safe", "laptop", tmp_path / "lab")
    with pytest.raises(UserError, match="give its folder with --ca"):
        plan_keys(board(tmp_path), None, NOTHING)
    assert planned(board(tmp_path), ca=tmp_path / "safe").authority == tmp_path / "safe"
    (tmp_path / "safe").rename(tmp_path / "lab-ca")  # as `quantrig certificates create` leaves it beside the lab file
    assert planned(board(tmp_path)).authority == tmp_path / "lab-ca"
    with pytest.raises(UserError, match=r"no ca-key\.pem there"):
        plan_keys(board(tmp_path), tmp_path / "absent", NOTHING)


def test_a_plain_address_needs_none(tmp_path: Path) -> None:
    target = Target("rpi5", "generic", "cpu", Via("address", "127.0.0.1:1"), tmp_path, ssh=Ssh("h"))
    assert plan_keys(target, None, NOTHING) is None
