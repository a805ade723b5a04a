"""The client against a real agent: shipping, preparing, running, timing, and every way it can be interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import psutil
import pytest
from onnx import numpy_helper

from harness.errors import ExitCode, Offline, Refused, UserError
from harness.targets.client import AgentClient
from harness.targets.connect import CHANNEL_OPTIONS, connect
from harness.targets.errors_map import CallCancelled
from harness.targets.spawn import spawned_agent
from harness.targets.target import Target
from harness.targets.values import PreparedNetwork, SessionChoice
from tests.harness.targets.conftest import agents_of

MakeTarget = Callable[..., Target]


MIB = 1 << 20


class Link(Protocol):
    """The counting, cuttable way to an agent of conftest.py."""

    address: str
    sent: int
    received: int
    cuts: int

    def cut_after(self, count: int) -> None: ...

    def flip_after(self, count: int) -> None: ...


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def client(make_target: MakeTarget, tmp_path: Path) -> Iterator[AgentClient]:
    with connect(make_target("local"), work_dir=tmp_path / "work") as agent:
        yield agent


def prepared(client: AgentClient, path: Path) -> PreparedNetwork:
    client.ship(path, digest_of(path))
    return client.prepare(digest_of(path), options=SessionChoice(intra_op_threads=1))


def weights(path: Path) -> npt.NDArray[Any]:
    return numpy_helper.to_array(onnx.load(path).graph.initializer[0])


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        threading.Event().wait(0.01)


def test_describes_the_machine_it_runs_on(client: AgentClient) -> None:
    info = client.describe()
    assert info.board == "generic"
    assert info.emulated is False
    assert info.memory_total_bytes == psutil.virtual_memory().total
    assert any(r.name == "onnxruntime" and "CPUExecutionProvider" in r.providers for r in info.runtimes)
    assert info.as_json()["policy"]["batch_timeout_s"] > 0  # type: ignore[index]


def test_a_whole_visit(client: AgentClient, matmul_model: Callable[..., Path]) -> None:
    path = matmul_model(repeat=3)
    phases: list[str] = []
    seen: list[tuple[int, int]] = []
    shipped = client.ship(path, digest_of(path), lambda done, size: seen.append((done, size)))
    assert (shipped.sent_bytes, shipped.skipped) == (path.stat().st_size, False)
    assert seen[-1] == (shipped.size_bytes, shipped.size_bytes)
    network = client.prepare(digest_of(path), on_phase=lambda name, _: phases.append(name))
    assert "check" in phases
    assert [(t.name, t.dtype, t.shape) for t in network.inputs] == [("x", "float32", (-1, 16))]

    random = np.random.default_rng(1)
    batches = [{"x": random.normal(size=(n, 16)).astype(np.float32)} for n in (1, 7, 2, 5, 1)]
    w = weights(path)
    for batch, outputs in zip(batches, client.infer(network.network_id, batches), strict=True):
        np.testing.assert_allclose(outputs["y"], batch["x"] @ w @ w @ w, atol=1e-5)

    client.load_inputs(network.network_id, batches[1])
    warm = client.warm_up(network.network_id, min_iterations=5, min_duration_s=0.1, max_duration_s=1, window_s=0.1)
    assert warm.iterations >= 5
    assert warm.first_ms > 0
    block = client.time_block(network.network_id, min_iterations=50, min_duration_s=0.05, max_iterations=100_000)
    assert len(block.latency_ns) >= 50
    assert block.duration_s >= 0.05
    assert block.batch_size == 7
    assert block.peak_memory_bytes > MIB

    client.unload(network.network_id)
    with pytest.raises(UserError, match="call prepare"):
        next(client.infer(network.network_id, batches))
    assert client.remove(digest_of(path)) == path.stat().st_size
    with pytest.raises(Refused):
        client.prepare(digest_of(path))


def test_tensors_larger_than_a_message_pass_whole(client: AgentClient, matmul_model: Callable[..., Path]) -> None:
    path = matmul_model(width=64)
    network = prepared(client, path)
    x = np.random.default_rng(2).normal(size=(40_000, 64)).astype(np.float32)  # 10 MB, over the 4 MiB of one message
    (outputs,) = client.infer(network.network_id, [{"x": x}])
    np.testing.assert_allclose(outputs["y"], x @ weights(path), atol=1e-4)


def test_batches_are_pulled_only_a_few_ahead_of_the_answers(
    client: AgentClient, matmul_model: Callable[..., Path]
) -> None:
    network = prepared(client, matmul_model())
    pulled = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield {"x": np.zeros((1, 16), np.float32)}

    answers = client.infer(network.network_id, endless())
    for taken in range(1, 20):
        next(answers)
        assert pulled <= taken + 4
    answers.close()  # type: ignore[attr-defined]
    assert client.describe().loaded[0].network_id == network.network_id  # the network outlives a call left early


def test_what_the_batches_raise_is_raised_here(client: AgentClient, matmul_model: Callable[..., Path]) -> None:
    network = prepared(client, matmul_model())

    def broken() -> Iterator[dict[str, Any]]:
        yield {"x": np.zeros((1, 16), np.float32)}
        raise UserError("images/0007.png: not an image; remove it")

    with pytest.raises(UserError, match=r"0007\.png"):
        list(client.infer(network.network_id, broken()))


def test_time_that_the_host_itself_takes_is_not_the_boards(
    client: AgentClient, matmul_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = prepared(client, matmul_model())
    limit_s = 1.2
    monkeypatch.setattr("harness.targets.client.MARGIN_S", limit_s - client.describe().policy.batch_timeout_s)
    busy = threading.Event().wait  # never set: the host decodes images, or stores outputs, for that long

    def slow_to_come() -> Iterator[dict[str, Any]]:
        for pause_s in (1.5 * limit_s, 0, 1.5 * limit_s):
            busy(pause_s)
            yield {"x": np.zeros((1, 16), np.float32)}

    taken = 0
    for _ in client.infer(network.network_id, slow_to_come()):
        busy(0 if taken else 1.5 * limit_s)
        taken += 1
    assert taken == 3


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ({"z": np.zeros((1, 16), np.float32)}, r"takes inputs \['x'\]"),
        ({"x": np.zeros((1, 16))}, r"float32\[-1, 16\].*float64\[1, 16\]"),
        ({"x": np.zeros((1, 15), np.float32)}, r"\[1, 15\]"),
        ({"x": np.zeros(16, np.float32)}, r"\[16\]"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(
    client: AgentClient, matmul_model: Callable[..., Path], batch: dict[str, Any], complaint: str
) -> None:
    network = prepared(client, matmul_model())
    with pytest.raises(UserError, match=complaint):
        list(client.infer(network.network_id, [batch]))
    with pytest.raises(UserError, match=complaint):
        client.load_inputs(network.network_id, batch)


def test_telemetry_comes_while_a_block_is_timed(client: AgentClient, matmul_model: Callable[..., Path]) -> None:
    network = prepared(client, matmul_model())
    client.load_inputs(network.network_id, {"x": np.zeros((1, 16), np.float32)})
    samples: list[Any] = []
    reader = threading.Thread(target=lambda: samples.extend(client.telemetry(0.1, 0.5)))
    reader.start()
    client.time_block(network.network_id, min_iterations=1, min_duration_s=0.5, max_iterations=100_000)
    reader.join(60)
    assert 3 <= len(samples) <= 6
    assert [s.unix_s for s in samples] == sorted(s.unix_s for s in samples)
    assert samples[0].ram_used_mb is None or 0 < samples[0].ram_used_mb <= samples[0].ram_total_mb


def test_second_run_sends_nothing(make_target: MakeTarget, matmul_model: Callable[..., Path], tmp_path: Path) -> None:
    path = matmul_model(width=128)
    for expected in (False, True):  # two agents, one after the other: the files stay with the target
        with connect(make_target("local"), work_dir=tmp_path / "work") as agent:
            shipped = agent.ship(path, digest_of(path))
            assert shipped.skipped is expected
            assert (shipped.sent_bytes == 0) is expected


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A real agent reached by its address, as on a board; its address and pid."""
    with spawned_agent("board", "generic", emulated=False, work_dir=tmp_path / "work", stop=threading.Event()) as (
        agent,
        address,
    ):
        yield address, agent.pid


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big.onnx"
    path.write_bytes(np.random.default_rng(3).bytes(24 * MIB))
    return path


