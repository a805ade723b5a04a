"""A smart plug or relay board with Tasmota's firmware, over its own HTTP interface.

`GET /cm?cmnd=Power1%20ON` answers `{"POWER1":"ON"}` (tasmota.github.io/docs/Commands, "With Web Requests"); a device
with one relay answers `POWER` whatever the number.
"""

from __future__ import annotations

import http.client
import json
import os
from urllib.parse import quote, urlencode, urlsplit

from harness.errors import BoardError, Refused, TimedOut, Unreachable
from harness.targets.power.switch import SwitchContext, text_option
from harness.targets.power.values import Action, PowerState, PowerStatus

#: Only where the device asks for one; never in targets.yaml.
PASSWORD = "QUANTRIG_TASMOTA_PASSWORD"  # noqa: S105 (the name of a variable)
_MAX_ANSWER_BYTES = 65_536


class TasmotaSwitch:
    """One output of one device."""

    def __init__(self, context: SwitchContext) -> None:
        self._context = context
        self._url = urlsplit(text_option(context.power.options, "url"))
        self._user = text_option(context.power.options, "user")
        output = context.power.options.get("output")
        self._command = "Power" if output is None else f"Power{output}"

    @property
    def abilities(self) -> frozenset[Action]:
        """On, off and status; a cycle is ours, with the wait of targets.yaml."""
        return frozenset({Action.ON, Action.OFF, Action.STATUS})

    def _ask(self, command: str, timeout_s: float) -> tuple[PowerState, str]:
        query = {"cmnd": command}
        password = os.environ.get(PASSWORD)
        if password:
            self._context.secrets.add(password)
            query = {"user": self._user, "password": password, **query}
        target, host = self._context.target, self._url.hostname or ""
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, self._url.port, timeout=timeout_s)
        try:
            connection.request("GET", f"{self._url.path.rstrip('/')}/cm?{urlencode(query, quote_via=quote)}")
            answer = connection.getresponse()
            body = answer.read(_MAX_ANSWER_BYTES)
        except TimeoutError:
            raise TimedOut(target, f"power: {host} did not answer within {timeout_s:.0f} s; check the plug") from None
        except (OSError, http.client.HTTPException) as error:
            why = self._context.blank(" ".join(str(error).split()))
            raise Unreachable(target, f"power: {host} cannot be reached ({why}); check `url` and the plug") from None
        finally:
            connection.close()
        if answer.status == http.client.UNAUTHORIZED:
            raise Refused(target, f"power: {host} wants a password; export {PASSWORD}")
        said = self._context.blank(body.decode("utf-8", "replace")).strip()
        if answer.status != http.client.OK:
            raise BoardError(target, f"power: {host} answered {answer.status} {answer.reason}; is it Tasmota?")
        return self._state(said), said[:300]

    def _state(self, said: str) -> PowerState:
        try:
            answer = json.loads(said)
        except ValueError:
            return PowerState.UNKNOWN
        if not isinstance(answer, dict):
            return PowerState.UNKNOWN
        if str(answer.get("WARNING", "")).startswith("Need user"):  # Tasmota answers 200 to a wrong login
            raise Refused(self._context.target, f"power: {self._url.hostname} wants a password; export {PASSWORD}")
        wanted = self._command.upper()
        for name in (wanted, "POWER1" if wanted == "POWER" else "POWER" if wanted == "POWER1" else wanted):
            if str(answer.get(name)).upper() in {"ON", "OFF"}:
                return PowerState(str(answer[name]).lower())
        return PowerState.UNKNOWN

    def switch(self, action: Action, timeout_s: float) -> str:
        """Switch, and hold the device to what it answers."""
        state, said = self._ask(f"{self._command} {action.value.upper()}", timeout_s)
        if state.value != action.value:
            raise BoardError(self._context.target, f"power: the plug did not switch {action.value}, it says: {said}")
        return said

    def status(self, timeout_s: float) -> PowerStatus:
        """The command without a value."""
        state, said = self._ask(self._command, timeout_s)
        return PowerStatus(state, said)
