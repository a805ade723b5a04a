"""Does a board of another instruction set compute what this host computes? Asked with one network in three forms.

U8S8 (unsigned activations, signed weights) has to be equal to the bit, S8S8 within one step of the logits, float within
1e-4: integer kernels add exactly and round alike on both sides, float kernels add in another order. Residual additions
are no part of the claim: ONNX Runtime's QLinearAdd rounds differently on ARM and on x86, by one step in one of some
ten thousand values (docs/qemu.md), so the network keeps them in float.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.targets.client import AgentClient
from harness.targets.values import SessionChoice

Array = npt.NDArray[Any]

#: What float logits of about 10 may differ by: sums of a thousand float32 terms in another order.
FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class IsaCase:
    """One form of the network and what this host computes with it.

    Args:
        name: "float", "U8S8" or "S8S8".
        model: serialized ONNX with one output.
        inputs: one inference each.
        expected: [samples, …], the outputs of this host.
        tolerance: largest absolute difference that passes.
        disabled_optimizers: graph optimizers that must not run on it.
    """

    name: str
    model: bytes
    inputs: tuple[dict[str, Array], ...]
    expected: Array
    tolerance: float
    disabled_optimizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IsaFinding:
    """How far a board was from this host."""

    name: str
    worst: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether that is within the claim; a NaN is not."""
        return self.worst <= self.tolerance

    @property
    def sentence(self) -> str:
        """For a table's remark."""
        if self.worst == 0:
            return f"{self.name} bit-exact"
        return f"{self.name} within {self.worst:.2g} ({self.tolerance:.2g} allowed)"


def compare_with_host(agent: AgentClient, cases: Sequence[IsaCase], folder: Path) -> tuple[IsaFinding, ...]:
    """Run every case on a board.

    Args:
        agent: of the board.
        cases: from whoever has the networks.
        folder: for the files to ship.

    Raises:
        BoardError: the board fails.
    """
    return tuple(_compare(agent, case, folder) for case in cases)


def stored(model: bytes, folder: Path) -> tuple[Path, str]:
    """The network as a file of that folder, and its sha256; several threads, one a board, may want it at once."""
    digest = hashlib.sha256(model).hexdigest()
    path = folder / f"{digest}.onnx"
    if not path.exists():
        partial = folder / f"{digest}.{threading.get_ident()}"
        partial.write_bytes(model)
        partial.replace(path)  # the others see all of it or nothing
    return path, digest


def _compare(agent: AgentClient, case: IsaCase, folder: Path) -> IsaFinding:
    path, digest = stored(case.model, folder)
    agent.ship(path, digest, None)
    prepared = agent.prepare(digest, options=SessionChoice(disabled_optimizers=case.disabled_optimizers))
    try:
        seen = [next(iter(outputs.values())) for outputs in agent.infer(prepared.network_id, case.inputs)]
    finally:
        agent.unload(prepared.network_id)
    worst = np.abs(np.concatenate(seen).astype(np.float64) - case.expected.astype(np.float64)).max()
    return IsaFinding(case.name, float(worst), case.tolerance)
