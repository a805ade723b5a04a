"""The serving process: address, TLS, limits against floods, and a clean end."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agents.artifacts import ArtifactStore, StoreBusy
from agents.boards import find_board
from agents.boards.kinds import family_of
from agents.boards.sources import Sources
from agents.config import AgentConfig
from agents.interceptors import CallInterceptor
from agents.limits import choose_limiter
from agents.memory import use_few_arenas
from agents.networks import NetworkTable
from agents.permits import PermitDesk, read_public_key
from agents.preferences import preferred
from agents.probe import RuntimeProbe
from agents.protocol import agent_pb2 as pb
from agents.protocol import agent_pb2_grpc as rpc
from agents.service import AgentService
from agents.settings import SettingsDesk, knobs_of
from agents.settings_file import SettingsFile

#: Calls at one time, and threads: one host needs a handful (a stream, telemetry, health). More are answered
#: RESOURCE_EXHAUSTED at once instead of waiting behind each other.
MAX_CALLS = 32
_GRACE_S = 1.0
#: The lab's public signing key, in the folder of its certificates.
SIGNING_KEY = "signing-key.pem"
_SERVICE = pb.DESCRIPTOR.services_by_name["Agent"].full_name

_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second agent on the port would silently take half of the calls
    ("grpc.max_concurrent_streams", MAX_CALLS),
    # A host that vanished without a word is noticed within 40 s, and its calls end.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # What counts instead in today's gRPC, whose own default is a minute (grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A host may ping every 10 s; one that pings faster is sent away (GOAWAY, too_many_pings).
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_metadata_size", 16 << 10),
]


class StartRefused(Exception):
    """The agent cannot be started as asked; one line."""


def serve(config: AgentConfig, *, ready_json: bool, exit_on_stdin_eof: bool) -> None:
    """Serve until SIGTERM, SIGINT, or (when asked) the end of stdin.

    Args:
        config: the operator's choices.
        ready_json: print one JSON line on stdout once serving, instead of a sentence.
        exit_on_stdin_eof: stop when stdin closes, so that a starter that is killed leaves no agent behind.

    Raises:
        StartRefused: port in use, plain TCP beyond loopback, unusable certificates or data directory.
    """
    use_few_arenas()
    os.umask(0o077)  # everything an agent makes, its unix socket included, is its own
    check_address(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as cleanup:
        try:
            # A stand-in runs networks on the processor, whatever it stands in for.
            limiter = choose_limiter(config.memory_limit, "" if config.emulated else family_of(config.board))
            store = ArtifactStore(config.data_dir, config.quota_bytes, config.max_artifact_bytes)
        except (StoreBusy, ValueError) as error:
            raise StartRefused(str(error)) from None
        except OSError as error:
            message = f"the data directory {config.data_dir} cannot be used: {error.strerror or error}"
            raise StartRefused(f"{message}: choose another one with --data") from None
        cleanup.callback(store.close)
        pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="call")
        server = grpc.server(
            pool,
            interceptors=[CallInterceptor(role_required=_is_encrypted(config))],
            options=_OPTIONS,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        port = _bind(server, config)
        networks = NetworkTable(config, store, limiter)
        cleanup.callback(networks.close)
        sources = Sources(config.board_root) if config.board_root is not None else None
        board = find_board(config.board, sources)
        best = preferred(family_of(board.kind), emulated=config.emulated)
        probe = RuntimeProbe(config, limiter, store.homes, best)
        cleanup.callback(probe.close)
        desk = PermitDesk(_signing_key(config), lambda: board.identity().machine_id, store.root / "permits.json")
        knobs = knobs_of(board.kind, sources or Sources(), store.root)
        settings = SettingsDesk(board, knobs, SettingsFile(store.root / "board-settings.json"))
        settings.recover()  # before any host is served: one that died may have left the board as its run asked for
        cleanup.callback(settings.close)
        service = AgentService(config, board, store, networks, limiter, probe, desk, settings)
        rpc.add_AgentServicer_to_server(service, server)
        healthy = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        reflection.enable_server_reflection((_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        server.start()
        for name in ("", _SERVICE):
            healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        listening = config.listen if _is_unix(config.listen) else f"{config.listen.rpartition(':')[0]}:{port}"
        _announce(listening, board.kind, limiter.kind, ready_json)
        if exit_on_stdin_eof:
            threading.Thread(target=_watch_stdin, args=(stop,), name="stdin", daemon=True).start()
        stop.wait()
        logging.getLogger("quantrig.agent").info("stopping")
        healthy.enter_graceful_shutdown()
        stopped = server.stop(_GRACE_S)
        # Calls that wait for a child end with it.
        probe.close()
        networks.close()
        stopped.wait()
        pool.shutdown(wait=False, cancel_futures=True)


def check_address(config: AgentConfig) -> None:
    """Refuse to be reachable from other machines without TLS.

    Raises:
        StartRefused: see there; also for an address that cannot be understood.
    """
    if _is_unix(config.listen):
        _check_socket(Path(config.listen.removeprefix("unix:")))
        return
    host, colon, port = config.listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise StartRefused(f"--listen {config.listen}: write HOST:PORT or unix:PATH")
    if config.tls_dir is None and not _is_loopback(host.strip("[]")):
        raise StartRefused(
            f"--listen {config.listen} can be reached from other machines: add --tls DIR, or listen on 127.0.0.1"
        )


def _is_encrypted(config: AgentConfig) -> bool:
    """A unix socket is guarded by its file's owner and mode instead."""
    return config.tls_dir is not None and not _is_unix(config.listen)


