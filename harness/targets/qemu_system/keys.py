"""Keys of the emulated lab: its own authority, one certificate for its boards, one for this host, and SSH keys.

They lie below the user's cache folder with mode 0700 and are good for boards on this machine's loopback only.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Keys:
    """A folder of them.

    Args:
        folder: holds `agent/` and `host/` (certificates), `login` and `ssh_host_key` (OpenSSH private keys).
    """

    folder: Path

    @property
    def host_tls(self) -> Path:
        """For `via: {tls: …}`."""
        return self.folder / "host"

    @property
    def login(self) -> Path:
        """Private key of root's login."""
        return self.folder / "login"

    @property
    def host_key(self) -> str:
        """Public key of the boards' SSH server, `ssh-ed25519 …`."""
        return (self.folder / "ssh_host_key.pub").read_text().strip()

    @property
    def fingerprint(self) -> str:
        """Of it, as `ssh: {host_key: …}` pins it."""
        import base64
        import hashlib

        digest = hashlib.sha256(base64.b64decode(self.host_key.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def board_files(self) -> dict[str, bytes]:
        """What a board gets of them, by its name there."""
        files = {f"tls/{path.name}": path.read_bytes() for path in sorted((self.folder / "agent").iterdir())}
        files["ssh_host_key"] = (self.folder / "ssh_host_key").read_bytes()
        files["authorized_keys"] = (self.folder / "login.pub").read_bytes()
        return files


def make_keys(folder: Path) -> Keys:
    """The keys in `folder`, made when they are not there; the caller keeps others from doing so meanwhile."""
    if folder.is_dir():
        return Keys(folder)
    from harness.targets.certificates import create_lab, issue_agent, issue_host

    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    create_lab(partial / "ca", "emulated")
    issue_agent(partial / "ca", "emulated-board", ["127.0.0.1", "localhost"], out=partial / "agent")
    issue_host(partial / "ca", "this-host", out=partial / "host")
    for name in ("login", "ssh_host_key"):
        _ssh_key(partial / name)
    partial.rename(folder)
    return Keys(folder)


def _ssh_key(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.touch(mode=0o600)
    path.write_bytes(private)
    path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")
