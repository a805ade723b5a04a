"""What an agent computes and times, against ONNX Runtime used directly."""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from functools import partial

import grpc
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import (
    AgentProcess,
    Array,
    StartAgent,
    convolution_bytes,
    failure,
    infer_requests,
    model_bytes,
    relu_bytes,
)


def images(count: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype("float32")


def test_outputs_equal_a_plain_session_bit_for_bit(agent: AgentProcess) -> None:
    data = convolution_bytes()
    ready = agent.prepare(data)
    batches = [{"x": images(count, seed=count)} for count in (1, 7, 600)]  # the last: 1.8 MB, more than one part
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for got, batch in zip(agent.infer(ready.network_id, batches), batches, strict=True):
        np.testing.assert_array_equal(got["y"], session.run(None, batch)[0], strict=True)


def test_large_outputs_and_many_dtypes_come_back_whole(agent: AgentProcess) -> None:
    kinds = {
        "f16": (TensorProto.FLOAT16, "float16"),
        "f64": (TensorProto.DOUBLE, "float64"),
        "i8": (TensorProto.INT8, "int8"),
        "u8": (TensorProto.UINT8, "uint8"),
        "i32": (TensorProto.INT32, "int32"),
        "i64": (TensorProto.INT64, "int64"),
        "bool": (TensorProto.BOOL, "bool"),
    }
    data = model_bytes(
        [helper.make_node("Transpose", [name], [f"{name}_out"], perm=[1, 0]) for name in kinds],
        [helper.make_tensor_value_info(name, kind, ["N", "M"]) for name, (kind, _) in kinds.items()],
        [helper.make_tensor_value_info(f"{name}_out", kind, ["M", "N"]) for name, (kind, _) in kinds.items()],
    )
    random = np.random.default_rng(0)
    batch = {name: random.integers(0, 2, (700, 900)).astype(dtype) for name, (_, dtype) in kinds.items()}
    ready = agent.prepare(data)
    assert {spec.name: spec.dtype for spec in ready.inputs} == {name: dtype for name, (_, dtype) in kinds.items()}
    (got,) = agent.infer(ready.network_id, [batch])
    for name in kinds:
        np.testing.assert_array_equal(got[f"{name}_out"], batch[name].T, strict=True)


@pytest.mark.parametrize("rows", [0, 1])
def test_scalars_and_empty_batches(agent: AgentProcess, rows: int) -> None:
    data = model_bytes(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("factor", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    x = np.full((rows, 4), 3.0, "float32")
    (got,) = agent.infer(agent.prepare(data).network_id, [{"x": x, "factor": np.asarray(2.0, "float32")}])
    np.testing.assert_array_equal(got["y"], 2 * x, strict=True)


def test_session_options_reach_the_runtime(agent: AgentProcess) -> None:
    """`WeightBiasQuantization` gives a Conv between Q/DQ int8 weights of its own; disabled, the weights stay float."""
    weights = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype("float32")
    scale = numpy_helper.from_array(np.asarray(0.05, "float32"), "scale")
    zero = numpy_helper.from_array(np.asarray(0, "int8"), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("Conv", ["xd", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "scale", "zero"], ["y"]),
    ]
    data = model_bytes(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 14, 14])],
        [numpy_helper.from_array(weights, "w"), scale, zero],
    )
    batch = {"x": images(4)}

    def plain(**arguments: object) -> Array:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], **arguments)
        return np.asarray(session.run(None, batch)[0])

    rewritten, kept = plain(), plain(disabled_optimizers=["WeightBiasQuantization"])
    assert (rewritten != kept).any()  # or the option would make no difference to see
    for expected, disabled in ((rewritten, []), (kept, ["WeightBiasQuantization"])):
        ready = agent.prepare(data, disabled_optimizers=disabled, precise_x86_int8=True)
        np.testing.assert_array_equal(agent.infer(ready.network_id, [batch])[0]["y"], expected)


def test_preparing_again_is_skipped_and_tells_the_same_id(agent: AgentProcess) -> None:
    data = convolution_bytes(seed=3)
    digest = agent.upload(data)
    first = agent.prepare_events(digest)
    assert [event.phase.name for event in first[:-1]] == ["start", "check", "load"]
    ready = first[-1].ready
    assert not ready.already_loaded
    assert ready.runtime == "onnxruntime"
    assert ready.runtime_version == onnxruntime.__version__
    assert list(ready.providers) == ["CPUExecutionProvider"]
    assert ready.start_ms > 0 < ready.check_ms
    assert ready.load_ms > 0
    assert not ready.HasField("compile_ms")
    assert ready.resident_bytes > 10 << 20
    assert list(ready.inputs[0].shape) == [-1, 3, 16, 16]
    (again,) = agent.prepare_events(digest)
    assert again.ready.already_loaded
    assert again.ready.network_id == ready.network_id
    other = agent.prepare_events(digest, intra_op_threads=1)[-1].ready
    assert not other.already_loaded
    assert other.network_id != ready.network_id
    for network in (ready, other):
        agent.stub.Unload(pb.UnloadRequest(network_id=network.network_id), timeout=60)


