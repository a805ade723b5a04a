"""Signing keys: Ed25519, a private half that signs bundles and a public one that verifies them.

make_key(Path("keys"))                       # keys/release-private.pem (0600), keys/release-public.pem
signature = load_private(Path("keys")).sign(manifest)
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from harness.errors import UserError

PRIVATE_KEY, PUBLIC_KEY = "release-private.pem", "release-public.pem"
#: What is signed begins so: no other signature of this key can be taken for one of a bundle.
_CONTEXT = b"quantrig bundle 1\n"
_PUBLIC_LIMIT = 4096


def make_key(folder: Path) -> tuple[Path, Path]:
    """Make a key pair in a folder (mode 0700 where it is new); an existing key is never overwritten.

    Returns:
        (private, public): paths; the private one has mode 0600.

    Raises:
        UserError: there is a key already, or the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(paths[0], private, 0o600)
        _write_new(paths[1], public_pem(key.public_key()), 0o644)
    except FileExistsError as error:
        raise UserError(f"{error.filename}: there is a key already; keep it, or choose another folder") from None
    except OSError as error:
        raise UserError(f"{folder}: no key can be made there ({error.strerror or error}); choose another") from None
    return paths


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def load_private(place: Path) -> Ed25519PrivateKey:
    """The private key in a folder of `make_key`, or in a PEM file.

    Raises:
        UserError: missing, unreadable, readable by others, or no Ed25519 key.
    """
    path = place / PRIVATE_KEY if place.is_dir() else place
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); `quantrig keys new DIR` makes a key") from None
    if mode & 0o077:
        raise UserError(f"{path}: others may read this key; chmod 600 it, or make a new one")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UserError(
            f"{path}: no private key in PEM without a password; `quantrig keys new DIR` makes one"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: no Ed25519 key; `quantrig keys new DIR` makes one")
    return key


def load_public(place: Path) -> Ed25519PublicKey:
    """The public key in a folder of `make_key`, or in a PEM file.

    Raises:
        UserError: missing, or no Ed25519 key.
    """
    path = place / PUBLIC_KEY if place.is_dir() else place
    try:
        with path.open("rb") as file:
            content = file.read(_PUBLIC_LIMIT)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the signer's {PUBLIC_KEY}") from None
    try:
        return parse_public(content)
    except ValueError:
        raise UserError(f"{path}: no Ed25519 public key in PEM; give the signer's {PUBLIC_KEY}") from None


def parse_public(content: bytes) -> Ed25519PublicKey:
    """A public key from PEM.

    Raises:
        ValueError: it is none, or none of Ed25519.
    """
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        msg = "no Ed25519 key"
        raise ValueError(msg)
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The key as it is written: PEM, SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw key in groups of four hex digits, short enough to read aloud: 16 bytes of it."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    digits = hashlib.sha256(raw).hexdigest()[:32]
    return " ".join(digits[i : i + 4] for i in range(0, 32, 4))


def sign(key: Ed25519PrivateKey, manifest: bytes) -> bytes:
    """The signature over a manifest, 64 bytes."""
    return key.sign(_CONTEXT + manifest)


def signed_by(key: Ed25519PublicKey, signature: bytes, manifest: bytes) -> bool:
    """Whether `key` made this signature over this manifest."""
    try:
        key.verify(signature, _CONTEXT + manifest)
    except InvalidSignature:
        return False
    return True
