"""The instruments themselves: the byte counter, the CPU counter, the bare loop, the SFTP peer."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import onnxruntime
import pytest

from benchmarks import bare_loop, machine, overhead, upload_client
from benchmarks.counting_proxy import counting_proxy
from benchmarks.sftp_server import find_sshd, sftp_server
from benchmarks.uploads import tree_cpu_s

DIGITS = Path(__file__).parents[2] / "harness/demo/digits.onnx"


def test_the_proxy_counts_each_byte_once_in_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                received = 0
                while received < 100_000:
                    received += len(connection.recv(65536))
                connection.sendall(b"y" * 234)

        threading.Thread(target=answer, daemon=True).start()
        with counting_proxy(f"127.0.0.1:{server.getsockname()[1]}") as proxy:
            host, _, port = proxy.address.rpartition(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"x" * 100_000)
                assert client.makefile("rb").read() == b"y" * 234
            assert proxy.settled_bytes() == 100_234


def test_cpu_time_of_ended_children_is_counted() -> None:
    # The grandchild burns 0.3 s of CPU time by its own account, and is gone when we look.
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        spent = tree_cpu_s(process.pid)
        process.communicate("\n")
    assert 0.28 <= spent < 2.0


def test_the_bare_loop_runs_at_least_as_long_as_asked() -> None:
    session = onnxruntime.InferenceSession(DIGITS, providers=["CPUExecutionProvider"])
    feeds = bare_loop.inputs(session)

    assert feeds["image"].shape == (1, 1, 32, 32)
    assert 10_000 < bare_loop.block(session, feeds, 0.05) < 1_000_000_000


def test_the_machine_is_described_without_its_name() -> None:
    words = str(machine.describe())

    assert "onnxruntime" in words
    assert socket.gethostname() not in words
    assert str(Path.home()) not in words


@pytest.mark.skipif(find_sshd() is None or shutil.which("sha256sum") is None, reason="no OpenSSH server here")
def test_the_sftp_peer_really_delivers(tmp_path: Path) -> None:
    (tmp_path / "received").mkdir()
    (tmp_path / "server").mkdir()
    sent = tmp_path / "file.bin"
    sent.write_bytes(os.urandom(300_000))
    sshd = find_sshd()
    assert sshd is not None
    with (
        sftp_server(tmp_path / "server", sshd) as server,
        upload_client.by_sftp(
            server.port, server.user, str(server.key), str(tmp_path / "received"), hashed=True
        ) as send,
    ):
        forget = send(sent)
        arrived = tmp_path / "received/file.bin"
        assert hashlib.sha256(arrived.read_bytes()).digest() == hashlib.sha256(sent.read_bytes()).digest()
        forget()
        assert not arrived.exists()


def test_ordered_work_is_blocks_warm_up_and_each_sample_through_both_networks() -> None:
    blocks = [
        {"network": network, "duration_s": 1.0, "batch_size": 2, "latency_ns": latencies}
        for network, latencies in (
            ("Floating-Point", [4_000_000, 4_000_000, 9_000_000]),
            ("Quantized", [2_000_000]),
            ("Quantized", [2_000_000]),
            ("Floating-Point", [4_000_000]),
        )
    ]
    record = {"samples": 1000, "targets": [{"blocks": blocks, "loadings": [{"warm_up_s": 2.0}, {"warm_up_s": 3.0}]}]}

    # 4 blocks of 1 s, 5 s of warm-up, 1,000 samples at 2 ms and at 1 ms each.
    assert overhead.ordered_s(record) == pytest.approx(4.0 + 5.0 + 2.0 + 1.0)
