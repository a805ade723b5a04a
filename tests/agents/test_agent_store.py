"""Uploads: resumable, verified, bounded; rows 2, 3, 8 to 11, 20, 21 and 22 of docs/security.md."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from agents.artifacts import ArtifactStore
from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import ROOT, AgentProcess, StartAgent, failure, relu_bytes, upload_requests, wait_for

ALIVE = lambda: True  # noqa: E731 - the caller of the store that never leaves


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def missing(agent: AgentProcess, *digests: str) -> dict[str, int]:
    reply = agent.stub.FindMissing(pb.FindMissingRequest(digests=digests), timeout=60)
    return {one.digest: one.held_bytes for one in reply.missing}


def send(agent: AgentProcess, requests: Iterator[pb.UploadRequest]) -> pb.UploadReply:
    return agent.stub.Upload(requests, timeout=120)


def test_a_file_is_stored_once_and_known_by_its_digest(agent: AgentProcess) -> None:
    data = os.urandom(3_000_000)
    digest = digest_of(data)
    assert missing(agent, digest) == {digest: 0}
    first = send(agent, upload_requests(digest, data))
    assert (first.digest, first.size_bytes, first.already_stored) == (digest, len(data), False)
    assert missing(agent, digest) == {}
    again = send(agent, upload_requests(digest, data))
    assert again.already_stored
    stored = agent.data_dir / "blobs" / digest
    assert stored.read_bytes() == data
    wait_for(lambda: stat.S_IMODE(stored.stat().st_mode) == 0o400, "the file on the disk")
    for directory in (agent.data_dir, *(agent.data_dir / name for name in ("blobs", "partial", "marks"))):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    before = agent.stub.Describe(pb.DescribeRequest()).storage_used_bytes
    assert agent.stub.Remove(pb.RemoveRequest(digest=digest)).freed_bytes == len(data)
    assert agent.stub.Describe(pb.DescribeRequest()).storage_used_bytes == before - len(data)
    assert failure(lambda: agent.stub.Remove(pb.RemoveRequest(digest=digest)))[0] is grpc.StatusCode.NOT_FOUND


def test_an_upload_resumes_after_its_connection_was_cut(agent: AgentProcess) -> None:
    """The host's TCP connection is reset in the middle of a chunk stream; the next one sends only the rest."""
    data = os.urandom(6 << 20)
    digest = digest_of(data)
    host, port = agent.address.rsplit(":", 1)
    link = socket.create_server(("127.0.0.1", 0))
    passed = threading.Event()

    def carry() -> None:
        near, _ = link.accept()
        far = socket.create_connection((host, int(port)))

        def back() -> None:
            with contextlib.suppress(OSError):  # the cut
                while piece := far.recv(65536):
                    near.sendall(piece)

        threading.Thread(target=back, daemon=True).start()
        count = 0
        while count < 4 << 20:
            piece = near.recv(65536)
            far.sendall(piece)
            count += len(piece)
        # Bytes that the agent has not read yet are gone with a reset connection: cut only after it wrote some.
        unfinished = agent.data_dir / "partial" / digest
        wait_for(lambda: unfinished.exists() and unfinished.stat().st_size >= 1 << 20, "the first bytes on the board")
        near.shutdown(socket.SHUT_RDWR)
        far.shutdown(socket.SHUT_RDWR)
        passed.set()

    threading.Thread(target=carry, daemon=True).start()
    with grpc.insecure_channel(f"127.0.0.1:{link.getsockname()[1]}") as channel:
        upload = channel.stream_unary(
            "/quantrig.agent.v1.Agent/Upload",
            request_serializer=pb.UploadRequest.SerializeToString,
            response_deserializer=pb.UploadReply.FromString,
        )
        assert failure(lambda: upload(upload_requests(digest, data), timeout=60))[0] is grpc.StatusCode.UNAVAILABLE
    assert passed.wait(60)
    sent: list[int] = []

    def counted(offset: int) -> Iterator[pb.UploadRequest]:
        for request in upload_requests(digest, data, offset=offset):
            sent.append(len(request.chunk))
            yield request

    def resumed() -> int:
        """Bytes held when it worked; the call that was cut may still be ending."""
        held = missing(agent, digest)[digest]
        if not held:
            return 0
        sent.clear()
        try:
            return 0 if send(agent, counted(held)).already_stored else held
        except grpc.RpcError as error:
            if "bytes are held: resume there" not in str(error):
                raise
            return 0

    held = wait_for(resumed, "the resumed upload")
    assert sum(sent) == len(data) - held < len(data)
    assert (agent.data_dir / "blobs" / digest).read_bytes() == data


