"""Which session options a runtime takes: an allow-list each, so that no option is silently without effect."""

from __future__ import annotations

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb

_ALL = frozenset(field.name for field in pb.SessionOptions.DESCRIPTOR.fields)


def check_taken(runtime: object, name: str, options: pb.SessionOptions) -> None:
    """Refuse an option that is set and that the runtime does not take.

    Args:
        runtime: its `takes`, a set of names, is the list; all of them where it has none.
        name: of the runtime, for the message.
        options: already checked for what their values may be.

    Raises:
        AgentError: INVALID, naming the option.
    """
    taken = frozenset(getattr(runtime, "takes", _ALL))
    for field, _ in options.ListFields():
        if field.name not in taken:
            known = ", ".join(sorted(taken & _ALL)) or "none"
            message = f"runtime {name} takes no option {field.name}: leave it out (it takes {known})"
            raise AgentError(Fault.INVALID, message)
