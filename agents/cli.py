"""The command `quantrig-agent`. Only argparse is imported before it is known what to do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents import __version__
from agents.config import MEBIBYTE, AgentConfig, default_data_dir, usual_prepare_timeout_s

if TYPE_CHECKING:
    from agents.boards.sources import Sources

_BAD_INPUT = 2
_INTERRUPTED = 130
_ROOT_HELP = "read sensors and start vendors' tools below this folder instead of /"
_LIMIT_KINDS = ("auto", "cgroup-v2", "cgroup-v1", "rlimit", "rlimit-data", "none")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0 good, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "serve":
            return _serve(options)
        from agents.faults import AgentError

        try:
            return _describe(options) if options.command == "describe" else _telemetry(options)
        except AgentError as error:
            return _complain(error.message)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    defaults = AgentConfig()
    parser = argparse.ArgumentParser("quantrig-agent", description="The agent of quantrig that runs on a board.")
    parser.add_argument("--version", action="version", version=f"quantrig-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve hosts until stopped")
    serve.add_argument("--listen", default=defaults.listen, metavar="HOST:PORT|unix:PATH", help="port 0: any free one")
    serve.add_argument("--board", default="", metavar="KIND", help="what this machine is called in targets.yaml")
    serve.add_argument("--board-root", type=Path, default=None, metavar="DIR", help=_ROOT_HELP)
    serve.add_argument("--emulated", action="store_true", help="only stand in for the board: never report times")
    serve.add_argument("--data", type=Path, default=None, metavar="DIR", help="where uploads are kept")
    serve.add_argument("--tls", type=Path, default=None, metavar="DIR", help="ca.pem, agent.pem, agent-key.pem")
    serve.add_argument("--signing-key", type=Path, default=None, metavar="FILE", help="lab's public key for xmodels")
    serve.add_argument("--exit-on-stdin-eof", action="store_true", help="stop when stdin closes")
    serve.add_argument("--ready-json", action="store_true", help="print one JSON line once serving")
    serve.add_argument("--quota-mb", type=_positive, default=defaults.quota_bytes // MEBIBYTE)
    serve.add_argument("--child-memory-mb", type=_positive, help="of each network's process")
    serve.add_argument("--max-tensor-mb", type=_positive, default=defaults.max_tensor_bytes // MEBIBYTE)
    serve.add_argument("--memory-limit", choices=_LIMIT_KINDS, default=defaults.memory_limit)
    serve.add_argument("--allow-loops", action="store_true", help="accept networks with Loop and Scan")
    serve.add_argument("--prepare-timeout-s", type=_seconds, help="of loading and compiling a network")
    serve.add_argument("--batch-timeout-s", type=_seconds, default=defaults.batch_timeout_s)
    serve.add_argument("--host-timeout-s", type=_seconds, default=defaults.host_timeout_s)
    serve.add_argument("--max-networks", type=_positive, default=defaults.max_networks)
    serve.add_argument("--verbose", action="store_true", help="log every refused call")

    telemetry = commands.add_parser("telemetry", help="read the board's sensors")
    telemetry.add_argument("--board", default="", metavar="KIND")
    telemetry.add_argument("--board-root", type=Path, default=None, metavar="DIR", help=_ROOT_HELP)
    telemetry.add_argument("--replay", type=Path, default=None, metavar="FILE", help="recorded output of the board")
    telemetry.add_argument("--json", action="store_true", help="one JSON object a sample")
    telemetry.add_argument("--samples", type=_positive, default=1, metavar="N")
    telemetry.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between samples")

    describe = commands.add_parser("describe", help="who and what this board is")
    describe.add_argument("--board", default="", metavar="KIND")
    describe.add_argument("--board-root", type=Path, default=None, metavar="DIR", help=_ROOT_HELP)
    describe.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Before gRPC is loaded: its own lines about a port in use would precede ours, which says what to do.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR" if options.verbose else "NONE")
    from agents.boards.kinds import family_of
    from agents.limits import usual_memory_bytes
    from agents.server import StartRefused, serve

    family = "generic" if options.emulated else family_of(options.board)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    config = AgentConfig(
        listen=options.listen,
        board=options.board,
        board_root=options.board_root,
        emulated=options.emulated,
        data_dir=(options.data or default_data_dir()).absolute(),
        tls_dir=options.tls,
        signing_key=options.signing_key,
        quota_bytes=options.quota_mb * MEBIBYTE,
        child_memory_bytes=(options.child_memory_mb or 0) * MEBIBYTE or usual_memory_bytes(family),
        max_tensor_bytes=options.max_tensor_mb * MEBIBYTE,
        allow_loops=options.allow_loops,
        prepare_timeout_s=options.prepare_timeout_s or usual_prepare_timeout_s(family),
        batch_timeout_s=options.batch_timeout_s,
        host_timeout_s=options.host_timeout_s,
        max_networks=options.max_networks,
        memory_limit=options.memory_limit,
    )
    from agents.faults import AgentError

    try:
        _check_kind(config.board)
        serve(config, ready_json=options.ready_json, exit_on_stdin_eof=options.exit_on_stdin_eof)
    except (StartRefused, AgentError) as refused:
        return _complain(str(refused))
    return 0


def _telemetry(options: argparse.Namespace) -> int:
    from agents.boards import find_board

    _check_kind(options.board)
    if options.replay is not None:
        return _replay(options)
    board = find_board(options.board, _sources(options))
    with contextlib.closing(board.sampler(options.interval)) as sampler:
        for _ in range(options.samples):
            time.sleep(options.interval)
            sample = sampler.sample()
            _write(sample.to_json() if options.json else sample.to_text())
    return 0


def _replay(options: argparse.Namespace) -> int:
    """Samples on stdout; every line that cannot be read on stderr, by its number."""
    from agents.boards.kinds import family_of
    from agents.boards.replay import replay

    def complain(number: int, line: str) -> None:
        start = "".join(letter if letter.isprintable() else "?" for letter in line.strip()[:60])
        sys.stderr.write(f"quantrig-agent: {options.replay}:{number}: no reading of a board: {start}\n")

    count = 0
    try:
        with options.replay.open(encoding="utf-8-sig", errors="replace") as file:
            for sample in replay(file, family_of(options.board), complain):
                _write(sample.to_json() if options.json else sample.to_text())
                count += 1
    except BrokenPipeError:  # whoever read our samples has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(f"--replay {options.replay}: {error.strerror or error}: name a file of recorded output")
    if not count:
        what = f"board {options.board}" if options.board else "any board that is known here; name one with --board"
        return _complain(f"--replay {options.replay}: no line in it is a reading of {what}")
    return 0


def _check_kind(kind: str) -> None:
    """Say it when nobody here has that kind of board: a slip, or a package that is missing.

    Raises:
        AgentError: it is no identifier.
    """
    from agents.boards import has_kind
    from agents.boards.kinds import FAMILY_OF
    from agents.identifiers import check_identifier

    if kind and not has_kind(check_identifier(kind, "--board")):
        known = ", ".join(FAMILY_OF)
        sys.stderr.write(f"quantrig-agent: --board {kind}: taken as any Linux machine; known are {known}\n")


def _sources(options: argparse.Namespace) -> Sources | None:
    """Another tree than this machine's, where one was named."""
    from agents.boards.sources import Sources

    return Sources(options.board_root) if options.board_root is not None else None


def _describe(options: argparse.Namespace) -> int:
    from agents.boards import find_board

    _check_kind(options.board)
    board = find_board(options.board, _sources(options))
    facts: dict[str, object] = {"agent_version": __version__, "board": board.kind}
    facts |= dataclasses.asdict(board.identity())
    if options.json:
        _write(json.dumps(facts))
    else:
        _write("\n".join(f"{name}: {value}" for name, value in facts.items()))
    return 0


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no positive whole number")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _complain(message: str) -> int:
    sys.stderr.write(f"quantrig-agent: {message}\n")
    return _BAD_INPUT
