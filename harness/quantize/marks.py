"""Nodes that a step of the preparation wants left in float, with its reason, whatever a rule book says."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

_MARK = "quantrig: stays float: "


def mark_float(node: NodeProto, reason: str) -> None:
    """Write into the node that it stays float, and why; the mark travels with the file."""
    node.doc_string = _MARK + reason


def float_mark(node: NodeProto) -> str | None:
    """The reason why a node was marked, None for all others."""
    return node.doc_string.removeprefix(_MARK) if node.doc_string.startswith(_MARK) else None


def float_marks(nodes: Iterable[NodeProto]) -> dict[str, str]:
    """Name → reason of each node that was marked."""
    return {node.name: reason for node in nodes if (reason := float_mark(node)) is not None}