def test_a_board_that_falls_silent_is_noticed_by_the_keepalive(
    remote: tuple[str, int], make_target: MakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options that a connection has decide, not gRPC's own minute: the same ones, of one second each."""
    times = {"grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"}
    shorter = [(name, 1000 if name in times else value) for name, value in CHANNEL_OPTIONS]
    assert sum(value for name, value in CHANNEL_OPTIONS if name in times - {"grpc.keepalive_timeout_ms"}) <= 40_000
    monkeypatch.setattr("harness.targets.connect.CHANNEL_OPTIONS", shorter)
    with connect(make_target("address", address=remote[0]), work_dir=tmp_path) as agent:
        samples = agent.telemetry(0.1, 600.0)
        next(samples)
        psutil.Process(remote[1]).suspend()
        begun = time.monotonic()
        try:
            with pytest.raises(Offline, match="stopped answering while reading telemetry"):
                list(samples)
        finally:
            psutil.Process(remote[1]).resume()
        assert time.monotonic() - begun < 60


def test_known_digest_costs_less_than_a_kilobyte(
    remote: tuple[str, int], link: Callable[[str], Link], make_target: MakeTarget, big_file: Path, tmp_path: Path
) -> None:
    way = link(remote[0])
    with connect(make_target("address", address=way.address), work_dir=tmp_path) as agent:
        assert agent.ship(big_file, digest_of(big_file)).sent_bytes == 24 * MIB
        digest = digest_of(big_file)
        before = way.sent + way.received
        assert agent.ship(big_file, digest).skipped
        assert way.sent + way.received - before < 1000


def test_cut_upload_goes_on_where_it_stopped(
    remote: tuple[str, int], link: Callable[[str], Link], make_target: MakeTarget, big_file: Path, tmp_path: Path
) -> None:
    way = link(remote[0])
    with connect(make_target("address", address=way.address), work_dir=tmp_path) as agent:
        way.cut_after(18 * MIB)
        shipped = agent.ship(big_file, digest_of(big_file))
        assert way.cuts == 1
        assert not shipped.skipped
        # The board kept what had reached it, all but a few MiB under way; a fresh start would make 42 MiB of the 24.
        assert way.sent < 36 * MIB
        assert agent.ship(big_file, digest_of(big_file)).skipped  # and it is whole: the agent checked its sha256


def test_upload_left_unfinished_by_one_host_is_finished_by_the_next(
    remote: tuple[str, int], link: Callable[[str], Link], make_target: MakeTarget, big_file: Path, tmp_path: Path
) -> None:
    way = link(remote[0])

    def stop_half_way(done: int, size: int) -> None:
        if done >= size // 2:
            raise KeyError("the host dies here")

    with (
        connect(make_target("address", address=way.address), work_dir=tmp_path) as agent,
        pytest.raises(KeyError),
    ):
        agent.ship(big_file, digest_of(big_file), stop_half_way)
    with connect(make_target("address", address=way.address), work_dir=tmp_path) as agent:
        assert 0 < agent.ship(big_file, digest_of(big_file)).sent_bytes < 24 * MIB


def test_file_that_is_not_its_digest_is_refused_after_one_fresh_start(client: AgentClient, big_file: Path) -> None:
    with pytest.raises(Refused, match="arrived damaged twice"):
        client.ship(big_file, hashlib.sha256(b"something else").hexdigest())


def test_damaged_upload_is_sent_again_once(
    remote: tuple[str, int], link: Callable[[str], Link], make_target: MakeTarget, big_file: Path, tmp_path: Path
) -> None:
    way = link(remote[0])
    with connect(make_target("address", address=way.address), work_dir=tmp_path) as agent:
        way.flip_after(10 * MIB + 4321)
        assert agent.ship(big_file, digest_of(big_file)).sent_bytes == 48 * MIB
        assert agent.ship(big_file, digest_of(big_file)).skipped


def test_unfinished_upload_of_other_bytes_is_forgotten(client: AgentClient, big_file: Path, tmp_path: Path) -> None:
    """A board that holds more of a file than the file has: the beginning of something else under the same name."""
    small = tmp_path / "small.onnx"
    small.write_bytes(b"x" * MIB)

    def stop_half_way(done: int, size: int) -> None:
        if done >= size // 2:
            raise KeyError

    with pytest.raises(KeyError):
        client.ship(big_file, digest_of(small), stop_half_way)
    assert client.ship(small, digest_of(small)).sent_bytes == MIB


def test_missing_file_is_the_users(client: AgentClient, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.onnx"):
        client.ship(tmp_path / "gone.onnx", "a" * 64)


def test_agent_killed_while_it_runs_a_network(
    remote: tuple[str, int], make_target: MakeTarget, matmul_model: Callable[..., Path]
) -> None:
    with connect(make_target("address", address=remote[0]), work_dir=matmul_model().parent) as agent:
        network = prepared(agent, matmul_model())
        x = np.zeros((1, 16), np.float32)
        answers = agent.infer(network.network_id, ({"x": x} for _ in iter(int, 1)))
        next(answers)
        begun = time.monotonic()
        os.kill(remote[1], signal.SIGKILL)
        with pytest.raises(Offline, match="stopped answering while running the network"):
            for _ in answers:
                pass
        assert time.monotonic() - begun < 60


def test_own_agent_killed_says_how_it_ended(
    make_target: MakeTarget, matmul_model: Callable[..., Path], tmp_path: Path
) -> None:
    with connect(make_target("local"), work_dir=tmp_path / "work") as agent:
        network = prepared(agent, matmul_model())
        agent.load_inputs(network.network_id, {"x": np.zeros((1, 16), np.float32)})
        (pid,) = [child.pid for child in agents_of(psutil.Process())]
        killer = threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))
        killer.start()
        begun = time.monotonic()
        with pytest.raises(Offline, match="ended while warming up: killed by SIGKILL"):
            agent.warm_up(network.network_id, min_iterations=1, min_duration_s=60, max_duration_s=60)
        assert time.monotonic() - begun < 40  # and not the minute of the warm-up
        with pytest.raises(Offline, match="SIGKILL"):
            agent.describe()


