"""Who we are to a board: keys first, then a password that is never written anywhere."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from harness.errors import Refused, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.targets.target import Ssh

#: Names of private keys that ssh itself tries, in its order.
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


def password_variable(target: str) -> str:
    """The environment variable that may hold a board's password."""
    return "QUANTRIG_SSH_PASSWORD_" + target.upper().replace("-", "_")


def log_in(target: str, ssh: Ssh, transport: paramiko.Transport, *, may_ask: bool) -> None:
    """Authenticate on an open transport whose host key was accepted.

    Args:
        target: name in targets.yaml.
        ssh: its login.
        transport: to the board.
        may_ask: a person is there to type a password.

    Raises:
        UserError: the named key cannot be used.
        Refused: the board accepts nothing we have.
    """
    user = ssh.user or getpass.getuser()
    tried: list[str] = []
    accepts: list[str] = ["publickey", "password", "keyboard-interactive"]
    for name, key in _keys(target, ssh):
        tried.append(name)
        try:
            transport.auth_publickey(user, key)
        except paramiko.BadAuthenticationType as error:
            accepts = list(error.allowed_types)
            break
        except paramiko.AuthenticationException:
            continue
        if transport.is_authenticated():
            return
    if {"password", "keyboard-interactive"} & set(accepts):
        variable = password_variable(target)
        secret = os.environ.get(variable)
        if secret is None and may_ask and sys.stdin.isatty():
            secret = getpass.getpass(f"{target}: password of {user}@{ssh.host}: ")
        if secret is not None and _with_password(transport, user, secret):
            return
        tried.append(f"the password in {variable}" if secret is not None else f"no password in {variable}")
    raise Refused(
        target,
        f"{user}@{ssh.host} lets us in with nothing we have ({'; '.join(tried) or 'no key'}); put your public key into "
        "its ~/.ssh/authorized_keys (ssh-copy-id), or correct `user` and `key` in `ssh` of targets.yaml",
    )


def _with_password(transport: paramiko.Transport, user: str, secret: str) -> bool:
    attempts: tuple[Callable[[], object], ...] = (
        lambda: transport.auth_password(user, secret, fallback=False),
        lambda: transport.auth_interactive(user, lambda _title, _text, prompts: [secret for _ in prompts]),
    )
    for attempt in attempts:
        try:
            attempt()
        except paramiko.SSHException:  # a wrong password, or a way the board does not offer
            continue
        if transport.is_authenticated():
            return True
    return False


def _keys(target: str, ssh: Ssh) -> Iterator[tuple[str, paramiko.PKey]]:
    """The key that targets.yaml names alone; else the SSH agent's and the usual files."""
    if ssh.key is not None:
        yield str(ssh.key), _load(target, ssh.key)
        return
    for key in paramiko.Agent().get_keys():
        yield "a key of the SSH agent", key
    for name in _DEFAULT_KEYS:
        path = Path.home() / ".ssh" / name
        if path.is_file():
            try:
                yield f"~/.ssh/{name}", paramiko.PKey.from_path(path)
            except (OSError, paramiko.SSHException, ValueError, TypeError):
                continue  # one with a passphrase: the SSH agent would have it


def _load(target: str, path: Path) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError as error:
        raise UserError(f"{target}: no key {path}; correct `key` in `ssh` of targets.yaml") from error
    except (paramiko.PasswordRequiredException, TypeError) as error:
        for key in paramiko.Agent().get_keys():
            if _public_of(path) in key.get_base64():
                return key
        raise UserError(
            f"{target}: {path} has a passphrase; give it to the SSH agent (ssh-add) and try again"
        ) from error
    except (OSError, paramiko.SSHException, ValueError) as error:
        raise UserError(f"{target}: {path} is no private key ({error}); correct `key` in targets.yaml") from error


def _public_of(path: Path) -> str:
    """The public half, from the file beside it; text that no key contains where there is none."""
    try:
        return path.with_name(path.name + ".pub").read_text().split()[1]
    except (OSError, IndexError):
        return "\0"
