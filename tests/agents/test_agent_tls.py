"""Who may call: row 24 of docs/security.md. Certificates are made here, by a library of others."""

from __future__ import annotations

import datetime
import hashlib
import subprocess
import sys
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agents.protocol import agent_pb2 as pb
from agents.protocol import agent_pb2_grpc as rpc
from tests.agents.conftest import ROOT, AgentProcess, StartAgent, failure, relu_bytes, upload_requests

HOST = x509.UniformResourceIdentifier("quantrig://host")
AGENT = x509.UniformResourceIdentifier("quantrig://agent")


class Authority:
    """A private certificate authority."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(True, None), critical=True
        )
        self.pem = certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: x509.GeneralName, days: int = 1) -> tuple[bytes, bytes]:
        """A key and a certificate with those alternative names, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "someone")])
        builder = self._builder(subject, key, days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return private_pem(key), pem

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 1) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def lab() -> Authority:
    return Authority("the lab")


@pytest.fixture(scope="module")
def tls_dir(lab: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = lab.issue(AGENT, x509.DNSName("localhost"))
    for name, content in (("ca.pem", lab.pem), ("agent.pem", certificate), ("agent-key.pem", key)):
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def secure(start_agent: StartAgent, tls_dir: Path) -> AgentProcess:
    return start_agent("--tls", str(tls_dir), "--listen", "0.0.0.0:0")


def channel_to(agent: AgentProcess, ca: bytes, identity: tuple[bytes, bytes] | None) -> grpc.Channel:
    key, certificate = identity or (None, None)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(f"localhost:{agent.address.rpartition(':')[2]}", credentials)


def describe(channel: grpc.Channel) -> pb.BoardDescription:
    return rpc.AgentStub(channel).Describe(pb.DescribeRequest(), timeout=60)


def test_row_24_a_host_of_the_lab_is_let_in(secure: AgentProcess, lab: Authority) -> None:
    with channel_to(secure, lab.pem, lab.issue(HOST)) as channel:
        assert describe(channel).board == "generic"
        stub = rpc.AgentStub(channel)
        data = relu_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert stub.Upload(upload_requests(digest, data), timeout=60).digest == digest
        assert list(stub.Prepare(pb.PrepareRequest(digest=digest), timeout=120))[-1].ready.network_id


def test_row_24_no_certificate_a_strangers_or_an_expired_one(secure: AgentProcess, lab: Authority) -> None:
    identities = {
        "none": None,
        "another authority": Authority("the lab").issue(HOST),  # of the same name
        "expired": lab.issue(HOST, days=-1),
    }
    for kind, identity in identities.items():
        with channel_to(secure, lab.pem, identity) as channel:
            code, _ = failure(partial(describe, channel))
            assert code is grpc.StatusCode.UNAVAILABLE, kind
    with grpc.insecure_channel(f"localhost:{secure.address.rpartition(':')[2]}") as channel:
        assert failure(lambda: describe(channel))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "names",
    [
        (),
        (AGENT,),
        (AGENT, HOST),
        (x509.UniformResourceIdentifier("quantrig://host/"),),
        (x509.UniformResourceIdentifier("quantrig://host.example.org"),),
        (x509.UniformResourceIdentifier("QUANTRIG://HOST"),),
        (x509.UniformResourceIdentifier("spiffe://lab/host"),),
        (x509.DNSName("quantrig://host"),),
        (x509.RFC822Name("quantrig://host"),),
    ],
    ids=["none", "agent", "both", "slash", "longer", "case", "other", "dns", "mail"],
)
def test_row_24_the_wrong_role_is_denied_every_call(
    secure: AgentProcess, lab: Authority, names: tuple[x509.GeneralName, ...]
) -> None:
    with channel_to(secure, lab.pem, lab.issue(*names)) as channel:
        stub = rpc.AgentStub(channel)
        calls = [
            lambda: describe(channel),
            lambda: stub.FindMissing(pb.FindMissingRequest()),
            lambda: stub.Upload(upload_requests("0" * 64, b"x")),
            lambda: stub.Remove(pb.RemoveRequest(digest="0" * 64)),
            lambda: stub.Prepare(pb.PrepareRequest(digest="0" * 64)),
            lambda: stub.Infer(iter([pb.InferRequest(network_id="n")])),
            lambda: stub.LoadInputs(iter([pb.InferRequest(network_id="n")])),
            lambda: stub.WarmUp(pb.WarmUpRequest(network_id="n")),
            lambda: stub.TimeBlock(pb.TimeBlockRequest(network_id="n")),
            lambda: stub.StreamTelemetry(pb.TelemetryRequest(interval_s=1)),
            lambda: stub.Unload(pb.UnloadRequest(network_id="n")),
            lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
            lambda: reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            ),
        ]
        for call in calls:
            code, text = failure(call)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert "does not name quantrig://host" in text


def refused(*options: str, data_dir: Path) -> str:
    """The one line with which `serve` refuses to start."""
    done = subprocess.run(
        [sys.executable, "-m", "agents", "serve", "--data", str(data_dir), *options],
        capture_output=True,
        check=False,
        text=True,
        timeout=20,
        cwd=ROOT,
    )
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "8.8.8.8:50443", "nowhere.invalid:1"])
def test_row_24_plain_text_stays_on_this_machine(listen: str, tmp_path: Path) -> None:
    line = refused("--listen", listen, data_dir=tmp_path)
    assert f"--listen {listen} can be reached from other machines: add --tls DIR" in line


def test_row_24_unusable_certificates_are_named(lab: Authority, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.pem").write_bytes(lab.pem)
    options = ("--listen", "0.0.0.0:0", "--tls", str(tmp_path / "tls"))
    assert "agent.pem cannot be read" in refused(*options, data_dir=tmp_path / "data")
    for name in ("agent.pem", "agent-key.pem"):
        (tmp_path / "tls" / name).write_text("no certificate")
    assert "agent.pem, or its agent-key.pem, is not usable" in refused(*options, data_dir=tmp_path / "data")
    (tmp_path / "tls" / "ca.pem").write_text("no certificate")
    assert "ca.pem is not usable" in refused(*options, data_dir=tmp_path / "data")


def test_a_unix_socket_is_its_owners_only(start_agent: StartAgent, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    agent = start_agent("--listen", f"unix:{path}")
    assert agent.address == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o700
    assert describe(agent.channel).board == "generic"
    second = refused("--listen", f"unix:{path}", data_dir=tmp_path / "second")
    assert f"--listen unix:{path} is in use by another process" in second
    assert describe(agent.channel).board == "generic"


def test_a_port_in_use_is_one_line(agent: AgentProcess, tmp_path: Path) -> None:
    line = refused("--listen", agent.address, data_dir=tmp_path)
    assert f"--listen {agent.address} cannot be used (in use" in line


@pytest.mark.parametrize("listen", ["50443", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", ":1"])
def test_an_address_that_is_none(listen: str, tmp_path: Path) -> None:
    assert f"--listen {listen}: write HOST:PORT or unix:PATH" in refused("--listen", listen, data_dir=tmp_path)
