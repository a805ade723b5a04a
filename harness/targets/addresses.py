"""Reach an agent by address: a plain socket on this machine, mutual TLS under the lab's own CA anywhere else.

gRPC for Python shows a client nothing of the server's certificate. So the certificate is fetched and checked first, by
Python's own TLS (chain, host name, and the role in its URI); the channel then trusts exactly that certificate and
nothing else. Whoever answers the channel therefore holds the key of the certificate that was checked.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from harness.errors import BoardError, Refused, Unreachable, UserError
from harness.targets.errors_map import CallCancelled
from harness.targets.validate import clean_text

#: The role that an agent's certificate must carry (URI among its subject alternative names).
AGENT_ROLE = "quantrig://agent"
#: Time for an agent that is just (re)starting to listen, seconds, and between two attempts.
RESTART_GRACE_S = 3.0
RETRY_EVERY_S = 0.2
#: After the handshake, how long to wait for its first frame or its refusal of our certificate, seconds.
VERDICT_TIMEOUT_S = 2.0
#: A board's first connection fails for want of certificates: who makes them.
_MAKES_THEM = "; with `ssh:` in its entry, `quantrig targets provision {}` makes them"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an agent listens.

    Args:
        target: name in targets.yaml, for messages.
        host: name or number; "" for a unix socket.
        port: 0 for a unix socket.
        path: of the unix socket, None otherwise.
        tls: folder with ca.pem, host.pem and host-key.pem, None for a plain connection. A unix socket is always plain:
            the owner and mode of its file guard it.
    """

    target: str
    host: str
    port: int
    path: Path | None
    tls: Path | None

    @classmethod
    def parse(cls, target: str, text: str, *, tls: Path | None) -> Address:
        """Read "host:port", "[v6]:port" or "unix:path".

        Raises:
            UserError: not an address, or one beyond this machine without TLS.
        """
        if text.startswith("unix:"):
            return cls(target, "", 0, Path(text.removeprefix("unix:")), None)
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise UserError(f"{target}: {text!r} is not an address; write HOST:PORT or unix:PATH")
        address = cls(target, match[1] or match[2], int(match[3]), None, tls)
        if tls is None and not address.is_local:
            raise UserError(
                f"{target}: {text} is beyond this machine and has no certificates; add `tls: FOLDER` with ca.pem, "
                "host.pem and host-key.pem (docs/security.md)"
            )
        return address

    @property
    def is_local(self) -> bool:
        """Whether only this machine can answer there."""
        if self.path is not None:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def grpc_target(self) -> str:
        """As gRPC writes it; a name is resolved by the system."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_link(address: Address, *, deadline: float, stop: threading.Event) -> grpc.ChannelCredentials | None:
    """Try the address; the credentials for its channel, None for a plain one.

    Args:
        address: where.
        deadline: on the monotonic clock.
        stop: gives up.

    Raises:
        Unreachable: nothing listens there.
        Refused: the certificates do not fit.
        UserError: our own certificates cannot be read.
    """
    context = None if address.tls is None else _context(address.target, address.tls)
    raw = _dial(address, deadline, stop)
    with raw:
        if context is None or address.tls is None:
            return None
        certificate = _checked_certificate(address, context, raw, deadline)
    return grpc.ssl_channel_credentials(
        root_certificates=certificate,
        private_key=_read(address.target, address.tls / "host-key.pem"),
        certificate_chain=_read(address.target, address.tls / "host.pem"),
    )


def _dial(address: Address, deadline: float, stop: threading.Event) -> socket.socket:
    grace = min(deadline, time.monotonic() + RESTART_GRACE_S)
    while True:
        left_s = max(0.1, deadline - time.monotonic())
        try:
            if address.path is None:
                return socket.create_connection((address.host, address.port), timeout=left_s)
            raw = socket.socket(socket.AF_UNIX)
            try:
                raw.settimeout(left_s)
                raw.connect(str(address.path))
            except OSError:
                raw.close()
                raise
        except socket.gaierror as error:
            raise Unreachable(
                address.target, f"no machine is called {address.host!r} ({error.strerror}); check the address"
            ) from error
        except (ConnectionRefusedError, FileNotFoundError) as error:
            if time.monotonic() > grace:
                raise _unreachable(address, error) from error
        except OSError as error:
            raise _unreachable(address, error) from error
        else:
            return raw
        if stop.wait(RETRY_EVERY_S):
            raise CallCancelled(address.target)


def _unreachable(address: Address, error: OSError) -> Unreachable:
    return Unreachable(
        address.target,
        f"nothing answers at {address.grpc_target} ({error.strerror or 'no answer'}); check the address, the network, "
        "and that `quantrig-agent serve` runs there",
    )


def _context(target: str, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nothing yet: no public CA, only the lab's
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    for name in ("ca.pem", "host.pem", "host-key.pem"):
        _read(target, folder / name)
    try:
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / "host.pem", folder / "host-key.pem")
    except ssl.SSLError as error:
        raise UserError(
            f"{target}: the certificates in {folder} cannot be used ({error.reason}); make them again"
        ) from error
    return context


def _read(target: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{target}: {path}: {error.strerror}; `tls` names a folder with ca.pem, host.pem and host-key.pem"
            f"{_MAKES_THEM.format(target) if isinstance(error, FileNotFoundError) else ''}"
        ) from error


def _checked_certificate(address: Address, context: ssl.SSLContext, raw: socket.socket, deadline: float) -> bytes:
    """The certificate of whoever answers, PEM, after every check we can make of it."""
    try:
        raw.settimeout(max(0.1, deadline - time.monotonic()))
        with context.wrap_socket(raw, server_hostname=address.host or "localhost") as link:
            shown = link.getpeercert() or {}
            der = link.getpeercert(binary_form=True)
            # TLS 1.3 tells a client only now that the server did not like its certificate; else HTTP/2 settings come.
            link.settimeout(VERDICT_TIMEOUT_S)
            if not link.recv(1):
                raise _refused(address, "it ended the connection after our certificate; is host.pem of its lab's CA?")
    except ssl.SSLCertVerificationError as error:
        raise _refused(address, f"its certificate is not valid here: {clean_text(error.verify_message)}") from error
    except TimeoutError as error:
        raise Unreachable(
            address.target,
            f"{address.grpc_target} takes the connection and then says nothing: its agent or the board hangs (restart "
            "it), or what listens there does not speak TLS",
        ) from error
    except ConnectionResetError as error:  # also QEMU's word for a port of a board on which nothing listens
        raise Unreachable(
            address.target,
            f"whatever is at {address.grpc_target} ended the connection at once; does an agent run there? "
            f"`quantrig targets provision {address.target}` brings one over SSH",
        ) from error
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise _refused(address, f"no TLS connection ({reason})") from error
    names = cast("tuple[tuple[str, str], ...]", shown.get("subjectAltName", ()))
    roles = [value for kind, value in names if kind == "URI"]
    if AGENT_ROLE not in roles:
        raise _refused(address, f"its certificate has not the role {AGENT_ROLE} (it has {clean_text(str(roles))})")
    if der is None:
        raise _refused(address, "it showed no certificate")
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _refused(address: Address, why: str) -> BoardError:
    return Refused(
        address.target,
        f"{address.grpc_target} is not an agent of this lab: {why}; "
        f"give it a certificate made by the CA in {address.tls}",
    )
