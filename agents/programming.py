"""What the programmable logic holds, for an agent that stands in for an FPGA board.

A real board answers from its own logic. A stand-in has none, so it keeps the answer in its data directory, with the
boot and the device it belongs to: after another boot, or on another machine, the logic would be empty, and so is this.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.boards.base import Identity

#: More designs than a lab tries on one board; the oldest are forgotten, so that the file stays small.
_MAX_DESIGNS = 64
_MAX_FILE_BYTES = 64 << 10
_DIGEST = re.compile(r"[0-9a-f]{64}")


def device_fingerprint(kind: str, who: Identity) -> str:
    """sha256 over what tells one device from another: board kind, model, machine id and architecture."""
    parts = "\0".join((kind, who.model, who.machine_id, who.architecture))
    return hashlib.sha256(parts.encode()).hexdigest()


@dataclass(frozen=True)
class Programmed:
    """What was there before a network was programmed.

    Attributes:
        design_loaded: the same design.
        network_loaded: the same network in it.
    """

    design_loaded: bool
    network_loaded: bool


class ProgrammableLogic:
    """The designs that are loaded and the network in each, kept in one file (thread-safe).

    Args:
        path: of the file; made when something is programmed.
        boot_id: of the device; "" when unknown: nothing is remembered then.
        device: its fingerprint.
    """

    def __init__(self, path: Path, boot_id: str, device: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._device = device
        self._guard = threading.Lock()

    def program(self, design: str, network: str) -> Programmed:
        """Load a design and a network, digests both, where they are not loaded already.

        Raises:
            OSError: the file cannot be written.
        """
        with self._guard:
            held = self._held()
            before = held.pop(design, None)
            if self._boot_id:
                kept = [*held.items(), (design, network)][-_MAX_DESIGNS:]
                if before != network:
                    self._keep(dict(kept))
            return Programmed(before is not None, before == network)

    def _held(self) -> dict[str, str]:
        """Design → network; empty where the file is another boot's, another device's, damaged or not ours."""
        if not self._boot_id:
            return {}
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                found = json.loads(file.read(_MAX_FILE_BYTES))
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict) or (found.get("boot_id"), found.get("device")) != (self._boot_id, self._device):
            return {}
        held = found.get("designs")
        if not isinstance(held, dict):
            return {}
        pairs = ((str(design), str(network)) for design, network in held.items())
        return {
            design: network for design, network in pairs if _DIGEST.fullmatch(design) and _DIGEST.fullmatch(network)
        }

    def _keep(self, held: Mapping[str, str]) -> None:
        """Write the file whole or not at all."""
        temporary = self._path.with_suffix(".part")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
            json.dump({"boot_id": self._boot_id, "device": self._device, "designs": held}, file)
        os.replace(temporary, self._path)
