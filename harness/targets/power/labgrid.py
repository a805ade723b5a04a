"""Power of a labgrid place, through its client in an environment of its own.

`labgrid-client -p PLACE power on|off|cycle|get`; labgrid is not imported, since its pyserial would replace ours.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.errors import BoardError
from harness.targets.power.process import Finished, run_bounded, succeed
from harness.targets.power.switch import SwitchContext, text_option
from harness.targets.power.values import Action, PowerState, PowerStatus

#: What `power get` prints (labgrid/remote/client.py): "power for place NAME is on".
_STATE = re.compile(r"^power\b.* for place \S+ is (on|off)$", re.MULTILINE)
#: Variables of our own Python that would lead another environment's astray.
_OURS = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class LabgridSwitch:
    """A place whose power the lab's exporter switches; it must be acquired by this user and host."""

    def __init__(self, context: SwitchContext) -> None:
        self._context = context
        options = context.power.options
        self._place = text_option(options, "place")
        client = text_option(options, "client")
        self._client = str(Path(client).expanduser()) if "/" in client else client
        coordinator = options.get("coordinator")
        self._coordinator = ["-x", coordinator] if isinstance(coordinator, str) else []

    @property
    def abilities(self) -> frozenset[Action]:
        """All; a cycle is labgrid's own, with the delay of its power driver."""
        return frozenset(Action)

    def _run(self, verb: str, timeout_s: float) -> tuple[list[str], Finished]:
        words = [self._client, *self._coordinator, "-p", self._place, "power", verb]
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        remedy = "install labgrid in an environment of its own and give `client: PATH/labgrid-client`"
        return words, run_bounded(self._context, words, timeout_s, remedy=remedy, environment=environment)

    def switch(self, action: Action, timeout_s: float) -> str:
        """`labgrid-client power on|off|cycle`."""
        words, finished = self._run(action.value, timeout_s)
        if finished.code and "acquired" in finished.output:
            raise BoardError(
                self._context.target,
                f"power: labgrid place {self._place} is not ours ({finished.last_line[:200]}); "
                f"acquire it: labgrid-client -p {self._place} acquire",
            )
        return succeed(self._context, words, finished)

    def status(self, timeout_s: float) -> PowerStatus:
        """`labgrid-client power get`; drivers that cannot read their state exit with an error: unknown."""
        _, finished = self._run("get", timeout_s)
        found = _STATE.search(finished.output)
        if finished.code or found is None:
            return PowerStatus(PowerState.UNKNOWN, f"labgrid says: {finished.last_line[:300] or 'nothing'}")
        return PowerStatus(PowerState(found[1]), found[0])