def test_two_hosts_may_send_the_same_file_at_once(agent: AgentProcess) -> None:
    data = os.urandom(4 << 20)
    digest = digest_of(data)
    replies: list[pb.UploadReply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(send(agent, upload_requests(digest, data)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.already_stored for reply in replies) == [False, True, True, True]
    assert (agent.data_dir / "blobs" / digest).read_bytes() == data


def test_two_agents_never_share_a_directory(agent: AgentProcess) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "agents", "serve", "--listen", "127.0.0.1:0", "--data", str(agent.data_dir)],
        capture_output=True,
        check=False,
        text=True,
        timeout=20,
        cwd=ROOT,
    )
    assert second.returncode == 2
    assert "is used by another agent: stop it or choose another --data directory" in second.stderr
    assert second.stderr.count("\n") == 1


def test_row_02_a_link_planted_in_the_store_is_not_followed(agent: AgentProcess, tmp_path: Path) -> None:
    data = os.urandom(1000)
    digest = digest_of(data)
    outside = tmp_path / "outside"
    outside.write_bytes(data)
    for folder in ("blobs", "partial"):
        (agent.data_dir / folder / digest).symlink_to(outside)
    assert missing(agent, digest) == {digest: 0}  # a link is no file of ours
    prepare = pb.PrepareRequest(digest=digest)
    assert failure(lambda: agent.stub.Prepare(prepare))[0] is grpc.StatusCode.NOT_FOUND
    assert not send(agent, upload_requests(digest, data)).already_stored
    assert not (agent.data_dir / "blobs" / digest).is_symlink()
    assert outside.read_bytes() == data
    assert outside.stat().st_nlink == 1


def test_row_03_a_hard_link_in_the_store_is_not_run(agent: AgentProcess, tmp_path: Path) -> None:
    data = relu_bytes("hard")
    digest = digest_of(data)
    outside = agent.data_dir.parent / "elsewhere"
    outside.write_bytes(data)
    (agent.data_dir / "blobs" / digest).hardlink_to(outside)
    assert missing(agent, digest) == {digest: 0}
    assert failure(lambda: agent.stub.Prepare(pb.PrepareRequest(digest=digest)))[0] is grpc.StatusCode.NOT_FOUND
    send(agent, upload_requests(digest, data))
    assert (agent.data_dir / "blobs" / digest).stat().st_nlink == 1


def stored(agent: AgentProcess) -> list[Path]:
    return sorted(path for path in agent.data_dir.rglob("*") if "homes" not in path.parts)


def test_row_08_running_a_network_writes_no_file_anywhere_in_the_store(agent: AgentProcess) -> None:
    digest = agent.upload(relu_bytes("row8"))
    before = stored(agent)
    ready = agent.prepare_events(digest)[-1].ready
    child = agent.child_of(ready.network_id)
    assert stored(agent) == before
    home = Path(os.readlink(f"/proc/{child}/cwd"))
    assert list(home.iterdir()) == []
    agent.stub.Unload(pb.UnloadRequest(network_id=ready.network_id))
    wait_for(lambda: not home.exists(), "removal of the child's directory")


@pytest.mark.parametrize(
    "name", ["squeezenet", "https://example.org/net.onnx", "file:///etc/passwd", "onnx/models:main", "A" * 64]
)
def test_row_09_networks_come_by_digest_never_by_name_or_url(agent: AgentProcess, name: str) -> None:
    for call in (
        lambda: agent.stub.Prepare(pb.PrepareRequest(digest=name)),
        lambda: agent.stub.FindMissing(pb.FindMissingRequest(digests=[name])),
        lambda: send(agent, upload_requests(name, b"x")),
        lambda: agent.stub.Remove(pb.RemoveRequest(digest=name)),
    ):
        code, text = failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "is not a digest" in text


