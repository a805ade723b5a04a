"""An outlet of a rack PDU through `snmpset` and `snmpget` (net-snmp)."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.targets.power.process import run_bounded, succeed
from harness.targets.power.switch import SwitchContext, number_option, text_option
from harness.targets.power.values import Action, PowerState, PowerStatus
from harness.yamlfile import one_of


@dataclass(frozen=True, slots=True)
class PduModel:
    """How one family of PDUs is spoken to.

    Args:
        outlet: object identifier of an outlet's command and state, without the outlet's number at its end.
        on: value that switches on and that is read back from an outlet that is on.
        off: the same for off.
    """

    outlet: str
    on: int
    off: int


#: PowerNet-MIB of APC: rPDUOutletControlOutletCommand (immediateOn 1, immediateOff 2; reading returns the state), and
#: sPDUOutletCtl of the older MasterSwitch (outletOn 1, outletOff 2, outletUnknown 4).
MODELS = {
    "apc-rpdu": PduModel("1.3.6.1.4.1.318.1.1.12.3.3.1.1.4", 1, 2),
    "apc-masterswitch": PduModel("1.3.6.1.4.1.318.1.1.4.4.2.1.3", 1, 2),
}
_INTEGER = re.compile(r"(?:INTEGER: *)?(?:\w+\()?(-?\d+)\)?$")
#: The write community: never on a command line, where every user of this host could read it.
COMMUNITY = "QUANTRIG_SNMP_COMMUNITY"


class SnmpSwitch:
    """One outlet. SNMP v2c; the community comes from the environment."""

    def __init__(self, context: SwitchContext) -> None:
        self._context = context
        name = text_option(context.power.options, "model")
        if name not in MODELS:
            raise UserError(f"{context.target}: power: unknown PDU model '{name}'{one_of(name, MODELS)}")
        self._model = MODELS[name]
        self._host = text_option(context.power.options, "host")
        self._oid = f"{self._model.outlet}.{number_option(context.power.options, 'outlet')}"

    @property
    def abilities(self) -> frozenset[Action]:
        """On, off and status; a cycle is ours, so that its wait is that of targets.yaml."""
        return frozenset({Action.ON, Action.OFF, Action.STATUS})

    def _run(self, program: str, arguments: list[str], timeout_s: float) -> str:
        community = os.environ.get(COMMUNITY)
        if not community:
            raise UserError(f"{self._context.target}: power: {COMMUNITY} is not set; export the PDU's write community")
        self._context.secrets.add(community)
        words = [program, "-v2c", "-On", "-OQ", "-t", "2", "-r", "2", self._host, self._oid, *arguments]
        with _community_file(community) as environment:
            finished = run_bounded(
                self._context, words, timeout_s,
                remedy="install net-snmp's tools (Debian: apt install snmp)", environment=environment,
            )  # fmt: skip
        return succeed(self._context, words, finished)

    def switch(self, action: Action, timeout_s: float) -> str:
        """Set the outlet's command."""
        value = self._model.on if action is Action.ON else self._model.off
        return self._run("snmpset", ["i", str(value)], timeout_s)

    def status(self, timeout_s: float) -> PowerStatus:
        """Read the outlet's state back."""
        said = self._run("snmpget", [], timeout_s)
        value = said.rpartition("=")[2].strip()
        found = _INTEGER.search(value)
        states = {self._model.on: PowerState.ON, self._model.off: PowerState.OFF}
        state = states.get(int(found[1])) if found else None
        if state is None:
            return PowerStatus(PowerState.UNKNOWN, f"the PDU says: {value[:200]}")
        return PowerStatus(state, value)


@contextmanager
def _community_file(community: str) -> Iterator[dict[str, str]]:
    """An environment in which net-snmp finds the community in a file that only this user can read (snmp.conf(5))."""
    if not re.fullmatch(r"[!$-~]+", community):
        raise UserError(f"{COMMUNITY} holds blanks, quotes, # or other signs that snmp.conf cannot carry; change it")
    with tempfile.TemporaryDirectory(prefix="quantrig-snmp-") as folder:
        (Path(folder) / "snmp.conf").write_text(f"defCommunity {community}\n", encoding="ascii")
        yield {**os.environ, "SNMPCONFPATH": folder, "SNMP_PERSISTENT_DIR": folder, "MIBS": ""}
