"""The lab's signing key, and permits: its word that one board may load one compiled network (an xmodel), once.

    create_signing_key(lab_folder)                       # once, beside the lab's authority
    permit = sign_permit(lab_folder, sha256, machine_id)
    client.prepare(sha256, options=SessionChoice(runtime="vart"), permit=permit)

What was compiled elsewhere is code for the board: the agent loads it with such a permit only, and each is good for one
loading on the board it names (docs/security.md, rows 15 and 23).
"""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.errors import UserError
from harness.targets.certificates import SIGNING_KEY, make_folder, write_new
from harness.targets.values import SignedPermit

#: Private, mode 0600: stays where permits are signed.
PRIVATE_KEY = "signing-private.pem"
#: As agents/permits.py has it: what is signed begins so.
_CONTEXT = b"quantrig permit 1\n"
#: Between signing and loading lies an upload, and the clocks of boards are off by minutes.
LIFE_S = 3600
_DIGEST = re.compile(r"[0-9a-f]{64}")


def create_signing_key(folder: Path) -> None:
    """Make the lab's signing key: `signing-private.pem` (mode 0600) to keep, `signing-key.pem` for the boards.

    Args:
        folder: of the lab, as made by `create_lab`; made with mode 0700 when missing.

    Raises:
        UserError: there is a key already (it is never overwritten), or the folder will not do.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    make_folder(folder)
    write_new(folder / PRIVATE_KEY, private, 0o600)
    write_new(folder / SIGNING_KEY, public, 0o644)


def sign_permit(folder: Path, sha256: str, machine_id: str, *, life_s: int = LIFE_S) -> SignedPermit:
    """A permit for one loading of one file on one board, from now on.

    Args:
        folder: of the lab.
        sha256: of the file.
        machine_id: of the board, as it describes itself.
        life_s: until it expires; agents take none that lives longer than a day.

    Raises:
        UserError: no usable key in the folder, or a digest or id that is none.
    """
    for text, what in ((sha256, "digest of a file"), (machine_id, "machine id of a board")):
        if not _DIGEST.fullmatch(text):
            raise UserError(f"{text[:80]!r} is no {what}: give its 64 lower-case hex digits")
    now = int(time.time())
    said = {
        "version": 1,
        "sha256": sha256,
        "board": machine_id,
        "nonce": secrets.token_hex(16),
        "issued_unix_s": now,
        "expires_unix_s": now + life_s,
    }
    statement = json.dumps(said).encode()
    return SignedPermit(statement, _load_key(folder).sign(_CONTEXT + statement))


def _load_key(folder: Path) -> Ed25519PrivateKey:
    path = folder / PRIVATE_KEY
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as problem:
        raise UserError(
            f"{path} cannot be read ({problem.strerror}): name the lab's folder, or make its signing key"
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UserError(f"{path} is no private key in PEM: restore it, or make a new signing key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is no Ed25519 key: restore it, or make a new signing key")
    return key
