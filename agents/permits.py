"""Permits: the lab's signed word that this board may load this compiled network, once (docs/security.md, 15 and 23).

An xmodel is native code for the board's DPU. The agent holds the lab's public signing key and loads one only with a
statement that the key signed, over the file's digest, this board, a time span and a number that is used once. The
numbers used are kept until the statements with them have expired, and on the disk before the network is loaded.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.ed25519 import PUBLIC_BYTES, verify
from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb

#: What is signed begins so, that no signature over something else can be taken for a permit.
CONTEXT = b"quantrig permit 1\n"
MAX_STATEMENT_BYTES = 4096
#: A permit lives no longer: what is used up is remembered that long.
MAX_LIFE_S = 86_400
#: Clocks of a host and a board may differ by this much.
_SKEW_S = 300
#: More permits than any lab uses in a day; a flood of them needs the lab's key.
_MAX_NONCES = 100_000
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NONCE = re.compile(r"[0-9a-f]{32}\Z")
#: SubjectPublicKeyInfo of Ed25519 (RFC 8410): all but the key.
_KEY_PREFIX = bytes.fromhex("302a300506032b6570032100")
_NAMES = {"version", "sha256", "board", "nonce", "issued_unix_s", "expires_unix_s"}


@dataclass(frozen=True)
class Statement:
    """What was signed.

    Args:
        sha256: of the file.
        board: machine_id of the board, as Describe tells it.
        nonce: 32 hex digits, used once.
        issued_unix_s: by the lab's clock.
        expires_unix_s: no use of it later.
    """

    sha256: str
    board: str
    nonce: str
    issued_unix_s: int
    expires_unix_s: int


class PermitDesk:
    """Admits each permit once (thread-safe).

    Args:
        key: the lab's public signing key, 32 bytes; None: nothing is admitted.
        board: tells machine_id of this board; where that is "", nothing is admitted.
        path: of the file with the numbers used.
        clock: seconds since 1970.
    """

    def __init__(
        self, key: bytes | None, board: Callable[[], str], path: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._board = board
        self._path = path
        self._clock = clock
        self._guard = threading.Lock()

    def admit(self, permit: pb.Permit, digest: str) -> None:
        """Use a permit up, or refuse.

        Args:
            permit: as received.
            digest: of the file that is to be loaded.

        Raises:
            AgentError: INVALID for a malformed one, REFUSED with the reason for every other.
        """
        if self._key is None:
            message = "this agent has no signing key of its lab, so it loads nothing that was compiled elsewhere"
            raise AgentError(Fault.REFUSED, f"{message}: start it with --signing-key FILE")
        if not permit.statement or not permit.signature:
            message = f"{digest[:12]}… is compiled for a board and comes without the lab's permit"
            raise AgentError(Fault.REFUSED, f"{message}: sign one for this board")
        if len(permit.statement) > MAX_STATEMENT_BYTES:
            raise AgentError(Fault.INVALID, f"a permit of {len(permit.statement)} bytes: at most {MAX_STATEMENT_BYTES}")
        if not verify(self._key, CONTEXT + permit.statement, permit.signature):
            message = "the permit was not signed with the signing key of this board's lab"
            raise AgentError(Fault.REFUSED, f"{message}: sign it with the lab's key")
        # Only now is it read: before, anyone could have written it.
        said = parse_statement(permit.statement)
        self._check(said, digest)
        with self._guard:
            self._use_up(said)

    def _check(self, said: Statement, digest: str) -> None:
        now = self._clock()
        reason = ""
        if said.sha256 != digest:
            reason = f"is for the file {said.sha256[:12]}… and not for {digest[:12]}…"
        elif not said.board or said.board != self._board():
            reason = "is for another board"
        elif said.expires_unix_s - said.issued_unix_s > MAX_LIFE_S:
            reason = f"lives longer than {MAX_LIFE_S // 3600} hours"
        elif now >= said.expires_unix_s:
            reason = "has expired"
        elif now < said.issued_unix_s - _SKEW_S:
            reason = "was issued in the future (or this board's clock is wrong)"
        if reason:
            raise AgentError(Fault.REFUSED, f"the permit {reason}: sign a new one")

    def _use_up(self, said: Statement) -> None:
        now = self._clock()
        used = {nonce: expires for nonce, expires in self._used().items() if expires + _SKEW_S > now}
        if said.nonce in used:
            raise AgentError(Fault.REFUSED, "the permit was used before, and each is good for once: sign a new one")
        if len(used) >= _MAX_NONCES:
            raise AgentError(Fault.EXHAUSTED, f"{len(used)} permits were used in a day: wait until some have expired")
        used[said.nonce] = said.expires_unix_s
        try:
            _write(self._path, json.dumps(used).encode())
        except OSError as error:
            message = f"the agent cannot note that a permit was used: {error.strerror}"
            raise AgentError(Fault.EXHAUSTED, f"{message}: free some space in its --data folder") from None

    def _used(self) -> dict[str, int]:
        """Nonce → expiry.

        Raises:
            AgentError: REFUSED when the file cannot be understood: what was used is not known then.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                return {str(nonce): int(expires) for nonce, expires in json.loads(file.read()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError):
            message = f"{self._path} cannot be read, so permits used before are not known"
            raise AgentError(
                Fault.REFUSED, f"{message}: remove it, after the permits of the last day expired"
            ) from None


def parse_statement(statement: bytes) -> Statement:
    """The signed bytes as a value.

    Raises:
        AgentError: INVALID when a field is missing, unknown or malformed.
    """
    try:
        found = json.loads(statement)
        if not isinstance(found, dict) or set(found) != _NAMES or found["version"] != 1:
            raise ValueError("its fields")
        said = Statement(
            sha256=str(found["sha256"]),
            board=str(found["board"]),
            nonce=str(found["nonce"]),
            issued_unix_s=int(found["issued_unix_s"]),
            expires_unix_s=int(found["expires_unix_s"]),
        )
        if not _DIGEST.match(said.sha256) or not _NONCE.match(said.nonce):
            raise ValueError("its digest or nonce")
    except (ValueError, TypeError, RecursionError):
        message = "the permit's statement is malformed: sign it with this version's `quantrig`"
        raise AgentError(Fault.INVALID, message) from None
    return said


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of a PEM file "PUBLIC KEY" (RFC 8410).

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no public Ed25519 key.
    """
    lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    if len(lines) < 3 or (lines[0], lines[-1]) != ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"):
        raise ValueError("no public key in PEM")
    try:
        data = base64.b64decode("".join(lines[1:-1]), validate=True)
    except binascii.Error:
        raise ValueError("no public key in PEM") from None
    if len(data) != len(_KEY_PREFIX) + PUBLIC_BYTES or not data.startswith(_KEY_PREFIX):
        raise ValueError("not an Ed25519 key")
    return data[len(_KEY_PREFIX) :]


def _write(path: Path, data: bytes) -> None:
    """Whole and on the disk, or not at all."""
    temporary = path.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
