"""What every runtime that is one execution provider of ONNX Runtime tells of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from agents.faults import AgentError, Fault
from agents.runtimes.ort_session import CPU, TAKES, installed_version, works


class OrtProvider:
    """One provider, with others behind it for what it does not take."""

    takes = TAKES
    #: as ONNX Runtime calls it
    provider: ClassVar[str]
    #: those behind it, best first
    others: ClassVar[Sequence[str]] = (CPU,)
    #: options with which it is tried; it must start with them, not run anything
    tried_with: ClassVar[Mapping[str, str]] = {}

    def version(self) -> str:
        """Of ONNX Runtime."""
        return installed_version()

    def available_providers(self) -> Sequence[str]:
        """The provider and those behind it.

        Raises:
            AgentError: REFUSED with the reason when it does not work here.
        """
        self.before_trying()
        if problem := works(self.provider, self.tried_with):
            raise AgentError(Fault.REFUSED, problem)
        return [self.provider, *self.others]

    def before_trying(self) -> None:
        """What the provider's libraries need first; nothing, for most."""
