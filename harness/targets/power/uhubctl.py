"""Power of a USB port through `uhubctl`, on hubs that switch ports one by one (a Raspberry Pi fed by a hub)."""

from __future__ import annotations

import re

from harness.targets.power.process import run_bounded, succeed
from harness.targets.power.switch import SwitchContext, number_option, text_option
from harness.targets.power.values import Action, PowerState, PowerStatus

#: One port of uhubctl's listing: "  Port 2: 0103 power enable connect [2109:…]", "  Port 2: 0000 off".
_HUB = re.compile(r"^(?:Current|New) status for hub (?P<hub>\S+)", re.MULTILINE)
_PORT = re.compile(r"^ *Port (?P<port>\d+): (?P<bits>[0-9a-f]{4})(?P<words>.*)$", re.MULTILINE)


class UhubctlSwitch:
    """One port of one hub."""

    def __init__(self, context: SwitchContext) -> None:
        self._context = context
        self._program = text_option(context.power.options, "program")
        self._hub = text_option(context.power.options, "location")
        self._number = number_option(context.power.options, "port")

    @property
    def abilities(self) -> frozenset[Action]:
        """On, off and status; a cycle is ours, with the wait of targets.yaml."""
        return frozenset({Action.ON, Action.OFF, Action.STATUS})

    def _listing(self, arguments: list[str], timeout_s: float) -> str:
        words = [self._program, "-l", self._hub, "-p", str(self._number), *arguments]
        remedy = "install uhubctl (Debian: apt install uhubctl)"
        finished = run_bounded(self._context, words, timeout_s, remedy=remedy)
        return succeed(self._context, words, finished)

    def switch(self, action: Action, timeout_s: float) -> str:
        """`uhubctl -a on|off`."""
        return self._listing(["-a", action.value], timeout_s)

    def status(self, timeout_s: float) -> PowerStatus:
        """The port's word `power` in the listing."""
        return read_listing(self._listing([], timeout_s), self._hub, self._number)


def read_listing(listing: str, hub: str, port: int) -> PowerStatus:
    """The state of one port in what uhubctl prints.

    A USB 3 hub is two hubs with one power switch: uhubctl lists its other half too, so the hub's own block is read.
    """
    blocks = re.split(r"(?=^(?:Current|New) status for hub )", listing, flags=re.MULTILINE)
    for block in reversed(blocks):  # after a switch the new status follows the old one
        head = _HUB.search(block)
        if head is None or head["hub"] != hub:
            continue
        for line in _PORT.finditer(block):
            if int(line["port"]) == port:
                state = PowerState.ON if "power" in line["words"].split("[")[0].split() else PowerState.OFF
                return PowerStatus(state, line[0].strip())
    return PowerStatus(PowerState.UNKNOWN, f"uhubctl does not list port {port} of hub {hub}")
