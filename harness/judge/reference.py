"""A board's outputs beside the exact reference's: the evidence, per sample, and the figure it gives."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.context import TargetContext
from harness.judge.gates_units import LSB
from harness.record.figure import Figure, Network
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


def outputs_file(target: str) -> str:
    """Where the reference's own outputs are kept, relative to the run's folder."""
    return f"samples/{target}.reference-outputs.npz"


def save_reference(folder: Path, target: str, outputs: Mapping[str, NDArray[Any]] | None) -> None:
    """Keep the reference's outputs in a run's folder, so that distances can be computed again without it.

    Args:
        folder: of the run.
        target: name of the target.
        outputs: name → array [N, …]; None: too large to keep, what an earlier judgement left is removed.

    Raises:
        UserError: they cannot be written.
    """
    path = folder / outputs_file(target)
    if outputs is None:
        path.unlink(missing_ok=True)
        return
    buffer = io.BytesIO()
    # positional names inside: an output may be called anything, even what savez reserves
    np.savez(buffer, np.array(list(outputs), dtype=np.str_), *outputs.values())
    write_whole(path, buffer.getvalue(), "free some space")


def read_reference(content: bytes) -> dict[str, NDArray[Any]]:
    """Read them back.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {str(name): arrays[f"arr_{i + 1}"] for i, name in enumerate(arrays["arr_0"])}
    except (KeyError, OSError, EOFError) as error:
        raise ValueError(f"no outputs of a reference ({error})") from error


def save_apart(folder: Path, target: str, apart: Apart) -> None:
    """Keep the evidence in a run's folder.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_arrays(apart))
    write_whole(folder / apart_file(target), buffer.getvalue(), "free some space")


def distances(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """How far a board's values of one output are from the reference's.

    Args:
        ours: the reference's, [N, …].
        theirs: the board's, of the same shape.

    Returns:
        The largest |board - reference| of each sample, how many of its values differ, and the largest |reference|.
    """
    exact = np.asarray(ours, np.float64)
    off = np.abs(exact - np.asarray(theirs, np.float64)).reshape(len(exact), -1)
    return off.max(axis=1, initial=0.0), np.count_nonzero(off, axis=1), float(np.abs(exact).max(initial=0.0))


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