def test_cancel_from_another_thread_ends_a_block_and_the_agent_goes_on(
    client: AgentClient, matmul_model: Callable[..., Path]
) -> None:
    network = prepared(client, matmul_model())
    client.load_inputs(network.network_id, {"x": np.zeros((1, 16), np.float32)})
    canceller = threading.Timer(1.0, client.cancel)
    canceller.start()
    begun = time.monotonic()
    with pytest.raises(CallCancelled) as caught:
        client.warm_up(network.network_id, min_iterations=1, min_duration_s=60, max_duration_s=60)
    assert time.monotonic() - begun < 40  # and not the minute of the warm-up
    assert caught.value.exit_code is ExitCode.INTERRUPTED
    assert caught.value.status == "pending"  # what the journal says of a target that was not finished
    (outputs,) = client.infer(network.network_id, [{"x": np.zeros((1, 16), np.float32)}])
    assert outputs["y"].shape == (1, 16)


def test_stop_lets_no_new_call_start_but_cleaning_up(
    make_target: MakeTarget, matmul_model: Callable[..., Path], tmp_path: Path
) -> None:
    stop = threading.Event()
    with connect(make_target("local"), work_dir=tmp_path, stop=stop) as agent:
        network = prepared(agent, matmul_model())
        stop.set()
        with pytest.raises(CallCancelled):
            agent.describe()
        agent.unload(network.network_id)


def test_several_threads_use_one_client(client: AgentClient, matmul_model: Callable[..., Path]) -> None:
    network = prepared(client, matmul_model())
    w = weights(matmul_model())
    worst: list[float] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).normal(size=(3, 16)).astype(np.float32)
        for outputs in client.infer(network.network_id, [{"x": x}] * 20):
            worst.append(float(np.abs(outputs["y"] - x @ w).max()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(worst) == 80
    assert max(worst) < 1e-5
