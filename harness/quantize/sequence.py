"""Samples of a recurrent network: fed one after the other, each with the state that the one before left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from harness.data import Batch, DataSpec, InputSpec, Preprocess, data_inputs, network_inputs, stream_batches
from harness.data.batch import cut, rows
from harness.errors import UserError
from harness.quantize.graph import read_model
from harness.quantize.runtime import open_session, run_session

Arrays = Mapping[str, NDArray[Any]]


def zero_state(inputs: Sequence[InputSpec], state: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The state that a recurrent network starts from; empty for the others. Free dimensions count as 1.

    Args:
        inputs: of the network.
        state: state input → the output that becomes it.
    """
    return {
        spec.name: np.zeros([size if size is not None and size > 0 else 1 for size in spec.shape], spec.dtype)
        for spec in inputs
        if spec.name in state
    }


def check_state(inputs: Sequence[InputSpec], outputs: Sequence[str], state: Mapping[str, str]) -> None:
    """Refuse a state that names what the network does not have.

    Raises:
        UserError: naming it, with what there is.
    """
    names = [spec.name for spec in inputs]
    for fed, made in state.items():
        if fed not in names:
            msg = f"state: {fed!r} is not an input of the network; its inputs: {', '.join(names)}"
            raise UserError(msg)
        if made not in outputs:
            msg = f"state: {made!r} is not an output of the network; its outputs: {', '.join(outputs)}"
            raise UserError(msg)


class Stateful:
    """A network that carries its state from one pass to the next; any network, where it has none.

    Args:
        session: the network; returns `shown` and the outputs that become the state.
        shown: outputs to return.
        state: state input → the output that becomes it.
        first: the state before the first pass.
    """

    def __init__(
        self, session: ort.InferenceSession, shown: Sequence[str], state: Mapping[str, str], first: Arrays
    ) -> None:
        self._session = session
        self._shown = len(shown)
        self._names = [*shown, *state.values()]
        self._state = state
        self._current = dict(first)

    def run(self, inputs: Arrays, what: str) -> list[NDArray[Any]]:
        """The shown outputs of one pass.

        Args:
            inputs: all inputs but the state.
            what: how to call them in an error.
        """
        values = run_session(self._session, {**inputs, **self._current}, what, self._names)
        self._current = dict(zip(self._state, values[self._shown :], strict=True))
        return values[: self._shown]


def with_states(
    model: Path, samples: Iterable[Arrays], state: Mapping[str, str], first: Arrays
) -> Iterator[dict[str, NDArray[Any]]]:
    """Add to each sample the state that the float network has come to, by running it on this host.

    Args:
        model: the float network.
        samples: batches of the other inputs, their samples in the order of time.
        state: state input → the output that becomes it.
        first: the state before the first sample.

    Yields:
        All inputs of the network, one sample at a time.
    """
    session = open_session(read_model(model), str(model))
    outputs = list(state.values())
    current = dict(first)
    for sample in one_by_one(samples):
        feed = {**sample, **current}
        yield feed
        current = dict(zip(state, run_session(session, feed, str(model), outputs), strict=True))


def sequence_batches(
    model: Path, data: str | Path | DataSpec | Iterable[Any], state: Mapping[str, str], preprocess: Preprocess | None
) -> Iterator[Batch]:
    """Data of a recurrent network as batches of one sample with all inputs.

    Args:
        model: the float network.
        data: as `stream_batches` takes it, in the order of time; or an iterable of complete feeds, which already hold
            the state and are passed on as they are.
        state: state input → the output that becomes it.
        preprocess: of named image data.

    Raises:
        UserError: the data are unusable.
    """
    inputs = network_inputs(model)
    if not isinstance(data, str | Path | DataSpec | Mapping | tuple | np.ndarray):
        pieces = iter(data)
        first = next(pieces, None)
        data = pieces if first is None else chain([first], pieces)
        known = first[0] if isinstance(first, tuple) else first
        if isinstance(known, Mapping) and all(name in known for name in state):
            yield from _complete(data)
            return
    fed = data_inputs(inputs, state)
    labels: list[Any] = []
    ids: list[str] = []

    def samples() -> Iterator[Arrays]:
        for batch in stream_batches(data, fed, preprocess=preprocess):
            for index in range(batch.real):
                ids.append(batch.ids[index])
                labels.append(None if batch.labels is None else batch.labels[index : index + 1])
                yield cut(batch.inputs, slice(index, index + 1))

    for feed in with_states(model, samples(), state, zero_state(inputs, state)):
        yield Batch((ids.pop(),), feed, labels.pop())


def _complete(data: Iterable[Any]) -> Iterator[Batch]:
    for number, piece in enumerate(data):
        inputs, labels = piece if isinstance(piece, tuple) else (piece, None)
        arrays = {str(name): np.asarray(value) for name, value in inputs.items()}
        yield Batch((str(number),), arrays, None if labels is None else np.asarray(labels).reshape(-1))


def one_by_one(batches: Iterable[Arrays]) -> Iterator[dict[str, NDArray[Any]]]:
    """The samples of batches, each as a batch of one."""
    for batch in batches:
        for index in range(rows(batch)):
            yield cut(batch, slice(index, index + 1))
