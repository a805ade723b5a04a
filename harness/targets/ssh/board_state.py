"""What lies on a board already, as `board/state.py` says it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from harness.errors import BoardError
from harness.targets.ssh.session import Session


@dataclass(frozen=True, slots=True)
class BoardState:
    """What was found in the agent's folder.

    Args:
        exists: the folder is there.
        empty: and nothing in it.
        claim: quantrig.json; None where the folder is not ours.
        current: release that the service starts.
        accepted: the last release that was seen to serve.
        releases: by name, whether each is complete.
        wheels: sha256 by file name.
        parts: bytes of wheels whose upload broke off.
        files: sha256 of the files that were asked for and are there.
        ca: its authority's certificate.
        certificate: its own.
        key: its key is there.
        free_bytes: of the file system.
    """

    exists: bool
    empty: bool
    claim: Mapping[str, Any] | None
    current: str | None
    accepted: str | None
    releases: Mapping[str, bool]
    wheels: Mapping[str, str]
    parts: Mapping[str, int]
    files: Mapping[str, str]
    ca: str | None
    certificate: str | None
    key: bool
    free_bytes: int


def board_program(name: str) -> str:
    """Text of a program of `harness.targets.ssh.board`."""
    return files("harness.targets.ssh.board").joinpath(f"{name}.py").read_text(encoding="utf-8")


def read_state(session: Session, python: str, folder: str, sudo: Sequence[str], names: Sequence[str]) -> BoardState:
    """Look at the agent's folder; changes nothing.

    Args:
        session: open.
        python: on the board.
        folder: the agent's.
        sudo: words that make the login root where the folder is root's.
        names: paths of files whose digest is wanted.

    Raises:
        BoardError: the answer cannot be read.
    """
    said = session.run(
        [*sudo, python, "-I", "-", folder, *names], stdin=board_program("state").encode(), quiet=True, timeout_s=120.0
    )
    try:
        facts = json.loads(said.out.splitlines()[-1])
        claim = json.loads(facts["claim"]) if facts["claim"] else None
        return BoardState(
            exists=bool(facts["exists"]),
            empty=bool(facts["empty"]),
            claim=claim if isinstance(claim, dict) else None,
            current=facts["current"],
            accepted=facts["accepted"],
            releases=dict(facts["releases"]),
            wheels=dict(facts["wheels"]),
            parts=dict(facts["parts"]),
            files=dict(facts["files"]),
            ca=facts["ca"],
            certificate=facts["certificate"],
            key=bool(facts["key"]),
            free_bytes=int(facts["free_bytes"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BoardError(
            session.target, f"what lies in {folder} on the board cannot be read ({error}); remove that folder there"
        ) from error
