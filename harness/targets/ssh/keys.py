"""The lab's certificates in provisioning: what is there, what must be made, and the board's own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from platformdirs import user_config_path

from harness.errors import Refused, UserError
from harness.targets.addresses import Address
from harness.targets.certificates import create_lab, issue_agent, issue_host
from harness.targets.state import file_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.targets.target import Target

#: As `quantrig certificates create` names it.
AUTHORITY = "lab-ca"
#: A board's certificate is renewed when it has fewer days left: a lab provisions its boards more often than that.
RENEW_BEFORE = dt.timedelta(days=60)


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What certificates a target needs.

    Args:
        authority: folder of the lab's CA.
        make_authority: it is not there yet.
        host: folder of this host's certificate.
        make_host: it is not there yet.
        names: under which hosts reach the board.
        issue: why the board gets a certificate; None: it has a good one.
    """

    authority: Path
    make_authority: bool
    host: Path
    make_host: bool
    names: tuple[str, ...]
    issue: str | None


def plan_keys(target: Target, ca: Path | None, on_board: tuple[str | None, str | None, bool]) -> KeyPlan | None:
    """Look at this machine's and the board's certificates.

    Args:
        target: entry of the lab file.
        ca: folder of the lab's authority; None: `lab-ca` beside the lab file, else in the user's configuration.
        on_board: its ca.pem, its agent.pem, and whether its key is there.

    Returns:
        None for an address without TLS.

    Raises:
        UserError: certificates of this machine that do not belong together, or an authority that is elsewhere.
        Refused: the board belongs to another lab.
    """
    assert target.via.address is not None
    address = Address.parse(target.name, target.via.address, tls=target.via.tls)
    if address.tls is None:
        return None
    folder = _authority(target, ca)
    have_authority = (folder / "ca-key.pem").is_file()
    have_host = (address.tls / "host.pem").is_file()
    if not have_authority and (have_host or (address.tls / "ca.pem").is_file()):
        raise UserError(
            f"{target.name}: the authority that made {address.tls} is not in {folder}; provision from the machine that "
            "has it, or give its folder with --ca"
        )
    board_ca, board_certificate, board_key = on_board
    if have_authority:
        ours = (folder / "ca.pem").read_bytes()
        if have_host and (address.tls / "ca.pem").read_bytes() != ours:
            raise UserError(
                f"{target.name}: {address.tls} is of another lab than {folder}; "
                "give the folder of its authority with --ca"
            )
    if board_ca is not None and not (have_authority and board_ca.encode() == (folder / "ca.pem").read_bytes()):
        raise Refused(
            target.name,
            "the board belongs to another lab (its agent trusts another authority); give that one's folder with --ca, "
            f"or take the agent away first: quantrig targets unprovision {target.name}",
        )
    names = tuple(dict.fromkeys([address.host, *_certifiable(target.ssh.host if target.ssh is not None else "")]))
    why = "the board has none"
    if board_certificate is not None and board_key:
        why = _flaw(board_certificate.encode(), names, (folder / "ca.pem").read_bytes() if have_authority else b"")
    return KeyPlan(folder, not have_authority, address.tls, not have_host, names, why or None)


def make_own(plan: KeyPlan) -> None:
    """Make the lab's authority and this host's certificate where they are missing."""
    if plan.make_authority:
        create_lab(plan.authority, "lab")
    if plan.make_host:
        issue_host(plan.authority, _host_label(), plan.host)


def board_files(target: Target, plan: KeyPlan) -> Mapping[str, tuple[bytes, int]]:
    """The board's certificate, freshly issued: content and mode by file name. The key stays in memory here."""
    with tempfile.TemporaryDirectory(prefix="quantrig-tls-") as folder:
        out = Path(folder) / "tls"
        issue_agent(plan.authority, target.name, plan.names, out)
        return {
            name: ((out / name).read_bytes(), mode)
            for name, mode in (("ca.pem", 0o644), ("agent.pem", 0o644), ("agent-key.pem", 0o600))
        }


def _authority(target: Target, ca: Path | None) -> Path:
    if ca is not None:
        if not (ca / "ca-key.pem").is_file():
            raise UserError(f"--ca {ca}: no ca-key.pem there; name the folder that `quantrig certificates create` made")
        return ca
    if target.via.machine is not None and target.via.tls is not None:
        return target.via.tls.parent / "ca"  # the emulated lab's own (`harness.targets.qemu_system.keys`)
    beside = target.base / AUTHORITY
    # Made in the user's configuration, not beside the lab file: that often lies in a repository, a key never should.
    return beside if (beside / "ca-key.pem").is_file() else user_config_path("quantrig") / AUTHORITY


def _certifiable(host: str) -> list[str]:
    """The SSH host as a second name, unless it is one that a certificate cannot have (an alias with `_`, a zone)."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return [host] if host and all(part.replace("-", "").isalnum() for part in host.split(".")) else []


def _flaw(pem: bytes, names: tuple[str, ...], authority: bytes) -> str:
    """Why the board's certificate will not do; "" when it will."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        issuer = x509.load_pem_x509_certificate(authority)
        certificate.verify_directly_issued_by(issuer)
        shown = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return "the board's cannot be used"
    held = {*shown.get_values_for_type(x509.DNSName), *map(str, shown.get_values_for_type(x509.IPAddress))}
    if missing := [name for name in names if name not in held]:
        return f"the board's does not name {', '.join(missing)}"
    if certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) < RENEW_BEFORE:
        return f"the board's ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
    return ""


def _host_label() -> str:
    name = file_name(socket.gethostname()).lower().replace("_", "-").replace(".", "-")[:64].strip("-")
    return name or "host"
