"""Topological order, which ONNX demands and not every exporter keeps."""

from __future__ import annotations

import heapq

from onnx import ModelProto, NodeProto

from harness.quantize.graph import names_read_inside, subgraphs


def sort_nodes(model: ModelProto) -> None:
    """Put the nodes, named uniquely, in topological order; a network that is in order stays as it is."""
    nodes = list(model.graph.node)
    ordered = in_order(nodes)
    # A cycle is left for the runtime to name.
    if len(ordered) == len(nodes) and [node.name for node in ordered] != [node.name for node in nodes]:
        del model.graph.node[:]
        model.graph.node.extend(ordered)


def in_order(nodes: list[NodeProto]) -> list[NodeProto]:
    """Nodes in topological order, otherwise in the order given (ONNX demands the former)."""
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits: list[set[int]] = []
    for index, node in enumerate(nodes):
        read = set(node.input)
        for body in subgraphs(node):
            read |= names_read_inside(body)
        waits.append({maker[name] for name in read if name in maker and maker[name] != index})
    readers: dict[int, list[int]] = {}
    for index, before in enumerate(waits):
        for other in before:
            readers.setdefault(other, []).append(index)
    ready = [index for index, before in enumerate(waits) if not before]
    heapq.heapify(ready)
    order: list[NodeProto] = []
    while ready:
        index = heapq.heappop(ready)
        copy = NodeProto()
        copy.CopyFrom(nodes[index])
        order.append(copy)
        for reader in readers.get(index, ()):
            waits[reader].discard(index)
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return order
