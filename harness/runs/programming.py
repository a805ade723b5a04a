"""A design and its network on their way into a board's logic; what is there already is skipped."""

from __future__ import annotations

from harness.record.designs import DesignRecord, Programming
from harness.targets.client import AgentClient


def program(client: AgentClient, design: DesignRecord, network_digest: str) -> Programming:
    """Program one network of a target.

    Args:
        client: to a stand-in that holds the network.
        design: what to put into the logic.
        network_digest: of the network as it was sent.

    Raises:
        BoardError: the agent cannot.
    """
    before = client.program(design.digest, network_digest)
    return Programming(
        design.network,
        design.design,
        design.digest,
        network_digest,
        before.boot_id,
        before.device,
        before.design_loaded,
        before.network_loaded,
    )


def outcome_of(programming: Programming) -> str:
    """How it went, in a few words."""
    if programming.network_skipped:
        return "already loaded, skipped"
    if programming.design_skipped:
        return "the design is already loaded, skipped; the network programmed"
    return "programmed"
