"""Does the agent serve? Asked over gRPC and TLS through the address in targets.yaml, as a run will."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from harness.errors import BoardError, Unreachable
from harness.targets.addresses import Address, open_link
from harness.targets.client import AgentClient

if TYPE_CHECKING:
    from harness.targets.target import Target

#: From its start to serving: 2 s on an emulated Raspberry Pi, some ten on its slowest card.
SERVE_TIMEOUT_S = 90.0
#: An agent that ended so often is not coming up.
_ENDS = 2
_ONCE_S = 5.0
_PAUSE_S = 0.3


class NotServing(BoardError):
    """The agent did not come up.

    Args:
        reached: something accepted our connections, so the network is not at fault.
    """

    def __init__(self, target: str, message: str, *, reached: bool = True) -> None:
        super().__init__(target, message)
        self.reached = reached


def serves(target: Target, timeout_s: float = _ONCE_S, *, thoroughly: bool = False) -> None:
    """One health check.

    Args:
        target: entry of the lab file.
        timeout_s: of the check.
        thoroughly: also have it load its runtimes, which its serving process does not.

    Raises:
        NotServing: none of its runtimes can be loaded.
        BoardError: it does not serve.
    """
    address = Address.parse(target.name, target.via.address or "", tls=target.via.tls)
    try:  # open_link gives an agent that restarts some seconds; here a refused connection is the answer
        socket.create_connection((address.host, address.port), timeout=timeout_s).close()
    except OSError as error:
        raise Unreachable(
            target.name, f"nothing answers at {address.grpc_target} ({error.strerror or error})"
        ) from error
    credentials = open_link(address, deadline=time.monotonic() + timeout_s, stop=threading.Event())
    options = [("grpc.use_local_subchannel_pool", 1)]  # no memory of the agent that was there before
    channel = (
        grpc.insecure_channel(address.grpc_target, options)
        if credentials is None
        else grpc.secure_channel(address.grpc_target, credentials, options)
    )
    with AgentClient(target.name, channel) as client:
        client.await_serving(timeout_s)
        if thoroughly:
            runtimes = client.describe().runtimes
            if not any(one.version for one in runtimes):
                why = "; ".join(f"{one.name}: {one.problem}" for one in runtimes) or "it has none"
                raise NotServing(target.name, f"it can run no network ({why})")


def await_serving(target: Target, ends: Callable[[], int], timeout_s: float = SERVE_TIMEOUT_S) -> float:
    """Wait until the agent that was just started serves.

    Args:
        target: entry of the lab file.
        ends: how often its service saw an agent end since that start.
        timeout_s: bound of the wait.

    Returns:
        Seconds it took.

    Raises:
        NotServing: it ended repeatedly, did not serve in time, or has no runtime that can be loaded.
    """
    begun = time.monotonic()
    while True:
        reached = True
        try:
            serves(target)
        except BoardError as error:
            why, reached = error.message, not isinstance(error, Unreachable)
        else:
            if not ends():  # else it is another agent that answers there
                took_s = time.monotonic() - begun
                try:
                    serves(target, thoroughly=True)
                except NotServing:
                    raise
                except BoardError as error:
                    raise NotServing(target.name, f"it cannot say what it runs: {error.message}") from error
                return took_s
            why = "another process answers at its address"
        if ends() >= _ENDS:
            raise NotServing(target.name, f"it ended {_ENDS} times")
        if time.monotonic() - begun > timeout_s:
            raise NotServing(target.name, f"it did not serve within {timeout_s:g} s ({why})", reached=reached)
        time.sleep(_PAUSE_S)
