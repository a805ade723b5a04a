"""Stands in for AMD's `xir`: an "xmodel" is JSON here, {"subgraphs": [{"device", "fingerprint", …}]}.

The calls are those of Vitis AI's Python examples: `Graph.deserialize`, `get_root_subgraph`,
`toposort_child_subgraph`, `has_attr`, `get_attr`, `get_ops`.
"""

from __future__ import annotations

import json
from pathlib import Path


class Subgraph:
    """A part of the graph."""

    def __init__(self, facts: dict[str, object]) -> None:
        self.facts = facts

    def has_attr(self, name: str) -> bool:
        return name in self.facts

    def get_attr(self, name: str) -> object:
        return self.facts[name]

    def get_ops(self) -> set[str]:
        return {"conv2d-fix", "fix2float", "download"}

    def toposort_child_subgraph(self) -> list[Subgraph]:
        found = self.facts["subgraphs"]
        assert isinstance(found, list)
        return [Subgraph(one) for one in found]


class Graph:
    """What a file holds. The bytes are checked to be read-only, as the agent promises them to be."""

    def __init__(self, facts: dict[str, object]) -> None:
        self._facts = facts

    @staticmethod
    def deserialize(path: str) -> Graph:
        try:
            with Path(path).open("r+b") as file:
                file.write(b"!")
        except PermissionError:
            pass
        else:
            raise RuntimeError("the file can still be written")
        return Graph(json.loads(Path(path).read_bytes()))

    def get_root_subgraph(self) -> Subgraph:
        return Subgraph(self._facts)
