"""The lab's own certificate authority, and the certificates of its agents and hosts.

    create_lab(Path("~/.config/quantrig/lab").expanduser(), "bench-3")
    issue_agent(lab_folder, "rpi5", ["rpi5.lab", "192.168.7.20"], out=Path("rpi5-tls"))   # copy to the board: --tls
    issue_host(lab_folder, "laptop", out=Path("laptop-tls"))                              # stays on the host

A certificate says in a URI of its subject alternative names what its holder is, `quantrig://agent` or
`quantrig://host`, and by its extended key usage it can be nothing else: an agent's key cannot call another agent, a
host's key cannot pose as a board. No public authority is trusted on either side.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

AGENT_ROLE = "quantrig://agent"
HOST_ROLE = "quantrig://host"
#: The lab's public signing key, beside its authority and every agent's certificate.
SIGNING_KEY = "signing-key.pem"
#: A lab outlives its boards; a new authority means visiting each of them.
AUTHORITY_VALIDITY = dt.timedelta(days=3650)
#: A board is reflashed, and its certificate renewed, within about two years.
CERTIFICATE_VALIDITY = dt.timedelta(days=825)
#: Boards without a battery-backed clock start in the past.
_CLOCK_SLACK = dt.timedelta(days=1)
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*")


def create_lab(folder: Path, lab: str) -> None:
    """Make the lab's authority: `ca.pem` to hand out, `ca-key.pem` (mode 0600) to keep.

    Args:
        folder: where; made with mode 0700 when missing. It stays on the machine that issues certificates.
        lab: name of the lab, `[a-z0-9-]{1,64}`.

    Raises:
        UserError: the lab exists already (it is never overwritten), or the name or folder will not do.
    """
    _check_name(lab, "lab")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "quantrig lab"),
            x509.NameAttribute(NameOID.COMMON_NAME, lab),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + AUTHORITY_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    make_folder(folder)
    write_new(folder / "ca-key.pem", _private_pem(key), 0o600)
    write_new(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def issue_agent(folder: Path, name: str, addresses: Sequence[str], out: Path) -> None:
    """Issue a board's certificate: `ca.pem`, `agent.pem`, `agent-key.pem` in `out`, valid 825 days.

    The lab's public signing key (`harness.targets.permits`) goes with them where the lab has one.

    Args:
        folder: of the lab, as made by `create_lab`.
        name: of the board, `[a-z0-9-]{1,64}`.
        addresses: every host name and IP address under which hosts will reach the agent.
        out: folder to copy to the board and to name in `quantrig-agent serve --tls`.

    Raises:
        UserError: no such lab, a bad name or address, or `out` holds a certificate already.
    """
    if not addresses:
        raise UserError(f"{name}: an agent needs at least one address; name the host or IP address that targets use")
    names = [_alternative_name(address) for address in addresses]
    _issue(folder, name, "agent", [x509.UniformResourceIdentifier(AGENT_ROLE), *names], out)
    signing = folder / SIGNING_KEY
    if signing.is_file():
        _write_authority(out / SIGNING_KEY, signing.read_bytes())


def issue_host(folder: Path, name: str, out: Path) -> None:
    """Issue a host's certificate: `ca.pem`, `host.pem`, `host-key.pem` in `out`, valid 825 days.

    Args:
        folder: of the lab, as made by `create_lab`.
        name: of the host or its user, `[a-z0-9-]{1,64}`.
        out: folder that `via: {tls: …}` of targets.yaml names.

    Raises:
        UserError: no such lab, a bad name, or `out` holds a certificate already.
    """
    _issue(folder, name, "host", [x509.UniformResourceIdentifier(HOST_ROLE)], out)


def _issue(folder: Path, name: str, role: str, names: list[x509.GeneralName], out: Path) -> None:
    _check_name(name, role)
    authority_key, authority = _load_lab(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    if now >= authority.not_valid_after_utc:
        raise UserError(f"{folder}: the lab's authority has expired; create a new lab and issue every certificate anew")
    usage = ExtendedKeyUsageOID.SERVER_AUTH if role == "agent" else ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(min(now + CERTIFICATE_VALIDITY, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    make_folder(out)
    _write_authority(out / "ca.pem", authority.public_bytes(pem))
    write_new(out / f"{role}-key.pem", _private_pem(key), 0o600)
    write_new(out / f"{role}.pem", certificate.public_bytes(pem), 0o644)


def _load_lab(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file = folder / "ca-key.pem"
    try:
        open_to = key_file.stat().st_mode & 0o077
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    except FileNotFoundError as missing:
        raise UserError(f"{folder}: no lab here ({missing.filename} is missing); create one first") from missing
    except (OSError, ValueError, TypeError) as problem:
        raise UserError(
            f"{folder}: the lab's authority cannot be read ({problem}); restore it from a copy"
        ) from problem
    if open_to:
        raise UserError(f"{key_file}: others on this machine can read the lab's key; chmod 600 it, or make a new lab")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        raise UserError(f"{folder}: ca-key.pem is not the key of ca.pem; restore both from one copy")
    return key, authority


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a {what}; use 1 to 64 of a-z, 0-9 and '-'")


def _alternative_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        if len(address) > 253 or not _DNS_NAME.fullmatch(address) or re.fullmatch(r"[0-9.]+", address):
            raise UserError(
                f"{address!r} is neither an IP address nor a host name; give it without port or scheme"
            ) from None
        return x509.DNSName(address)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_folder(folder: Path) -> None:
    """Make a folder of keys, mode 0700, unless it is there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{folder}: cannot be made ({problem.strerror}); choose another folder") from problem


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist; its mode is right before the first byte is in it.

    Raises:
        UserError: it exists, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        raise UserError(
            f"{path} exists already and is never overwritten; move it away or choose another folder"
        ) from None
    except OSError as problem:
        raise UserError(f"{path}: cannot be written ({problem.strerror}); choose another folder") from problem
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask
        file.write(content)


def _write_authority(path: Path, content: bytes) -> None:
    """Put what is the lab's own beside a certificate; the same lab's may be there already."""
    if path.exists():
        if path.read_bytes() != content:
            raise UserError(f"{path} is another lab's; choose another folder")
        return
    write_new(path, content, 0o644)
