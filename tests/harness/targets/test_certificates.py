"""The lab's certificates, tried in real mutual TLS between a gRPC server and a channel."""

from __future__ import annotations

import datetime as dt
import ipaddress
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from harness.errors import UserError
from harness.targets.certificates import CERTIFICATE_VALIDITY, create_lab, issue_agent, issue_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METHOD = "/quantrig.test/Echo"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    create_lab(folder, "bench-3")
    return folder


@contextmanager
def serving(tls: Path, role: str = "agent") -> Iterator[str]:
    """A gRPC server that demands a client certificate of the same lab; answers with the caller's URI names."""

    def echo(_: bytes, context: grpc.ServicerContext) -> bytes:
        # the stub types the values as bytes; gRPC returns a list of them
        return b" ".join(cast("list[bytes]", context.auth_context()["x509_subject_alternative_name"]))

    handler = grpc.method_handlers_generic_handler("quantrig.test", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    pair = ((tls / f"{role}-key.pem").read_bytes(), (tls / f"{role}.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (tls / "ca.pem").read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def call(address: str, credentials: grpc.ChannelCredentials | None) -> bytes:
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        return method(b"", timeout=60)


def client(tls: Path, role: str = "host") -> grpc.ChannelCredentials:
    key, chain = (tls / f"{role}-key.pem").read_bytes(), (tls / f"{role}.pem").read_bytes()
    return grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes(), key, chain)


def names_of(pem: Path) -> x509.SubjectAlternativeName:
    certificate = x509.load_pem_x509_certificate(pem.read_bytes())
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_agent_and_host_of_one_lab_talk_and_the_role_arrives(lab: Path, tmp_path: Path) -> None:
    issue_agent(lab, "rpi5", ["rpi5.lab", "127.0.0.1"], tmp_path / "agent")
    issue_host(lab, "laptop", tmp_path / "host")
    with serving(tmp_path / "agent") as address:
        assert call(address, client(tmp_path / "host")) == b"quantrig://host"


def test_ipv6_and_dns_addresses_are_in_the_certificate(lab: Path, tmp_path: Path) -> None:
    issue_agent(lab, "rpi5", ["rpi5.lab", "10.0.0.7", "fe80::7"], tmp_path / "agent")
    names = names_of(tmp_path / "agent/agent.pem")
    assert names.get_values_for_type(x509.DNSName) == ["rpi5.lab"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.0.0.7"),
        ipaddress.ip_address("fe80::7"),
    ]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["quantrig://agent"]


def test_other_lab_is_refused_in_both_directions(lab: Path, tmp_path: Path) -> None:
    create_lab(tmp_path / "lab2", "bench-3")
    issue_agent(lab, "rpi5", ["127.0.0.1"], tmp_path / "agent")
    issue_host(tmp_path / "lab2", "laptop", tmp_path / "stranger")
    issue_host(lab, "laptop", tmp_path / "host")
    # trusts the right agent, but shows a stranger's certificate
    mixed = grpc.ssl_channel_credentials(
        (lab / "ca.pem").read_bytes(),
        (tmp_path / "stranger/host-key.pem").read_bytes(),
        (tmp_path / "stranger/host.pem").read_bytes(),
    )
    with serving(tmp_path / "agent") as address:
        for credentials in (client(tmp_path / "stranger"), mixed):
            with pytest.raises(grpc.RpcError) as failure:
                call(address, credentials)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert call(address, client(tmp_path / "host"))  # the server itself is well


def test_plaintext_and_a_client_without_certificate_are_refused(lab: Path, tmp_path: Path) -> None:
    issue_agent(lab, "rpi5", ["127.0.0.1"], tmp_path / "agent")
    with serving(tmp_path / "agent") as address:
        for credentials in (None, grpc.ssl_channel_credentials((lab / "ca.pem").read_bytes())):
            with pytest.raises(grpc.RpcError) as failure:
                call(address, credentials)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_agent_under_another_address_is_refused(lab: Path, tmp_path: Path) -> None:
    issue_agent(lab, "rpi5", ["rpi5.lab", "10.0.0.7"], tmp_path / "agent")
    issue_host(lab, "laptop", tmp_path / "host")
    with serving(tmp_path / "agent") as address, pytest.raises(grpc.RpcError) as failure:
        call(address, client(tmp_path / "host"))
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def test_roles_cannot_be_swapped(lab: Path, tmp_path: Path) -> None:
    issue_agent(lab, "rpi5", ["127.0.0.1"], tmp_path / "agent")
    issue_host(lab, "laptop", tmp_path / "host")
    with serving(tmp_path / "agent") as address, pytest.raises(grpc.RpcError) as failure:
        call(address, client(tmp_path / "agent", role="agent"))  # a stolen board calls another board
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    with serving(tmp_path / "host", role="host") as address, pytest.raises(grpc.RpcError) as failure:
        call(address, client(tmp_path / "host"))  # a host poses as a board
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def test_keys_are_p256_private_to_the_owner_and_validity_is_as_stated(lab: Path, tmp_path: Path) -> None:
    issue_agent(lab, "rpi5", ["127.0.0.1"], tmp_path / "agent")
    issue_host(lab, "laptop", tmp_path / "host")
    for path in (lab / "ca-key.pem", tmp_path / "agent/agent-key.pem", tmp_path / "host/host-key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
    assert {path.name for path in (tmp_path / "agent").iterdir()} == {"ca.pem", "agent.pem", "agent-key.pem"}
    assert {path.name for path in (tmp_path / "host").iterdir()} == {"ca.pem", "host.pem", "host-key.pem"}
    now = dt.datetime.now(dt.UTC)
    certificate = x509.load_pem_x509_certificate((tmp_path / "host/host.pem").read_bytes())
    assert abs(certificate.not_valid_after_utc - now - CERTIFICATE_VALIDITY) < dt.timedelta(minutes=5)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_nothing_is_overwritten(lab: Path, tmp_path: Path) -> None:
    before = (lab / "ca-key.pem").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        create_lab(lab, "bench-3")
    assert (lab / "ca-key.pem").read_bytes() == before
    issue_agent(lab, "rpi5", ["127.0.0.1"], tmp_path / "agent")
    with pytest.raises(UserError, match=r"agent-key\.pem exists already"):
        issue_agent(lab, "rpi5", ["127.0.0.1"], tmp_path / "agent")
    create_lab(tmp_path / "lab2", "other")
    with pytest.raises(UserError, match="another lab's"):
        issue_host(tmp_path / "lab2", "laptop", tmp_path / "agent")
    issue_host(lab, "laptop", tmp_path / "agent")  # both roles of one lab may share a folder


def test_a_dangling_link_is_not_followed(lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "agent"
    out.mkdir()
    (out / "agent-key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="exists already"):
        issue_agent(lab, "rpi5", ["127.0.0.1"], out)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", "Rpi", "a/b", "../x", "a" * 65, "a\n"])
def test_names_that_will_not_do(lab: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a-z"):
        issue_host(lab, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["", "rpi5.lab:50443", "https://rpi5", "10.0.0", "a b", "-x", "x" * 254])
def test_addresses_that_will_not_do(lab: Path, tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="neither an IP address nor a host name"):
        issue_agent(lab, "rpi5", [address], tmp_path / "out")


def test_no_address_no_lab_an_open_key_and_a_foreign_key_are_user_errors(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one address"):
        issue_agent(lab, "rpi5", [], tmp_path / "out")
    with pytest.raises(UserError, match="no lab here"):
        issue_host(tmp_path / "nowhere", "laptop", tmp_path / "out")
    (lab / "ca-key.pem").chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        issue_host(lab, "laptop", tmp_path / "out")
    (lab / "ca-key.pem").chmod(0o600)
    create_lab(tmp_path / "lab2", "other")
    (lab / "ca-key.pem").write_bytes((tmp_path / "lab2/ca-key.pem").read_bytes())
    with pytest.raises(UserError, match="not the key"):
        issue_host(lab, "laptop", tmp_path / "out")
