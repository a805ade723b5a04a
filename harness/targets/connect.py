"""From an entry of targets.yaml to an open, checked connection."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from harness.targets.addresses import Address, open_link
from harness.targets.channels import open_channel
from harness.targets.client import AgentClient
from harness.targets.qemu.user_mode import guest_python
from harness.targets.qemu_system.use import started_board
from harness.targets.spawn import spawned_agent

if TYPE_CHECKING:
    from harness.targets.target import Target

#: An address where nothing answers is given up after this long, seconds (links, certificates and health together).
REACH_TIMEOUT_S = 8.0
#: Options of every channel. The message limit is gRPC's default, written down because the protocol counts on it.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.enable_http_proxy", 0),  # a board is reached directly; a proxy variable is meant for the internet
    # A board that lost its cable says nothing; it is noticed within 40 s. The agent allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # What counts instead in today's gRPC, whose own default is a minute (grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),  # a timed block sends nothing for its whole duration: no limit then
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),  # two clients of one process share no connection: one cut cuts one
]


@contextmanager
def connect(target: Target, *, work_dir: Path, stop: threading.Event | None = None) -> Iterator[AgentClient]:
    """A client for `target`, spoken to once (health, description, protocol version) and closed at the end.

    Args:
        target: `local`, `emulated` and `qemu` start an agent or a whole board here and end it afterwards; `address`
            reaches one on a board.
        work_dir: a started agent's log is kept in `work_dir/<target>/agent.log`.
        stop: when set, waits end and no new call starts.

    Raises:
        UserError: an emulated ARM system that is not provisioned, or an unsafe address.
        Unreachable: nothing answers.
        Refused: something answers that is not an agent of this lab, or speaks a newer protocol.
    """
    stop = stop if stop is not None else threading.Event()
    via = target.via
    with contextlib.ExitStack() as stack:
        if via.machine is not None and via.address is None:
            via = stack.enter_context(started_board(target))
        if via.channel is not None:
            via = replace(via, address=stack.enter_context(open_channel(target, work_dir=work_dir, stop=stop)))
        if via.address is None:
            interpreter = stack.enter_context(guest_python(target)) if via.kind == "qemu" else None
            emulated = via.kind != "local"
            agent, listening = stack.enter_context(
                spawned_agent(
                    target.name, target.board, emulated=emulated, work_dir=work_dir, stop=stop, interpreter=interpreter
                )
            )
            channel = grpc.insecure_channel(listening, CHANNEL_OPTIONS)
            client = AgentClient(target.name, channel, stop=stop, obituary=agent.obituary)
            deadline = time.monotonic() + REACH_TIMEOUT_S
        else:
            deadline = time.monotonic() + REACH_TIMEOUT_S
            address = Address.parse(target.name, via.address or "", tls=via.tls)
            credentials = open_link(address, deadline=deadline, stop=stop)
            channel = (
                grpc.insecure_channel(address.grpc_target, CHANNEL_OPTIONS)
                if credentials is None
                else grpc.secure_channel(address.grpc_target, credentials, CHANNEL_OPTIONS)
            )
            client = AgentClient(target.name, channel, stop=stop)
        stack.enter_context(client)
        client.await_serving(max(0.5, deadline - time.monotonic()))
        client.describe()
        yield client
