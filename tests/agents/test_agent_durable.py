"""What an agent's store holds after the power was cut: nothing that only looks like it arrived."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from agents import receiver
from agents.artifacts import ArtifactStore
from agents.durable import Mark, Marks, Syncer
from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import AgentProcess, StartAgent, failure, upload_requests, wait_for

DATA = bytes(range(256)) * 4000  # 1 MB without a row of zeros
DIGEST = hashlib.sha256(DATA).hexdigest()
HALF = len(DATA) // 2


def alive() -> bool:
    """The caller of the store never leaves."""
    return True


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[ArtifactStore]]:
    stores: list[ArtifactStore] = []
    yield stores
    for one in stores:
        one.close()


def again(tmp_path: Path, opened: list[ArtifactStore]) -> ArtifactStore:
    """The store as the next agent finds it."""
    while opened:
        opened.pop().close()
    opened.append(ArtifactStore(tmp_path, 1 << 30, 1 << 24))
    return opened[0]


def send(store: ArtifactStore, offset: int, end: int, *, step: int = 1 << 16) -> str | None:
    """Bytes `offset` to `end` as one upload; the digest when they are the last."""
    with store.receiving(DIGEST, len(DATA), offset, alive) as taking:
        assert taking is not None
        for at in range(offset, end, step):
            taking.write(DATA[at : min(at + step, end)])
        return taking.finish() if end == len(DATA) else None


def test_what_a_cut_upload_left_is_marked_and_built_upon(tmp_path: Path, opened: list[ArtifactStore]) -> None:
    send(again(tmp_path, opened), 0, HALF)
    size, digest = (tmp_path / "marks" / DIGEST).read_text().split()
    assert (int(size), digest) == (HALF, hashlib.sha256(DATA[:HALF]).hexdigest())
    store = again(tmp_path, opened)
    assert store.held_bytes(DIGEST) == HALF
    assert send(store, HALF, len(DATA)) == DIGEST
    assert (tmp_path / "blobs" / DIGEST).read_bytes() == DATA
    assert not list((tmp_path / "marks").iterdir())


def test_zeros_behind_the_mark_do_not_count(tmp_path: Path, opened: list[ArtifactStore]) -> None:
    """A file system may give an unsynchronised file its length back and zeros for its bytes."""
    send(again(tmp_path, opened), 0, HALF)
    with (tmp_path / "partial" / DIGEST).open("ab") as file:
        file.write(bytes(300_000))
    store = again(tmp_path, opened)
    assert store.held_bytes(DIGEST) == HALF
    assert (tmp_path / "partial" / DIGEST).stat().st_size == HALF
    assert send(store, HALF, len(DATA)) == DIGEST


@pytest.mark.parametrize("how", ["no mark", "shorter than the mark", "a mark nobody can read", "another's mark"])
def test_without_a_mark_that_fits_nothing_is_held(tmp_path: Path, opened: list[ArtifactStore], how: str) -> None:
    send(again(tmp_path, opened), 0, HALF)
    mark = tmp_path / "marks" / DIGEST
    if how == "no mark":
        mark.unlink()
    elif how == "shorter than the mark":
        os.truncate(tmp_path / "partial" / DIGEST, HALF - 1)
    elif how == "a mark nobody can read":
        mark.write_bytes(b"\xff\xfe\x00")
    else:
        mark.write_text(f"{HALF + 1} {hashlib.sha256(DATA[: HALF + 1]).hexdigest()}\n")
    store = again(tmp_path, opened)
    assert store.held_bytes(DIGEST) == 0
    assert not (tmp_path / "partial" / DIGEST).exists()
    assert send(store, 0, len(DATA)) == DIGEST


def test_a_partial_file_that_was_damaged_is_not_built_upon(tmp_path: Path, opened: list[ArtifactStore]) -> None:
    send(again(tmp_path, opened), 0, HALF)
    damaged = bytearray((tmp_path / "partial" / DIGEST).read_bytes())
    damaged[1000:5096] = bytes(4096)
    (tmp_path / "partial" / DIGEST).write_bytes(damaged)
    store = again(tmp_path, opened)
    with (
        pytest.raises(
            AgentError, match=f"the {HALF} bytes held were damaged on the board's disk: start again at 0"
        ) as no,
        store.receiving(DIGEST, len(DATA), HALF, alive),
    ):
        pass
    assert no.value.fault is Fault.INVALID  # refused before a byte of the rest was sent
    assert store.held_bytes(DIGEST) == 0
    assert send(store, 0, len(DATA)) == DIGEST


def test_a_whole_file_is_trusted_once_it_is_on_the_disk(tmp_path: Path, opened: list[ArtifactStore]) -> None:
    blob = tmp_path / "blobs" / DIGEST
    assert send(again(tmp_path, opened), 0, len(DATA)) == DIGEST
    store = again(tmp_path, opened)  # closing has brought it to the disk
    assert stat.S_IMODE(blob.stat().st_mode) == 0o400
    assert store.has(DIGEST)
    blob.chmod(0o600)  # as a power cut leaves it that came before
    assert again(tmp_path, opened).has(DIGEST)
    assert stat.S_IMODE(blob.stat().st_mode) == 0o400
    blob.chmod(0o600)
    blob.write_bytes(DATA[:-4096] + bytes(4096))
    assert not again(tmp_path, opened).has(DIGEST)
    assert not blob.exists()


def test_a_long_upload_is_marked_on_its_way(
    tmp_path: Path, opened: list[ArtifactStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "MARK_EVERY_S", 0.0)
    store = again(tmp_path, opened)
    mark = tmp_path / "marks" / DIGEST
    with store.receiving(DIGEST, len(DATA), 0, alive) as taking:
        assert taking is not None
        taking.write(DATA[:1000])
        wait_for(mark.exists, "the first mark")
        size, digest = mark.read_text().split()
        assert hashlib.sha256(DATA[: int(size)]).hexdigest() == digest
        assert store.held_bytes(DIGEST) == 1000  # whoever asks meanwhile is told what came
    assert not list((tmp_path / "marks").glob("*.new"))


def test_a_stopped_agent_keeps_what_it_had(start_agent: StartAgent) -> None:
    """The real process, killed in the middle of an upload: at most the last second is sent again."""
    agent = start_agent()
    hold = threading.Event()

    def half() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=pb.UploadHeader(digest=DIGEST, size_bytes=len(DATA)))
        yield pb.UploadRequest(chunk=DATA[:HALF])
        hold.wait(1.2)
        yield pb.UploadRequest(chunk=DATA[HALF : HALF + 1000])
        hold.wait(60)

    pending = agent.stub.Upload.future(half(), timeout=60)
    mark = agent.data_dir / "marks" / DIGEST
    wait_for(mark.exists, "a mark")
    agent.process.kill()
    hold.set()
    failure(pending.result)
    again = start_agent(data_dir=agent.data_dir)
    missing = again.stub.FindMissing(pb.FindMissingRequest(digests=[DIGEST]), timeout=30, wait_for_ready=True).missing
    assert missing[0].held_bytes == HALF + 1000
    reply = again.stub.Upload(upload_requests(DIGEST, DATA, offset=HALF + 1000), timeout=120)
    assert not reply.already_stored
    assert (agent.data_dir / "blobs" / DIGEST).read_bytes() == DATA


def test_a_damaged_partial_file_is_refused_by_the_serving_agent(agent: AgentProcess) -> None:
    data = os.urandom(100_000)
    digest = hashlib.sha256(data).hexdigest()
    first = [
        pb.UploadRequest(header=pb.UploadHeader(digest=digest, size_bytes=len(data))),
        pb.UploadRequest(chunk=data[:60_000]),
    ]
    failure(lambda: agent.stub.Upload(iter(first), timeout=120))
    partial = agent.data_dir / "partial" / digest
    partial.write_bytes(bytes(60_000))
    code, text = failure(lambda: agent.stub.Upload(upload_requests(digest, data, offset=60_000), timeout=120))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "damaged on the board's disk: start again at 0" in text
    assert not agent.stub.Upload(upload_requests(digest, data), timeout=120).already_stored


def test_marks_are_replaced_whole(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    marks = Marks(directory)
    marks.write("a", Mark(1, "0" * 64))
    inode = (tmp_path / "a").stat().st_ino
    marks.write("a", Mark(2, "1" * 64))
    assert marks.read("a") == Mark(2, "1" * 64)
    assert (tmp_path / "a").stat().st_ino != inode  # renamed over it, never written in place
    marks.write("b", Mark(3, "2" * 64))
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert marks.read("c") is None
    marks.keep_only({"b"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    os.close(directory)


def test_a_job_that_fails_does_not_end_the_others() -> None:
    done: list[int] = []

    def fails() -> None:
        raise OSError("no disk")

    syncer = Syncer()
    syncer.submit(fails)
    syncer.submit(lambda: done.append(1))
    syncer.close()
    assert done == [1]
