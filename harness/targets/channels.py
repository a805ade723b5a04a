"""Ways to an agent that are not a network address: plug-ins that bring its gRPC port to this machine.

A channel is named in targets.yaml, `via: {channel: NAME, options: {…}}`. A package brings one by registering a factory
under the entry point group `quantrig.channels`:

    def factory(request: ChannelRequest) -> AbstractContextManager[str]: ...

It yields an address of this machine (`127.0.0.1:PORT`, `unix:PATH`) behind which the agent answers, and takes it down
at the end. `jtag` is ours; it says what it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Unreachable, UserError
from harness.targets.addresses import Address
from harness.yamlfile import one_of

if TYPE_CHECKING:
    from harness.targets.target import Target

GROUP = "quantrig.channels"


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """What a channel is asked for.

    Args:
        target: name in targets.yaml.
        board: its kind.
        options: the words beside `channel`.
        base: folder that relative paths start from.
        work_dir: for logs.
        stop: when set, waits end.
    """

    target: str
    board: str
    options: Mapping[str, str]
    base: Path
    work_dir: Path
    stop: threading.Event = field(default_factory=threading.Event)


Channel = Callable[[ChannelRequest], AbstractContextManager[str]]


def channel_names() -> list[str]:
    """Ours, and those of installed packages."""
    return sorted({"jtag", *(point.name for point in entry_points(group=GROUP))})


@contextmanager
def open_channel(target: Target, *, work_dir: Path, stop: threading.Event) -> Iterator[str]:
    """The address of this machine behind which the target's agent answers, for as long as the block runs.

    Raises:
        UserError: no such channel is installed.
        Unreachable: it cannot be opened; says what it needs.
    """
    name = target.via.channel or ""
    request = ChannelRequest(target.name, target.board, target.via.options, target.base, work_dir, stop)
    with _factory(target.name, name)(request) as text:
        try:
            address = Address.parse(target.name, text, tls=target.via.tls)
        except UserError as error:
            raise Unreachable(target.name, f"channel {name} gave an address that is none: {error}") from None
        if not address.is_local:
            raise Unreachable(target.name, f"channel {name} gave {text}, which is not on this machine: update it")
        yield text


def _factory(target: str, name: str) -> Channel:
    for point in entry_points(group=GROUP):  # a package that really drives JTAG goes before ours
        if point.name == name:
            factory: Channel = point.load()
            return factory
    if name == "jtag":
        from harness.targets.jtag import jtag

        return jtag
    raise UserError(f"{target}: no channel '{name}' is installed{one_of(name, channel_names())}")
