"""A board's outputs beside the exact reference's: the evidence, per sample, and the figure it gives."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.context import TargetContext
from harness.judge.figure import Figure, Network
from harness.judge.gates_units import LSB
from harness.wholefile import write_whole


@dataclass(frozen=True, eq=False, slots=True)
class Apart:
    """How far the outputs of N samples are apart, over M outputs.

    Args:
        ids: of the samples.
        outputs: names.
        furthest: largest |board - reference| of each sample and output, float64 [N, M], in the output's own unit.
        differing: how many values differ at all, int64 [N, M].
        steps: of each output, float64 [M].
        values: how many were compared.
        basis: what the steps are.
        reference: what ran here.
    """

    ids: tuple[str, ...]
    outputs: tuple[str, ...]
    furthest: NDArray[np.float64]
    differing: NDArray[np.int64]
    steps: NDArray[np.float64]
    values: int
    basis: str
    reference: str

    def figure(self, context: TargetContext) -> Figure:
        """The row `reference_lsb`: the largest distance of any value, in steps."""
        count = int(self.differing.sum())
        notes = (
            f"{count:,} of {self.values:,} values differ from the reference ({self.reference})",
            f"LSB: {self.basis}",
        )
        value = float((self.furthest / self.steps).max(initial=0.0))
        return context.figure(Network.QUANTIZED, LSB, value, "LSB", n=len(self.ids), notes=notes, about_outputs=True)


def apart_file(target: str) -> str:
    """Where it is kept, relative to the run's folder."""
    return f"samples/{target}.reference.npz"


def save_apart(folder: Path, target: str, apart: Apart) -> None:
    """Keep the evidence in a run's folder.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_arrays(apart))
    write_whole(folder / apart_file(target), buffer.getvalue(), "free some space")


def _arrays(apart: Apart) -> dict[str, Any]:
    return {
        "ids": np.array(apart.ids, dtype=np.str_),
        "outputs": np.array(apart.outputs, dtype=np.str_),
        "furthest": apart.furthest,
        "differing": apart.differing,
        "steps": apart.steps,
        "values": np.int64(apart.values),
        "text": np.array([apart.basis, apart.reference], dtype=np.str_),
    }


def read_apart(content: bytes) -> Apart:
    """Read it back.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            basis, reference = (str(text) for text in arrays["text"])
            found = Apart(
                tuple(str(name) for name in arrays["ids"]),
                tuple(str(name) for name in arrays["outputs"]),
                arrays["furthest"].astype(np.float64),
                arrays["differing"].astype(np.int64),
                arrays["steps"].astype(np.float64),
                int(arrays["values"]),
                basis,
                reference,
            )
    except (KeyError, OSError, EOFError) as error:
        raise ValueError(f"no evidence of a comparison with the reference ({error})") from error
    shape = (len(found.ids), len(found.outputs))
    if found.furthest.shape != shape or found.differing.shape != shape or found.steps.shape != shape[1:]:
        raise ValueError("its arrays do not fit together")
    return found
