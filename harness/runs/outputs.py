"""The outputs of a network, kept in chunks on disk so that a killed run loses at most the chunk in flight."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.record.figure import Network
from harness.store import Store
from harness.wholefile import write_whole

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class OutputStore:
    """The output chunks of one target in one run.

    Args:
        folder: the run's folder.
    """

    store: Store
    run_id: str
    target: str
    folder: Path

    def done(self, network: Network) -> set[int]:
        """Chunks that are complete: noted in the journal and intact on disk."""
        found = self.store.outputs(self.run_id, self.target, network)
        return {chunk for chunk, (path, digest) in found.items() if _digest_of(self.folder / path) == digest}

    def add(self, network: Network, chunk: int, outputs: Mapping[str, Array]) -> None:
        """Write one chunk, then note it (in that order: a noted chunk is a written one)."""
        buffer = io.BytesIO()
        # positional names inside: an output may be called anything, even what savez reserves
        np.savez(buffer, np.array(list(outputs), dtype=np.str_), *outputs.values())
        content = buffer.getvalue()
        relative = Path("outputs") / self.target / network.value.lower() / f"{chunk:05d}.npz"
        write_whole(self.folder / relative, content, "free some space and `quantrig resume`")
        self.store.add_outputs(
            self.run_id, self.target, network, chunk, str(relative), hashlib.sha256(content).hexdigest()
        )

    def read(self, network: Network, chunks: Sequence[int]) -> Iterator[dict[str, Array]]:
        """The outputs chunk by chunk, in the order asked for.

        Raises:
            UserError: a chunk is missing or was altered.
        """
        found = self.store.outputs(self.run_id, self.target, network)
        for chunk in chunks:
            entry = found.get(chunk)
            if entry is None or _digest_of(self.folder / entry[0]) != entry[1]:
                message = f"outputs of {self.target} are missing or altered; `quantrig resume {self.run_id}`"
                raise UserError(message)
            with np.load(self.folder / entry[0], allow_pickle=False) as arrays:
                names = arrays["arr_0"]
                yield {str(name): arrays[f"arr_{i + 1}"] for i, name in enumerate(names)}

    def digest(self, network: Network, chunks: Sequence[int]) -> str:
        """What `OutputsRecord.digest` says, of these chunks.

        Raises:
            UserError: a chunk is missing or was altered.
        """
        values: dict[str, Any] = {}
        kinds: dict[str, tuple[str, list[int]]] = {}
        for chunk in self.read(network, chunks):
            for name, array in chunk.items():
                kinds[name] = (array.dtype.str, list(array.shape[1:]))
                values.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(array).tobytes())
        listed = [[name, *kinds[name], values[name].hexdigest()] for name in sorted(values)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _digest_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
