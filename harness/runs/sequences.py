"""Samples of a recurrent network with the state that the float network has when it meets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from harness.runs.samples import Array


def with_states(
    model: Path, samples: Iterable[Mapping[str, Array]], state_names: Mapping[str, str], first: Mapping[str, Array]
) -> Iterator[dict[str, Array]]:
    """Add to each sample the state that the float network has come to, by running it on this host.

    Args:
        model: the float network.
        samples: one sample at a time, in the order of time.
        state_names: state input → the output that becomes it.
        first: the state before the first sample.

    Yields:
        All inputs of the network.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = list(state_names.values())
    state = dict(first)
    for sample in samples:
        feed = {**sample, **state}
        yield feed
        values = session.run(outputs, feed)
        state = {name: np.asarray(value) for name, value in zip(state_names, values, strict=True)}
