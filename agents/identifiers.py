"""Names that come from a host: what they may look like, before anything is done with them."""

from __future__ import annotations

import re

from google.protobuf.unknown_fields import UnknownFieldSet

from agents.faults import AgentError, Fault, one_line
from agents.protocol import agent_pb2 as pb

# \Z, not $: the latter also matches before a final newline.
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_IDENTIFIER = re.compile(r"[a-z0-9-]{1,64}\Z")
_PROVIDER = re.compile(r"[A-Za-z0-9]{1,64}\Z")
_OPTIMIZER = re.compile(r"[A-Za-z0-9_]{1,64}\Z")

#: Values of SessionOptions.graph_optimization, as the protocol lists them.
GRAPH_OPTIMIZATIONS = ("", "disable", "basic", "extended", "all")
#: No machine this runs on has more; a larger number is a way to exhaust it.
MAX_THREADS = 1024
#: More names than any runtime knows.
MAX_NAMES = 64


def check_digest(text: str) -> str:
    """`text`, when it is a lower-case sha256.

    Raises:
        AgentError: INVALID otherwise.
    """
    if not _DIGEST.match(text):
        message = f"{_shown(text)} is not a digest: send the 64 lower-case hex digits of the file's sha256"
        raise AgentError(Fault.INVALID, message)
    return text


def check_identifier(text: str, what: str) -> str:
    """`text`, when it matches `[a-z0-9-]{1,64}`.

    Args:
        text: as received.
        what: the noun for the message: "network_id", "runtime".

    Raises:
        AgentError: INVALID otherwise.
    """
    if not _IDENTIFIER.match(text):
        raise AgentError(Fault.INVALID, f"{what} {_shown(text)} is malformed: use 1 to 64 of a-z, 0-9 and '-'")
    return text


def check_options(options: pb.SessionOptions) -> pb.SessionOptions:
    """`options`, when every value is one that the protocol allows.

    Raises:
        AgentError: INVALID, naming the field and the value.
    """
    if len(UnknownFieldSet(options)):
        message = "the session options hold a field that this agent does not know: send none, or update the agent"
        raise AgentError(Fault.INVALID, message)
    if options.graph_optimization not in GRAPH_OPTIMIZATIONS:
        known = ", ".join(GRAPH_OPTIMIZATIONS[1:])
        message = f"graph_optimization {_shown(options.graph_optimization)} is unknown: use one of {known}"
        raise AgentError(Fault.INVALID, message)
    if options.intra_op_threads > MAX_THREADS:
        message = f"intra_op_threads {options.intra_op_threads} is absurd: use at most {MAX_THREADS}"
        raise AgentError(Fault.INVALID, message)
    _check_names(options.disabled_optimizers, _OPTIMIZER, "disabled_optimizers")
    _check_names(options.providers, _PROVIDER, "providers")
    return options


def _check_names(names: object, pattern: re.Pattern[str], field: str) -> None:
    texts = [str(name) for name in names]  # type: ignore[attr-defined]  # a protobuf repeated field has no common base
    if len(texts) > MAX_NAMES:
        raise AgentError(Fault.INVALID, f"{field} has {len(texts)} names: at most {MAX_NAMES}")
    for text in texts:
        if not pattern.match(text):
            raise AgentError(Fault.INVALID, f"{field}: {_shown(text)} is no such name: letters and digits only")


def _shown(text: str) -> str:
    """Enough of a hostile text to recognise it by."""
    return repr(one_line(text)[:80])
