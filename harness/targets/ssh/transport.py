"""From an address to an SSH connection whose host key is accepted; nobody is logged in yet."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import paramiko

from harness.errors import Refused, Unreachable
from harness.targets.ssh.hostkeys import KEY_TYPES, check_host_key, known_types, load_known_hosts
from harness.targets.validate import clean_text

if TYPE_CHECKING:
    from harness.targets.target import Ssh, Target

#: For the connection, the handshake and the login each, seconds.
CONNECT_TIMEOUT_S = 15.0
#: A board that lost its power is noticed by these, seconds.
_KEEPALIVE_S = 10


def connect(target: Target, ssh: Ssh) -> paramiko.Transport:
    """A transport to the board, its host key checked.

    Raises:
        UserError: an unknown host.
        Unreachable: nothing answers there, or it speaks no SSH.
        Refused: another host key than the known or pinned one.
    """
    keys = load_known_hosts(target.base)
    known = [one for name in known_types(keys, ssh) for one in _signatures(name)]
    transport = _handshake(target, ssh, [*known, *(name for name in KEY_TYPES if name not in known)])
    shown = transport.get_remote_server_key().get_name()
    try:
        _check(target, ssh, transport, keys)
    except Refused:
        if ssh.host_key is None:
            raise
        # A fingerprint does not say its key's type, and a server shows one key a connection: ask for the others.
        other = _other_key(target, ssh, shown, keys)
        if other is None:
            raise
        return other
    return transport


def _other_key(target: Target, ssh: Ssh, shown: str, keys: paramiko.HostKeys) -> paramiko.Transport | None:
    for name in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"):
        if name != shown:
            with suppress(Unreachable, Refused):  # it has no such key, or that is not the pinned one either
                transport = _handshake(target, ssh, _signatures(name))
                _check(target, ssh, transport, keys)
                return transport
    return None


def _signatures(name: str) -> list[str]:
    """Ways to prove a key of a type in known_hosts."""
    if name == "ssh-rsa":
        return ["rsa-sha2-512", "rsa-sha2-256"]
    return [name] if name in KEY_TYPES else []


def _check(target: Target, ssh: Ssh, transport: paramiko.Transport, keys: paramiko.HostKeys) -> None:
    try:
        check_host_key(target.name, ssh, transport.get_remote_server_key(), keys)
    except BaseException:
        transport.close()
        raise


def _handshake(target: Target, ssh: Ssh, types: Sequence[str]) -> paramiko.Transport:
    where = f"{ssh.host}:{ssh.port}"
    try:
        raw = socket.create_connection((ssh.host, ssh.port), timeout=CONNECT_TIMEOUT_S)
    except socket.gaierror as error:
        raise Unreachable(
            target.name, f"no machine is called {ssh.host!r} ({error.strerror}); correct `host` in `ssh`"
        ) from error
    except OSError as error:
        raise Unreachable(
            target.name, f"no SSH at {where} ({error.strerror or 'no answer'}); is the board up and its sshd running?"
        ) from error
    transport = paramiko.Transport(raw)
    transport.banner_timeout = CONNECT_TIMEOUT_S
    transport.auth_timeout = CONNECT_TIMEOUT_S
    transport.get_security_options().key_types = types
    try:
        transport.start_client(timeout=CONNECT_TIMEOUT_S)
        transport.get_remote_server_key()  # start_client says nothing when its time is over
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise Unreachable(
            target.name,
            f"what listens at {where} agrees on no SSH connection ({clean_text(str(error)) or 'it hung up'})",
        ) from error
    transport.set_keepalive(_KEEPALIVE_S)
    return transport
