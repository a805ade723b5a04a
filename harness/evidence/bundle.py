"""Write a bundle: gather, list, sign, and put into place in one step."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness._version import __version__
from harness.errors import UserError
from harness.evidence.container import write_container
from harness.evidence.gather import Contents, Gathered, environment_json
from harness.evidence.keys import fingerprint, public_pem, sign
from harness.evidence.manifest import (
    ENVIRONMENT,
    FORMAT,
    MANIFEST,
    PAGE,
    POLICY,
    PUBLIC_KEY,
    SIGNATURE,
    VERSION,
    Listed,
    ListedRun,
    Manifest,
    dump_manifest,
)
from harness.record.run import RunRecord


@dataclass(frozen=True, slots=True)
class BundledRun:
    """A judged run on its way into a bundle.

    Args:
        record: with the policy's gates decided.
        position: of its job in the policy.
        gathered: its files.
    """

    record: RunRecord
    position: int
    gathered: Gathered


def write_bundle(
    path: Path,
    *,
    policy_name: str,
    policy_text: bytes,
    page: bytes,
    verdict: str,
    runs: Sequence[BundledRun],
    key: Ed25519PrivateKey,
    created: str | None = None,
    environment: bytes | None = None,
) -> None:
    """Write a signed bundle; the file is there whole or not at all.

    Args:
        path: of the file; an older one is replaced.
        policy_name: of the policy.
        policy_text: its file.
        page: the decision page.
        verdict: pass, fail or inconclusive.
        runs: all of them.
        key: signs.
        created: ISO 8601; None: now.
        environment: content of environment.json; None: this machine's.

    Raises:
        UserError: the place cannot be written, or there is too much for one file.
    """
    contents: Contents = {
        POLICY: policy_text,
        PAGE: page,
        ENVIRONMENT: environment_json() if environment is None else environment,
        PUBLIC_KEY: public_pem(key.public_key()),
    }
    for run in runs:
        contents |= run.gathered.contents
    try:
        manifest = dump_manifest(
            Manifest(
                format=FORMAT,
                version=VERSION,
                policy=policy_name,
                created=created or datetime.now(UTC).isoformat(timespec="seconds"),
                quantrig=__version__,
                verdict=verdict,
                signed_by=fingerprint(key.public_key()),
                runs=[
                    ListedRun(
                        run_id=run.record.run_id,
                        job=run.record.job_name,
                        position=run.position,
                        absent=run.gathered.absent,
                    )
                    for run in runs
                ],
                entries={name: _listed(content) for name, content in contents.items()},
            )
        )
        _write(path, {MANIFEST: manifest, SIGNATURE: sign(key, manifest), **dict(sorted(contents.items()))})
    except OSError as error:
        where = error.filename or path
        raise UserError(
            f"{where}: the bundle cannot be written ({error.strerror or error}); choose another out"
        ) from None


def _listed(content: bytes | Path) -> Listed:
    if isinstance(content, bytes):
        return Listed(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Listed(sha256=digest, size_bytes=file.tell())


def _write(path: Path, contents: Mapping[str, bytes | Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            write_container(file, contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