def _is_unix(listen: str) -> bool:
    return listen.startswith("unix:")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)


def _check_socket(path: Path) -> None:
    """Refuse a socket that answers: it belongs to another agent, and gRPC would replace it."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise StartRefused(f"--listen unix:{path} is in use by another process: stop it or choose another path")


def _bind(server: grpc.Server, config: AgentConfig) -> int:
    try:
        if config.tls_dir is not None and _is_encrypted(config):
            return server.add_secure_port(config.listen, _credentials(config.tls_dir))
        return server.add_insecure_port(config.listen)
    except RuntimeError:
        message = f"--listen {config.listen} cannot be used (in use, or no address of this machine): choose another"
        raise StartRefused(message) from None


def _credentials(directory: Path) -> grpc.ServerCredentials:
    try:
        ca, chain, key = ((directory / name).read_bytes() for name in ("ca.pem", "agent.pem", "agent-key.pem"))
    except OSError as error:
        message = f"--tls {directory}: {Path(str(error.filename)).name} cannot be read: {error.strerror}"
        raise StartRefused(f"{message}: put ca.pem, agent.pem and agent-key.pem there") from None
    _check_certificates(directory)
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=True)


def _check_certificates(directory: Path) -> None:
    """Say which file is at fault; gRPC would only say that the port cannot be opened."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    name = "ca.pem"
    try:
        context.load_verify_locations(directory / name)
        name = "agent.pem, or its agent-key.pem,"
        context.load_cert_chain(directory / "agent.pem", directory / "agent-key.pem")
    except ssl.SSLError as error:
        message = f"--tls {directory}: {name} is not usable ({error.reason or error}): have the lab issue it again"
        raise StartRefused(message) from None


def _signing_key(config: AgentConfig) -> bytes | None:
    """The lab's public signing key: the file that was named, else the one beside the certificates, else none."""
    path = config.signing_key
    if path is None:
        path = config.tls_dir / SIGNING_KEY if config.tls_dir is not None else None
        if path is None or not path.is_file():
            return None
    try:
        return read_public_key(path)
    except OSError as error:
        raise StartRefused(f"--signing-key {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StartRefused(f"--signing-key {path}: {error}: name the lab's signing-key.pem") from None


def _announce(listening: str, board: str, memory_limit: str, ready_json: bool) -> None:
    if ready_json:
        line = json.dumps({"listening": listening, "pid": os.getpid(), "memory_limit": memory_limit})
    else:
        line = f"quantrig-agent serves board {board} on {listening}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _watch_stdin(stop: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    stop.set()
