"""Reaching an agent by address: bounded waits, mutual TLS, and whom the host refuses to believe."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agents.protocol import PROTOCOL_VERSION
from agents.protocol import agent_pb2 as pb
from agents.protocol.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server
from harness.errors import BoardError, Refused, Unreachable, UserError
from harness.targets.addresses import Address
from harness.targets.certificates import create_lab, issue_agent, issue_host
from harness.targets.connect import REACH_TIMEOUT_S, connect
from harness.targets.errors_map import CallCancelled
from harness.targets.target import Target

MakeTarget = Callable[..., Target]
Serve = Callable[[AgentServicer], str]
MakeLab = Callable[[str], dict[str, Path]]


class Minimal(AgentServicer):
    """Says who it is, and counts how often somebody asked."""

    def __init__(self) -> None:
        self.asked = 0

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.BoardDescription:  # noqa: N802 named by the protocol
        self.asked += 1
        return pb.BoardDescription(agent_version="0.1.0", protocol_version=PROTOCOL_VERSION, board="generic")


def minimal() -> Minimal:
    return Minimal()  # type: ignore[abstract]  # no test makes the other calls


@contextmanager
def tls_server(folder: Path, certificate: str, servicer: AgentServicer) -> Iterator[str]:
    """A gRPC server with `<certificate>.pem` of `folder` that demands a certificate of the same CA."""
    with ExitStack() as stack:
        server = grpc.server(stack.enter_context(ThreadPoolExecutor(4)))
        add_AgentServicer_to_server(servicer, server)
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        pair = ((folder / f"{certificate}-key.pem").read_bytes(), (folder / f"{certificate}.pem").read_bytes())
        credentials = grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        stack.callback(lambda: server.stop(0).wait(60))
        yield f"127.0.0.1:{port}"


@pytest.fixture
def lab(tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """`lab(name)`: a lab with one agent on loopback and one host; their folders."""

    def make(name: str) -> dict[str, Path]:
        folders = {part: tmp_path / name / part for part in ("lab", "agent", "host")}
        create_lab(folders["lab"], name)
        issue_agent(folders["lab"], "board", ["127.0.0.1"], folders["agent"])
        issue_host(folders["lab"], "laptop", folders["host"])
        return folders

    return make


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Nobody listens there and nobody else gets it; a gRPC server may take it, which shares its port too."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])


def test_mutual_tls_with_the_labs_certificates(lab: MakeLab, make_target: MakeTarget, tmp_path: Path) -> None:
    folders = lab("ours")
    servicer = minimal()
    with (
        tls_server(folders["agent"], "agent", servicer) as address,
        connect(make_target("address", address=address, tls=folders["host"]), work_dir=tmp_path) as client,
    ):
        assert client.describe().board == "generic"
    assert servicer.asked == 2


def test_the_real_agent_over_mutual_tls(lab: MakeLab, make_target: MakeTarget, tmp_path: Path) -> None:
    folders = lab("ours")
    command = [sys.executable, "-m", "agents", "serve", "--listen", "127.0.0.1:0", "--ready-json"]
    command += ["--data", str(tmp_path / "data"), "--tls", str(folders["agent"]), "--exit-on-stdin-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        address = json.loads(agent.stdout.readline())["listening"]
        with connect(make_target("address", address=address, tls=folders["host"]), work_dir=tmp_path) as client:
            assert client.describe().protocol_version == PROTOCOL_VERSION
        with (
            pytest.raises(BoardError),  # the same address without certificates
            connect(make_target("address", address=address), work_dir=tmp_path),
        ):
            pass
    assert agent.returncode == 0


def test_certificate_of_another_lab_is_refused(lab: MakeLab, make_target: MakeTarget, tmp_path: Path) -> None:
    ours, theirs = lab("ours"), lab("theirs")
    servicer = minimal()
    with (
        tls_server(theirs["agent"], "agent", servicer) as address,
        pytest.raises(Refused, match="certificate is not valid here"),
        connect(make_target("address", address=address, tls=ours["host"]), work_dir=tmp_path),
    ):
        pass
    assert servicer.asked == 0


def test_our_certificate_of_another_lab_is_refused_by_the_agent(
    lab: MakeLab, make_target: MakeTarget, tmp_path: Path
) -> None:
    ours, theirs = lab("ours"), lab("theirs")
    # A host that trusts their CA, with a certificate of ours.
    (ours["host"] / "ca.pem").write_bytes((theirs["host"] / "ca.pem").read_bytes())
    with (
        tls_server(theirs["agent"], "agent", minimal()) as address,
        pytest.raises(Refused, match=r"ended the connection after our certificate|no TLS connection"),
        connect(make_target("address", address=address, tls=ours["host"]), work_dir=tmp_path),
    ):
        pass


def test_a_host_of_the_lab_cannot_pose_as_a_board(lab: MakeLab, make_target: MakeTarget, tmp_path: Path) -> None:
    folders = lab("ours")
    servicer = minimal()
    with (
        tls_server(folders["host"], "host", servicer) as address,
        pytest.raises(Refused, match="is not an agent of this lab"),
        connect(make_target("address", address=address, tls=folders["host"]), work_dir=tmp_path),
    ):
        pass
    assert servicer.asked == 0


def test_the_role_is_checked_beyond_what_tls_checks(lab: MakeLab, make_target: MakeTarget, tmp_path: Path) -> None:
    """A server certificate of the right CA and host name, but for another service of the lab."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folders = lab("ours")
    authority = x509.load_pem_x509_certificate((folders["lab"] / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((folders["lab"] / "ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wiki")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folders["agent"] / "wiki.pem").write_bytes(certificate.public_bytes(pem))
    (folders["agent"] / "wiki-key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with (
        tls_server(folders["agent"], "wiki", minimal()) as address,
        pytest.raises(Refused, match="has not the role quantrig://agent"),
        connect(make_target("address", address=address, tls=folders["host"]), work_dir=tmp_path),
    ):
        pass


def test_plain_server_where_tls_was_expected(
    lab: MakeLab, serve: Serve, make_target: MakeTarget, tmp_path: Path
) -> None:
    servicer = minimal()
    with (
        pytest.raises((Refused, Unreachable)),
        connect(make_target("address", address=serve(servicer), tls=lab("ours")["host"]), work_dir=tmp_path),
    ):
        pass
    assert servicer.asked == 0


def test_missing_certificates_are_named(make_target: MakeTarget, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"ca\.pem: No such file.*`tls` names.*`quantrig targets provision bench`"),
        connect(make_target("address", address="127.0.0.1:1", tls=tmp_path / "nothing"), work_dir=tmp_path),
    ):
        pass


def test_unix_socket(make_target: MakeTarget, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = grpc.server(stack.enter_context(ThreadPoolExecutor(2)))
        add_AgentServicer_to_server(minimal(), server)
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        address = f"unix:{tmp_path / 's'}"
        server.add_insecure_port(address)
        server.start()
        stack.callback(lambda: server.stop(0).wait(60))
        with connect(make_target("address", address=address), work_dir=tmp_path) as client:
            assert client.describe().board == "generic"


def test_nothing_listens(make_target: MakeTarget, closed_port: int, tmp_path: Path) -> None:
    begun = time.monotonic()
    with (
        pytest.raises(Unreachable, match=rf"nothing answers at 127.0.0.1:{closed_port} .*quantrig-agent serve"),
        connect(make_target("address", address=f"127.0.0.1:{closed_port}"), work_dir=tmp_path),
    ):
        pass
    assert time.monotonic() - begun < 60


def test_something_listens_and_never_answers(
    make_target: MakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.targets.connect.REACH_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.monotonic()
        with (
            pytest.raises(Unreachable, match="no agent answers within"),
            connect(make_target("address", address=f"127.0.0.1:{server.getsockname()[1]}"), work_dir=tmp_path),
        ):
            pass
        assert time.monotonic() - begun < 60


def test_a_board_that_hangs_before_tls_is_told_as_one(
    lab: MakeLab, make_target: MakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.targets.connect.REACH_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = make_target("address", address=f"127.0.0.1:{server.getsockname()[1]}", tls=lab("ours")["host"])
        with (
            pytest.raises(Unreachable, match=r"says nothing: its agent or the board hangs"),
            connect(target, work_dir=tmp_path),
        ):
            pass


def test_unknown_host_name(make_target: MakeTarget, lab: MakeLab, tmp_path: Path) -> None:
    begun = time.monotonic()
    target = make_target("address", address="no-such-board.invalid:50443", tls=lab("ours")["host"])
    with (
        pytest.raises(Unreachable, match=r"no machine is called 'no-such-board\.invalid'"),
        connect(target, work_dir=tmp_path),
    ):
        pass
    assert time.monotonic() - begun < 60


def test_agent_that_starts_a_moment_later_is_awaited(make_target: MakeTarget, closed_port: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = grpc.server(stack.enter_context(ThreadPoolExecutor(2)))
        add_AgentServicer_to_server(minimal(), server)
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)

        def start() -> None:
            server.add_insecure_port(f"127.0.0.1:{closed_port}")
            server.start()

        later = threading.Timer(0.5, start)
        later.start()
        stack.callback(lambda: server.stop(0).wait(60))
        stack.callback(later.join)
        with connect(make_target("address", address=f"127.0.0.1:{closed_port}"), work_dir=tmp_path) as client:
            assert client.describe().board == "generic"


def test_stop_ends_the_wait_for_an_address(make_target: MakeTarget, closed_port: int, tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    begun = time.monotonic()
    with (
        pytest.raises(CallCancelled),
        connect(make_target("address", address=f"127.0.0.1:{closed_port}"), work_dir=tmp_path, stop=stop),
    ):
        pass
    assert time.monotonic() - begun < REACH_TIMEOUT_S - 1


def test_not_serving_is_refused(make_target: MakeTarget, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = grpc.server(stack.enter_context(ThreadPoolExecutor(2)))
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stack.callback(lambda: server.stop(0).wait(60))
        with (
            pytest.raises(Refused, match="not serving"),
            connect(make_target("address", address=f"127.0.0.1:{port}"), work_dir=tmp_path),
        ):
            pass


def test_qemu_without_its_system_says_what_to_do(make_target: MakeTarget, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"`via: qemu` (needs qemu-aarch64-static|is not on this machine yet)"),
        connect(make_target("qemu"), work_dir=tmp_path),
    ):
        pass


@pytest.mark.parametrize("text", ["rpi5.lab:50443", "192.168.1.7:1", "[2001:db8::1]:1", "127.0.0.1.evil.org:1"])
def test_beyond_this_machine_needs_certificates(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="beyond this machine"):
        Address.parse("bench", text, tls=None)
    assert not Address.parse("bench", text, tls=tmp_path).is_local


@pytest.mark.parametrize("text", ["127.0.0.1:1", "127.9.9.9:50443", "[::1]:50443", "localhost:1", "unix:/run/agent"])
def test_this_machine_may_be_plain(text: str) -> None:
    address = Address.parse("bench", text, tls=None)
    assert address.is_local
    assert address.grpc_target == text


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:70000", "::1:5", "a b:1", "dns:///x:1", "x@y:1"])
def test_what_is_no_address(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an address"):
        Address.parse("bench", text, tls=tmp_path)
