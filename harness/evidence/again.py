"""A board's distance from the exact reference once more, from the outputs of both."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.judge.reference import Apart, distances
from harness.quantize.graph import read_model
from harness.runs.reference import output_steps

Arrays = Mapping[str, NDArray[Any]]
_T = TypeVar("_T")


def distances_again(
    kept: Apart, reference: Arrays | None, board: Iterable[Arrays | None], network: bytes | None
) -> tuple[Apart | None, str]:
    """The distances by the outputs of both; (None, why) where the bundle cannot tell.

    Args:
        kept: as the run has them.
        reference: the reference's outputs, None where the bundle has none.
        board: the board's, chunk by chunk; None for one that is not there.
        network: the int8 network, whose quantization steps are the unit.

    Raises:
        ValueError: outputs that do not fit each other.
    """
    if reference is None:
        return None, "the reference's outputs are not in the bundle"
    parts = list(board)
    theirs = [part for part in parts if part is not None]
    if not parts or len(theirs) < len(parts):
        return None, "the board's outputs are not in the bundle"
    model = None if network is None else with_network(network, read_model)
    if model is None:
        return None, "the int8 network is not in the bundle"
    found = [_of(name, reference, theirs) for name in kept.outputs]
    largest = np.array([one[2] for one in found])
    steps, basis = output_steps(model, kept.outputs, largest)
    furthest = np.stack([one[0] for one in found], axis=1)
    differing = np.stack([one[1] for one in found], axis=1)
    values = sum(int(reference[name].size) for name in kept.outputs)
    return Apart(kept.ids, kept.outputs, furthest, differing, steps, values, basis, kept.reference), ""


def _of(name: str, reference: Arrays, board: list[Arrays]) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    if name not in reference or any(name not in part for part in board):
        msg = f"output {name!r} is not among those of reference and board"
        raise ValueError(msg)
    ours, theirs = reference[name], np.concatenate([part[name] for part in board])
    if ours.shape != theirs.shape:
        msg = f"output {name!r} of the reference has the shape {ours.shape}, the board's {theirs.shape}"
        raise ValueError(msg)
    return distances(ours, theirs)


def same(first: Apart, second: Apart) -> bool:
    """To the bit: differences and maxima of numbers are the same everywhere."""
    return (
        (first.ids, first.outputs, first.values, first.basis)
        == (second.ids, second.outputs, second.values, second.basis)
        and np.array_equal(first.furthest, second.furthest)
        and np.array_equal(first.differing, second.differing)
        and np.array_equal(first.steps, second.steps)
    )


def with_network(content: bytes, reader: Callable[[Path], _T]) -> _T | None:
    """What a function reads from a network's bytes; None where it is no network that is there whole."""
    # A tensor that lies in another file names it under the key "location", wherever in the network it is: none of this
    # machine's files are opened for a network that so much as holds the word.
    if b"location" in content:
        return None
    with tempfile.TemporaryDirectory(prefix="quantrig-verify-") as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(content)
        try:
            return reader(path)
        except Exception:  # noqa: BLE001 (a stranger's bytes: whatever the readers of networks raise, it is then no network)
            return None
