"""Whose key a board must show: the one pinned in targets.yaml, else one that known_hosts has; never a first guess."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from harness.errors import Refused, UserError

if TYPE_CHECKING:
    from harness.targets.target import Ssh

#: The lab's own file, beside targets.yaml, in OpenSSH's format: whoever shares the lab file shares the trust.
LAB_KNOWN_HOSTS = "known_hosts"
#: Asked for one after the other, because a server shows one key a connection and the pinned one may be another.
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


def fingerprint(key: paramiko.PKey) -> str:
    """As `ssh-keygen -l` writes it: `SHA256:` and 43 characters."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def host_name(ssh: Ssh) -> str:
    """The name in known_hosts."""
    return ssh.host if ssh.port == 22 else f"[{ssh.host}]:{ssh.port}"


def load_known_hosts(base: Path) -> paramiko.HostKeys:
    """The user's file and the lab's.

    Raises:
        UserError: one of them cannot be read.
    """
    keys = paramiko.HostKeys()
    for path in (Path.home() / ".ssh" / "known_hosts", base / LAB_KNOWN_HOSTS):
        if path.is_file():
            try:
                keys.load(str(path))
            except (OSError, paramiko.SSHException, ValueError) as error:
                raise UserError(f"{path}: cannot be read ({error}); correct it, or move it away") from error
    return keys


def known_types(keys: paramiko.HostKeys, ssh: Ssh) -> list[str]:
    """Key types that known_hosts has for the board; the server is asked for these."""
    entry = keys.lookup(host_name(ssh))
    return [] if entry is None else list(entry.keys())


def check_host_key(target: str, ssh: Ssh, key: paramiko.PKey, keys: paramiko.HostKeys) -> None:
    """Accept the key that the board showed, or say why not.

    Args:
        target: name in targets.yaml.
        ssh: its login.
        key: that the board proved to hold.
        keys: of `load_known_hosts`; looked at when nothing is pinned.

    Raises:
        UserError: the board is not known; the line shows its fingerprint and how to pin it.
        Refused: another key than the pinned or the known one.
    """
    shown = fingerprint(key)
    if ssh.host_key is not None:
        if shown != ssh.host_key.rstrip("="):
            raise Refused(
                target,
                f"{host_name(ssh)} shows the host key {shown}, pinned is {ssh.host_key}: it is another machine or was "
                "installed anew; look at the board's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) "
                "before you change `host_key`",
            )
        return
    entry = keys.lookup(host_name(ssh))
    if entry is None:
        raise UserError(
            f"{target}: {host_name(ssh)} is not known, its {key.get_name()} host key is {shown}; when the board's own "
            f'console shows the same (ssh-keygen -lf), pin it in targets.yaml: ssh: {{host_key: "{shown}"}}, or '
            f"connect once with ssh"
        )
    if key not in entry.values():
        raise Refused(
            target,
            f"the host key of {host_name(ssh)} has changed: it shows {shown}, known_hosts has another; it is another "
            f"machine or was installed anew: compare with the board's console, then `ssh-keygen -R '{host_name(ssh)}'`",
        )
