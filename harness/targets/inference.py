"""Batches out, outputs back: both streams at once, with a bound on what is under way."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentStub
from harness.targets.calls import Calls, InFlight
from harness.targets.tensors import Array, OutputAssembler, check_inputs, parts
from harness.targets.validate import Checker
from harness.targets.values import PreparedNetwork

#: Batches sent and not yet answered. Two keep the board busy while one travels; more would only cost memory.
WINDOW = 3


class _Sender:
    """The request stream: gRPC pulls it from a thread of its own."""

    def __init__(self, target: str, network: PreparedNetwork, batches: Iterable[Mapping[str, Array]]) -> None:
        self._target = target
        self._network = network
        self._batches = batches
        self._turn = threading.Condition()
        self._answered = 0
        self._closed = False
        self.flight: InFlight | None = None
        self.sent = 0
        self.complete = False
        #: what the caller's own iterable raised; gRPC would only log it
        self.error: BaseException | None = None

    def requests(self) -> Iterator[pb.InferRequest]:
        """The network's name, then every batch, never more than `WINDOW` ahead of the answers."""
        try:
            yield pb.InferRequest(network_id=self._network.network_id)
            for batch in self._batches:
                check_inputs(self._target, batch, self._network.inputs)
                if not self._wait_for_window():
                    return
                # Counted before it goes: its answer may be here before gRPC comes back for the next part.
                self.sent += 1
                for part in parts(batch):
                    self._mark(owed=True)
                    yield pb.InferRequest(tensor=part)
            self.complete = True
            self._mark(owed=True)
        except Exception as error:  # noqa: BLE001  the caller's iterable may raise anything; the reader raises it again
            self.error = error
            if self.flight is not None:
                self.flight.call.cancel()

    def _wait_for_window(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._closed or self.sent - self._answered < WINDOW)
            return not self._closed

    def _mark(self, *, owed: bool) -> None:
        if self.flight is not None:
            self.flight.owed(owed)

    def heard(self) -> None:
        """A part of an answer came: the board lives."""
        self._mark(owed=True)

    def answered(self) -> None:
        """One batch is answered: the next may go."""
        with self._turn:
            self._answered += 1
            self._turn.notify_all()
            waiting = self._answered < self.sent or self.complete
        self._mark(owed=waiting)

    def close(self) -> None:
        """Let the sending thread end."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()


def infer(
    stub: AgentStub,
    calls: Calls,
    checker: Checker,
    target: str,
    network: PreparedNetwork,
    batches: Iterable[Mapping[str, Array]],
    idle_limit_s: float,
) -> Iterator[dict[str, Array]]:
    """Outputs of `batches`, in order; see `AgentClient.infer`."""
    sender = _Sender(target, network, batches)
    call = stub.Infer(sender.requests())
    assembler = OutputAssembler(checker, network.outputs)
    index = 0
    try:
        with calls.track(call, "running the network", idle_limit_s=idle_limit_s) as flight:
            sender.flight = flight
            # What was sent before the sender knew its flight started no clock.
            flight.owed(sender.sent > 0 or sender.complete)
            for reply in call:
                sender.heard()
                if reply.WhichOneof("part") == "tensor":
                    if index >= sender.sent:
                        checker.fail("outputs of a batch that was not sent")
                    assembler.add(reply.tensor)
                    continue
                if reply.batch.index != index or index >= sender.sent:
                    checker.fail(f"the answer to batch {reply.batch.index} where batch {index} was due")
                checker.number(reply.batch.duration_ms, "duration of a batch, ms", high=86_400_000.0)
                outputs = assembler.take(index)
                index += 1
                sender.answered()
                flight.pause()  # the caller may take its time with the outputs
                yield outputs
                flight.go_on(owed=index < sender.sent or sender.complete)
            if sender.error is None and (not sender.complete or index != sender.sent):
                checker.fail(f"{index} answers to {sender.sent} batches")
    except BaseException:
        if sender.error is not None:
            raise sender.error from None
        raise
    finally:
        sender.close()
    if sender.error is not None:
        raise sender.error