def test_a_block_returns_every_sample_it_counted(agent: AgentProcess) -> None:
    ready = agent.prepare(convolution_bytes())
    x = images(5)
    assert agent.load_inputs(ready.network_id, {"x": x}).size_bytes == x.nbytes
    exact = agent.stub.TimeBlock(
        pb.TimeBlockRequest(network_id=ready.network_id, min_iterations=37, max_iterations=37, min_duration_s=9)
    )
    assert len(exact.latency_ns) == 37  # the cap wins over the duration
    assert all(latency > 0 for latency in exact.latency_ns)
    assert sum(exact.latency_ns) <= exact.duration_s * 1e9
    assert exact.batch_size == 5
    assert exact.clock == "perf_counter: CLOCK_MONOTONIC"
    assert exact.clock_resolution_ns == time.get_clock_info("perf_counter").resolution * 1e9
    assert abs(exact.started_unix_s - time.time()) < 60
    assert exact.peak_memory_bytes >= ready.resident_bytes // 2
    began = time.monotonic()
    timed = agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=ready.network_id, min_iterations=2, min_duration_s=0.3))
    assert 0.3 <= timed.duration_s <= time.monotonic() - began
    assert len(timed.latency_ns) >= 2
    # Samples and the clock agree: little of the block's time lies between the samples.
    assert sum(timed.latency_ns) > 0.5 * timed.duration_s * 1e9
    assert 0 < timed.cpu_time_s <= (os.cpu_count() or 1) * timed.duration_s + 0.05


def test_the_time_of_a_block_is_that_of_a_bare_loop(start_agent: StartAgent) -> None:
    """Interleaved with a loop of ours in this process: the fastest tenths agree, which no other process disturbs.

    The published bound, of medians on a quiet machine, is the benchmark's.
    """
    agent = start_agent()
    data = convolution_bytes()
    x = images(64)
    ready = agent.prepare(data, intra_op_threads=1)
    agent.load_inputs(ready.network_id, {"x": x})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    ratios = []
    for _ in range(5):
        block = agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=ready.network_id, min_iterations=200))
        bare = []
        for _ in range(200):
            before = time.perf_counter_ns()
            session.run(None, {"x": x})
            bare.append(time.perf_counter_ns() - before)
        ratios.append(float(np.quantile(block.latency_ns, 0.1) / np.quantile(bare, 0.1)))
    assert 0.75 < statistics.median(ratios) < 1.33


def test_warm_up_reports_when_it_is_steady(agent: AgentProcess) -> None:
    ready = agent.prepare(convolution_bytes(seed=5))
    agent.load_inputs(ready.network_id, {"x": images(8)})
    request = pb.WarmUpRequest(
        network_id=ready.network_id,
        min_iterations=10,
        min_duration_s=0.2,
        max_duration_s=20,
        window_s=0.1,
        tolerance=0.5,
    )
    warm = agent.stub.WarmUp(request)
    assert warm.steady
    assert warm.iterations >= 10
    assert 0.3 <= warm.duration_s <= 20  # three windows at least
    assert warm.first_ms > 0
    request.tolerance, request.max_duration_s = 1e-9, 0.5
    cold = agent.stub.WarmUp(request)
    assert not cold.steady  # no three medians are equal to a billionth
    assert 0.5 <= cold.duration_s < 2
    assert cold.first_ms == warm.first_ms  # of the first inference ever


def test_blocks_of_one_agent_never_overlap(agent: AgentProcess) -> None:
    networks = [agent.prepare(convolution_bytes(seed=seed)).network_id for seed in (6, 7)]
    for network_id in networks:
        agent.load_inputs(network_id, {"x": images(4)})
    blocks: list[pb.Block] = []

    def measure(network_id: str) -> None:
        for _ in range(4):
            blocks.append(agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=network_id, min_duration_s=0.1)))

    threads = [threading.Thread(target=measure, args=(network_id,)) for network_id in networks for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(blocks) == 16
    spans = sorted((block.started_unix_s, block.started_unix_s + block.duration_s) for block in blocks)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert begin >= end - 1e-4  # the wall clock is read just before the monotonic one


def test_an_emulated_board_has_no_time(start_agent: StartAgent) -> None:
    agent = start_agent("--emulated", "--board", "jetson-orin-nano")
    board = agent.stub.Describe(pb.DescribeRequest(), timeout=120)
    assert board.emulated
    assert board.board == "jetson-orin-nano"
    digest = agent.upload(relu_bytes())
    events = agent.prepare_events(digest)
    ready = events[-1].ready
    assert (ready.start_ms, ready.check_ms, ready.load_ms) == (0, 0, 0)
    agent.load_inputs(ready.network_id, {"x": np.ones((1, 4), "float32")})
    for call in (
        lambda: agent.stub.TimeBlock(pb.TimeBlockRequest(network_id=ready.network_id)),
        lambda: agent.stub.WarmUp(pb.WarmUpRequest(network_id=ready.network_id)),
    ):
        code, text = failure(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "an emulated board has no time of its own" in text
    replies = list(agent.stub.Infer(infer_requests(ready.network_id, [{"x": -np.ones((1, 4), "float32")}])))
    assert replies[-1].batch.duration_ms == 0


def test_providers_that_cannot_be_used_are_refused(agent: AgentProcess) -> None:
    digest = agent.upload(relu_bytes())
    for provider in ("CUDAExecutionProvider", "AzureExecutionProvider"):  # the second one would send inputs away
        code, text = failure(partial(agent.prepare_events, digest, providers=[provider]))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"provider {provider} is not available on this board: it has CPUExecutionProvider" in text
    ready = agent.prepare_events(digest, providers=["CPUExecutionProvider"])[-1].ready
    assert list(ready.providers) == ["CPUExecutionProvider"]
