"""Warm-up and timed blocks on a board: how long they may take, which nobody but the board knows beforehand."""

from __future__ import annotations

import threading
import time

from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentStub
from harness.targets.calls import MARGIN_S, Calls
from harness.targets.validate import Checker
from harness.targets.values import TimedBlock, WarmUp


class TimedCalls:
    """The calls that time, and what they learn about how slow each network is.

    Args:
        stub: of the agent.
        calls: in flight.
        checker: of what the agent answers.
    """

    def __init__(self, stub: AgentStub, calls: Calls, checker: Checker) -> None:
        self._stub = stub
        self._calls = calls
        self._checker = checker
        self._lock = threading.Lock()
        self._first_s: dict[str, float] = {}

    def warm_up(self, request: pb.WarmUpRequest, batch_timeout_s: float) -> WarmUp:
        """See `AgentClient.warm_up`.

        Args:
            request: complete.
            batch_timeout_s: the agent's own limit of one batch.
        """
        # The cap is looked at between iterations, and each of the least number may take a batch's whole limit.
        timeout_s = request.max_duration_s + max(1, request.min_iterations) * batch_timeout_s + MARGIN_S
        begun = time.monotonic()  # before the call starts: the board must never seem to take longer than we waited
        call = self._stub.WarmUp.future(request, timeout=timeout_s)
        with self._calls.track(call, "warming up", timeout_s=timeout_s):
            reply = call.result()
        warm = self._checker.warm_up(reply, time.monotonic() - begun)
        with self._lock:
            self._first_s[request.network_id] = warm.first_ms / 1e3
        return warm

    def time_block(self, request: pb.TimeBlockRequest, batch_timeout_s: float) -> TimedBlock:
        """See `AgentClient.time_block`.

        Args:
            request: complete.
            batch_timeout_s: the agent's own limit of one batch.
        """
        with self._lock:
            first_s = self._first_s.get(request.network_id)
        # The first inference is the slowest of a sound board; four times that leaves room for throttling. Another
        # caller's block may have to end first, hence twice.
        each_s = 4 * first_s if first_s else batch_timeout_s
        timeout_s = 2 * (request.min_duration_s + request.min_iterations * each_s) + batch_timeout_s + MARGIN_S
        begun = time.monotonic()  # before the call starts: the board must never seem to take longer than we waited
        call = self._stub.TimeBlock.future(request, timeout=timeout_s)
        with self._calls.track(call, "timing a block", timeout_s=timeout_s):
            reply = call.result()
        return self._checker.block(reply, request, time.monotonic() - begun)

    def forget(self, network_id: str) -> None:
        """A network that was unloaded."""
        with self._lock:
            self._first_s.pop(network_id, None)
