"""Preparing a network on a board: what is asked for, and the phases that the board reports until it is ready."""

from __future__ import annotations

from collections.abc import Callable

from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentStub
from harness.targets.calls import Calls
from harness.targets.validate import Checker
from harness.targets.values import PreparedNetwork, SessionChoice, SignedPermit

#: More than an agent of any version sends.
_MOST_PHASES = 64


def prepare_request(digest: str, options: SessionChoice, permit: SignedPermit | None) -> pb.PrepareRequest:
    """What the board is asked for.

    Args:
        digest: of a file that the board holds.
        options: how to execute it.
        permit: for a network that was compiled elsewhere.
    """
    request = pb.PrepareRequest(
        digest=digest,
        runtime=options.runtime,
        options=pb.SessionOptions(
            intra_op_threads=options.intra_op_threads,
            graph_optimization=options.graph_optimization,
            disabled_optimizers=options.disabled_optimizers,
            precise_x86_int8=options.precise_x86_int8,
            providers=options.providers,
        ),
    )
    if permit is not None:
        request.permit.statement, request.permit.signature = permit.statement, permit.signature
    return request


def prepare(
    stub: AgentStub,
    calls: Calls,
    checker: Checker,
    request: pb.PrepareRequest,
    on_phase: Callable[[str, float], None] | None,
    timeout_s: float,
) -> PreparedNetwork:
    """Have it done; see `AgentClient.prepare`."""
    call = stub.Prepare(request, timeout=timeout_s)
    prepared: PreparedNetwork | None = None
    phases = 0
    with calls.track(call, "preparing the network", timeout_s=timeout_s):
        for event in call:
            if prepared is not None:
                checker.fail("something after a network was ready")
            if event.WhichOneof("event") == "ready":
                prepared = checker.prepared(event.ready, request.digest)
                continue
            phases += 1
            if phases > _MOST_PHASES:
                checker.fail(f"more than {_MOST_PHASES} phases of preparing")
            name, duration_ms = checker.phase(event.phase)
            if on_phase is not None:
                on_phase(name, duration_ms)
    if prepared is None:
        checker.fail("no network at the end of preparing")
    return prepared
