"""Untimed inference of one chunk of samples on a board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from harness.data.batch import cut, rows
from harness.runs.samples import Array, feeds, join
from harness.targets.client import AgentClient
from harness.targets.values import PreparedNetwork


def infer_chunk(
    client: AgentClient, prepared: PreparedNetwork, inputs: Mapping[str, Array], fixed_batch: int | None
) -> dict[str, Array]:
    """Run the samples of one chunk through a network on the board.

    Args:
        inputs: name → array [N, …].
        fixed_batch: the batch the network insists on.

    Returns:
        Output name → array [N, …].

    Raises:
        BoardError: the board failed.
    """
    counts: list[int] = []

    def batches() -> Iterator[dict[str, Array]]:
        for part, real in feeds(inputs, fixed_batch):
            counts.append(real)
            yield part

    answers = list(client.infer(prepared.network_id, batches()))
    return join([(answer, real) for answer, real in zip(answers, counts, strict=True)])


def infer_sequence(
    client: AgentClient,
    prepared: PreparedNetwork,
    inputs: Mapping[str, Array],
    state_names: Mapping[str, str],
    state: Mapping[str, Array],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run the samples one after the other through a recurrent network, its state carried from one to the next.

    Args:
        inputs: name → array [N, …], in the order of time.
        state_names: state input → the output that becomes it.
        state: the state before the first sample.

    Returns:
        (outputs, name → array [N, …]; the state after the last sample).
    """
    count = rows(inputs)
    parts: list[tuple[dict[str, Array], int]] = []
    current = dict(state)
    for index in range(count):
        sample = cut(inputs, slice(index, index + 1))
        (answer,) = client.infer(prepared.network_id, [{**sample, **current}])
        current = {name: np.asarray(answer[output]) for name, output in state_names.items()}
        kept = {name: array for name, array in answer.items() if name not in state_names.values()}
        parts.append((kept, 1))
    return join(parts), current
