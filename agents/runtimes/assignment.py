"""Which provider of ONNX Runtime runs which node of a network.

`session.get_providers()` names the registered providers, not the working ones. Two sources are exact: since 1.24 the
session tells the nodes it gave to each provider when it split the graph, at no cost; before, only the profile of a run
does, whose every node carries its provider. The first counts the network's nodes, the second those that were left
after fusing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from agents.protocol import agent_pb2 as pb

#: Names in one answer, over all providers: enough for any network of a lab, and far below a message's limit.
_MAX_NAMES = 4096
_MAX_NAME_CHARACTERS = 200


def tells_itself(library: Any) -> bool:  # noqa: ANN401 - the library is untyped
    """Whether this ONNX Runtime can be asked."""
    return hasattr(library.InferenceSession, "get_provider_graph_assignment_info")


def from_session(session: Any) -> list[pb.ProviderNodes]:  # noqa: ANN401 - as above
    """What the session says; empty where it cannot be asked.

    The session must have been made with `session.record_ep_graph_assignment_info`.
    """
    try:
        groups = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001 - older versions have no such method, or refuse for reasons of their own
        return []
    return _grouped(
        (str(group.ep_name), str(node.op_type), str(node.name)) for group in groups for node in group.get_nodes()
    )


def from_profile(profile: bytes) -> list[pb.ProviderNodes]:
    """What the profile of one run says.

    Args:
        profile: the JSON that `end_profiling` wrote: events, those of nodes with `cat` "Node" and, among their `args`,
            `provider` and `op_name`. Events of one node differ in the end of their names only.
    """
    nodes: dict[tuple[str, str, str], None] = {}
    for event in json.loads(profile):
        arguments = event.get("args") or {}
        if event.get("cat") == "Node" and arguments.get("provider"):
            name = str(event.get("name", "")).removesuffix("_kernel_time")
            nodes[str(arguments["provider"]), str(arguments.get("op_name", "")), name] = None
    return _grouped(nodes)


def _grouped(nodes: Iterable[tuple[str, str, str]]) -> list[pb.ProviderNodes]:
    """One message a provider, in the order in which they first occur; `nodes` are (provider, operator, name)."""
    operators: dict[str, Counter[str]] = {}
    names: dict[str, list[str]] = {}
    told = 0
    for provider, operator, name in nodes:
        operators.setdefault(provider, Counter())[operator] += 1
        if name and told < _MAX_NAMES:
            names.setdefault(provider, []).append(name[:_MAX_NAME_CHARACTERS])
            told += 1
    return [
        pb.ProviderNodes(provider=provider, count=sum(counts.values()), operators=counts, nodes=names.get(provider, ()))
        for provider, counts in operators.items()
    ]