def archive(kind: str) -> bytes:
    """An archive whose member would land outside of any directory it is unpacked in."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as packed:
            packed.writestr("../../row10_escaped", "x")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            member = tarfile.TarInfo("../../row10_escaped")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            tar.addfile(link)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_row_10_row_11_archives_are_bytes_and_never_unpacked(agent: AgentProcess, kind: str) -> None:
    data = archive(kind)
    digest = agent.upload(data)
    assert (agent.data_dir / "blobs" / digest).read_bytes() == data
    assert failure(lambda: agent.stub.Prepare(pb.PrepareRequest(digest=digest)))[0] in (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert not list(agent.data_dir.parent.parent.rglob("*row10_escaped*"))


def endless(digest: str, size_bytes: int) -> Iterator[pb.UploadRequest]:
    yield pb.UploadRequest(header=pb.UploadHeader(digest=digest, size_bytes=size_bytes))
    while True:
        yield pb.UploadRequest(chunk=bytes(1 << 20))


def test_row_20_an_endless_stream_is_cut_at_the_declared_size(agent: AgentProcess) -> None:
    digest = digest_of(b"endless")
    code, text = failure(lambda: send(agent, endless(digest, 3 << 20)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "more bytes came than the 3145728 declared" in text
    assert missing(agent, digest) == {digest: 0}  # and nothing is kept of it


@pytest.mark.parametrize(("size_bytes", "code"), [(0, "INVALID_ARGUMENT"), (1 << 40, "RESOURCE_EXHAUSTED")])
def test_row_20_an_absurd_size_is_refused_before_the_first_byte(
    agent: AgentProcess, size_bytes: int, code: str
) -> None:
    digest = digest_of(b"size")
    assert failure(lambda: send(agent, endless(digest, size_bytes)))[0].name == code
    assert not (agent.data_dir / "partial" / digest).exists()


def test_row_20_the_quota_counts_what_is_held_and_what_is_promised(start_agent: StartAgent) -> None:
    agent = start_agent("--quota-mb", "4")
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    assert board.storage_quota_bytes == board.policy.max_artifact_bytes == 4 << 20
    stored = os.urandom(2 << 20)
    agent.upload(stored)
    promised, digest = os.urandom(1 << 20), digest_of(b"half sent")
    hold = threading.Event()

    def half() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=pb.UploadHeader(digest=digest, size_bytes=3 << 19))
        yield pb.UploadRequest(chunk=promised[:1000])
        hold.wait(60)

    pending = agent.stub.Upload.future(half(), timeout=60)
    wait_for(lambda: missing(agent, digest)[digest], "the first bytes")
    late = os.urandom(1 << 20)  # would fit beside what is on disk, not beside what is promised
    code, text = failure(lambda: agent.upload(late))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "quota: 1048576 bytes do not fit beside 3670016 of 4194304" in text
    hold.set()
    assert failure(pending.result)[0] is grpc.StatusCode.INVALID_ARGUMENT  # 1000 of the promised bytes came
    agent.stub.Remove(pb.RemoveRequest(digest=digest))
    agent.upload(late)


def test_row_20_resuming_anywhere_else_is_refused(agent: AgentProcess) -> None:
    data = os.urandom(100_000)
    digest = digest_of(data)

    def cut() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=pb.UploadHeader(digest=digest, size_bytes=len(data)))
        yield pb.UploadRequest(chunk=data[:40_000])

    code, text = failure(lambda: send(agent, cut()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the stream ended at 40000 of 100000 bytes: resume there" in text
    for offset in (0, 39_999, 40_001, 100_000, 1 << 62):
        code, text = failure(partial(send, agent, upload_requests(digest, data, offset=offset)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"offset {offset}, but 40000 bytes are held: resume there" in text
    assert not send(agent, upload_requests(digest, data, offset=40_000)).already_stored


def test_row_20_a_wrong_digest_is_noticed_and_nothing_kept(agent: AgentProcess) -> None:
    data = os.urandom(50_000)
    digest = digest_of(b"something else")
    code, text = failure(lambda: send(agent, upload_requests(digest, data)))
    assert code is grpc.StatusCode.DATA_LOSS
    assert digest_of(data)[:12] in text
    assert missing(agent, digest) == {digest: 0}
    assert not (agent.data_dir / "blobs" / digest).exists()


def test_row_20_chunks_have_a_size_and_a_first_message(agent: AgentProcess) -> None:
    data = os.urandom(3 << 20)
    digest = digest_of(data)
    code, text = failure(lambda: send(agent, upload_requests(digest, data, chunk_bytes=(1 << 20) + 1)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "too large" in text
    header = pb.UploadRequest(header=pb.UploadHeader(digest=digest, size_bytes=len(data)))
    for requests in ([], [pb.UploadRequest(chunk=b"x")], [header, header]):
        assert failure(partial(send, agent, iter(requests)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    # Beyond gRPC's own limit of 4 MiB a message does not even arrive.
    huge = [header, pb.UploadRequest(chunk=bytes(5 << 20))]
    assert failure(lambda: send(agent, iter(huge)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB (a tmpfs, where mounting is allowed)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_row_20_a_full_disk_is_one_line_and_the_agent_serves_on(start_agent: StartAgent, small_disk: Path) -> None:
    agent = start_agent(data_dir=small_disk / "data")
    digest = digest_of(b"filling")
    code, text = failure(lambda: send(agent, endless(digest, 100 << 20)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED  # before the first byte: it is known not to fit
    assert "disk" in text
    assert not (agent.data_dir / "partial" / digest).exists()

    def filled_meanwhile() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=pb.UploadHeader(digest=digest, size_bytes=6 << 20))
        yield pb.UploadRequest(chunk=bytes(1 << 20))
        wait_for(lambda: missing(agent, digest)[digest] == 1 << 20, "the first chunk")
        with (small_disk / "others").open("wb", buffering=0) as others, contextlib.suppress(OSError):
            while others.write(bytes(1 << 20)):
                pass
        for _ in range(5):
            yield pb.UploadRequest(chunk=bytes(1 << 20))

    code, text = failure(lambda: send(agent, filled_meanwhile()))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "disk is full: free some space there" in text
    assert missing(agent, digest) == {digest: 0}
    (small_disk / "others").unlink()
    agent.upload(b"fits again")


def test_row_21_a_file_swapped_after_its_upload_is_not_run(agent: AgentProcess) -> None:
    """Whoever can write into the private directory still cannot make the agent run bytes of another digest."""
    digest = agent.upload(relu_bytes("row21"))
    stored = agent.data_dir / "blobs" / digest
    stored.chmod(0o600)
    stored.write_bytes(relu_bytes("swapped"))
    code, text = failure(lambda: agent.stub.Prepare(pb.PrepareRequest(digest=digest)))
    assert code is grpc.StatusCode.DATA_LOSS
    assert "was damaged: upload it again" in text
    assert missing(agent, digest) == {digest: 0}  # so the next upload is not skipped


HOSTILE = ["../../etc/passwd", "a/b", "..", "", "con", "nul\0", "net\n", "Ä" * 3, "a" * 65, "n-1 ", "%2e%2e", "N-1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_row_22_identifiers_are_matched_before_use(agent: AgentProcess, name: str) -> None:
    calls = [
        lambda: agent.stub.Unload(pb.UnloadRequest(network_id=name)),
        lambda: agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=name)),
        lambda: agent.stub.WarmUp(pb.WarmUpRequest(network_id=name)),
        lambda: agent.stub.Infer(iter([pb.InferRequest(network_id=name)])),
        lambda: agent.stub.LoadInputs(iter([pb.InferRequest(network_id=name)])),
        lambda: agent.stub.Prepare(pb.PrepareRequest(digest=name)),
    ]
    if name:  # an empty runtime means the default
        calls.append(lambda: agent.stub.Prepare(pb.PrepareRequest(digest="0" * 64, runtime=name)))
    for call in calls:
        if name == "con" and call is not calls[5]:
            continue  # well-formed, and no device here: merely unknown
        code, text = failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, text


@pytest.mark.parametrize(
    "options",
    [
        {"graph_optimization": "foo"},
        {"graph_optimization": "ALL"},
        {"disabled_optimizers": ["a b"]},
        {"disabled_optimizers": ["../x"]},
        {"disabled_optimizers": ["x"] * 100},
        {"providers": ["CPUExecutionProvider;path=/tmp"]},
        {"providers": [""]},
        {"intra_op_threads": 1 << 20},
    ],
)
def test_row_22_session_options_outside_the_allow_list(agent: AgentProcess, options: dict[str, object]) -> None:
    digest = agent.upload(relu_bytes())
    code, text = failure(lambda: agent.prepare_events(digest, **options))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert next(iter(options)) in text


def test_the_store_forgets_what_nobody_came_back_for(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 1 << 30, 1 << 20)
    with store.receiving("0" * 64, 100, 0, ALIVE) as receiver:
        assert receiver is not None
        receiver.write(b"begun")
    store.close()
    assert (tmp_path / "partial" / ("0" * 64)).read_bytes() == b"begun"
    os.utime(tmp_path / "partial" / ("0" * 64), (1e9, 1e9))
    store = ArtifactStore(tmp_path, 1 << 30, 1 << 20)
    assert store.held_bytes("0" * 64) == 0
    store.close()


def test_row_20_many_tiny_files_are_bounded_too(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 1 << 30, 1 << 20)
    for number in range(10_000):
        (tmp_path / "partial" / f"{number:064x}").touch()
    with pytest.raises(AgentError, match="10000 files") as refused, store.receiving("f" * 64, 1, 0, ALIVE):
        pass
    assert refused.value.fault is Fault.EXHAUSTED
    store.close()
