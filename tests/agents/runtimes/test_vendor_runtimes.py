"""The runtimes on vendors' builds of ONNX Runtime, by a stand-in that computes with the real CPU provider.

See stand_ins/vendor_onnxruntime.py for what it behaves like. Never run on the vendors' hardware: docs/runtimes.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest

from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import AgentProcess, Array, convolution_bytes, failure, relu_bytes
from tests.agents.runtimes.conftest import CPU, L4T, Board, MakeBoard, prepare, qdq_bytes, run

RunAgent = Callable[..., AgentProcess]
TRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
VITIS = "VitisAIExecutionProvider"
XNN = "XnnpackExecutionProvider"
INT8 = ["QuantizeLinear", "DequantizeLinear", "MatMul"]
JETSON = {TRT: [*INT8, "Conv"], CUDA: ["Softmax", "Relu", "MatMul", "Conv"]}
X = np.linspace(-2, 2, 4, dtype=np.float32).reshape(1, 4)


def expected(data: bytes, feeds: dict[str, Array]) -> Array:
    """The real package, in this process."""
    return np.asarray(onnxruntime.InferenceSession(data, providers=[CPU]).run(None, feeds)[0])


def jetson(board: Board) -> Board:
    board.write("etc/nv_tegra_release", L4T)
    board.package("tensorrt", "10.3.0")
    return board


def counts(ready: pb.PreparedNetwork) -> dict[str, int]:
    return {group.provider: group.count for group in ready.assigned}


def test_tensorrt_is_a_jetsons_default_and_builds_once(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = jetson(make_board(JETSON))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    events = prepare(agent, qdq_bytes())
    ready = events[-1].ready
    assert ready.runtime == "tensorrt"
    assert list(ready.providers) == [TRT, CUDA]
    # Six Q/DQ operators and the product on TensorRT, the Softmax on CUDA: nothing was left for the CPU.
    assert counts(ready) == {TRT: 6, CUDA: 1}
    assert ready.compile_ms > 0
    phases = [(one.phase.name, one.phase.under_way) for one in events[:-1]]
    assert phases == [("start", False), ("check", False), ("compile", True), ("load", False), ("compile", False)]
    np.testing.assert_array_equal(run(agent, ready, "x", X)["y"], expected(qdq_bytes(), {"x": X}))

    settings = dict(ready.settings)
    assert settings[f"{TRT}.trt_int8_enable"] == "1"
    assert settings["engine"] == "built now"
    assert not [value for value in settings.values() if "/" in value], "a path of the board was told"
    given = next(one for one in board.sessions() if "providers" in one and "trt_int8_enable" in one["options"][0])
    assert not [name for name in given["options"][0] if "calibration" in name or "plugin" in name]
    # In the process's own folder, and kept below the agent's: never in a place that others write to.
    assert given["options"][0]["trt_engine_cache_path"].startswith(str(board.data / "homes"))

    agent.stop()
    agent = run_agent(board, "--board", "jetson-orin-nano")
    again = prepare(agent, qdq_bytes())
    assert not again[-1].ready.HasField("compile_ms")
    assert again[-1].ready.settings["engine"] == "kept from an earlier run"
    assert board.did() == ["built the engine", "loaded the engine"]
    assert (board.data / "built").stat().st_mode & 0o777 == 0o700
    # Another option, another engine.
    prepare(agent, qdq_bytes(), graph_optimization="basic")
    assert board.did()[2:] == ["built the engine"]


@pytest.mark.parametrize("change", ["damaged", "replaced", "no mac", "renamed", "link"])
def test_row_13_a_kept_engine_that_was_touched_is_built_anew(
    make_board: MakeBoard, run_agent: RunAgent, change: str
) -> None:
    board = jetson(make_board(JETSON))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    prepare(agent, qdq_bytes())
    agent.stop()
    (entry,) = (board.data / "built").iterdir()
    engine = next(path for path in entry.iterdir() if path.read_bytes().startswith(b"ftrt"))
    if change == "damaged":
        engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    elif change == "replaced":  # by one who can write there, and sets the list right, but has no key
        forged = b"ftrt engine of the stand-in for evil"
        listed = json.loads((entry / "entry.json").read_text())
        listed["files"][int(engine.name)] |= {"size": len(forged), "sha256": hashlib.sha256(forged).hexdigest()}
        engine.write_bytes(forged)
        (entry / "entry.json").write_text(json.dumps(listed))
    elif change == "no mac":
        (entry / "entry.json").write_text((entry / "entry.json").read_text().replace('"mac": "', '"mac": "0'))
    elif change == "renamed":  # one that this agent made, but for another network
        agent = run_agent(board, "--board", "jetson-orin-nano")
        prepare(agent, qdq_bytes("N"))
        agent.stop()
        (other,) = (path for path in (board.data / "built").iterdir() if path != entry)
        shutil.rmtree(entry)
        other.rename(entry)
    else:
        evil = board.folder / "evil.engine"
        evil.write_bytes(engine.read_bytes())
        engine.unlink()
        engine.symlink_to(evil)
    before = len(board.did())
    agent = run_agent(board, "--board", "jetson-orin-nano")
    prepare(agent, qdq_bytes())
    assert board.did()[before:] == ["built the engine"]


def test_free_dimensions_are_built_before_any_block(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = jetson(make_board(JETSON))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    ready = prepare(agent, qdq_bytes("N"))[-1].ready
    assert ready.compile_ms > 0
    assert board.did() == ["built the engine"]


def test_nothing_is_kept_where_a_version_is_unknown(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = make_board(JETSON)  # no release file, no TensorRT that tells its version
    agent = run_agent(board, "--board", "jetson-orin-nano")
    prepare(agent, qdq_bytes(), runtime="tensorrt")
    assert list((board.data / "built").iterdir()) == []


def test_a_long_build_gives_signs_of_life(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = jetson(make_board(JETSON, build_s=3))
    agent = run_agent(board, "--board", "jetson-orin-nano", "--prepare-timeout-s", "90")
    events = prepare(agent, qdq_bytes())
    alive = [one.phase for one in events[:-1] if one.phase.under_way]
    assert [one.name for one in alive] == ["compile", "compile"]
    assert 2_000 <= alive[1].duration_ms <= 3_000
    assert events[-1].ready.compile_ms >= 3_000


def test_a_provider_that_would_run_nothing_is_refused(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = jetson(make_board({TRT: ["Conv"], CUDA: ["Relu"]}))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    code, text = failure(lambda: prepare(agent, relu_bytes(), runtime="tensorrt"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"provider {TRT} would run no part of this network" in text
    assert counts(prepare(agent, relu_bytes(), runtime="cuda")[-1].ready) == {CUDA: 1}


def test_listed_but_broken_providers_are_nobodys_default(make_board: MakeBoard, run_agent: RunAgent) -> None:
    """onnxruntime-gpu lists TensorRT on machines that have no TensorRT."""
    board = jetson(make_board({CUDA: ["Relu"]}, broken=[TRT]))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    known = {one.name: one for one in agent.stub.Describe(pb.DescribeRequest(), timeout=60).runtimes}
    assert known["tensorrt"].problem == f"{TRT} does not start: its libraries are missing"
    assert known["cuda"].problem == ""
    assert known["xnnpack"].problem == f"the installed onnxruntime has no {XNN}: install the vendor's package"
    assert "No module named 'vart'" in known["vart"].problem
    assert prepare(agent, relu_bytes())[-1].ready.runtime == "cuda"
    code, text = failure(lambda: prepare(agent, relu_bytes(), runtime="tensorrt"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "runtime tensorrt does not work here" in text


def test_a_stand_in_for_a_board_runs_on_the_cpu(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = jetson(make_board(JETSON))
    agent = run_agent(board, "--board", "jetson-orin-nano", "--emulated")
    assert prepare(agent, relu_bytes())[-1].ready.runtime == "onnxruntime"


@pytest.mark.parametrize("old", [False, True])
def test_xnnpack_has_the_threads_and_the_cpu_the_rest(make_board: MakeBoard, run_agent: RunAgent, old: bool) -> None:
    """`old`: an ONNX Runtime that cannot be asked who runs what; a profiled run tells it."""
    board = make_board({XNN: ["Conv", "MatMul", "GlobalAveragePool"]}, old=old)
    agent = run_agent(board, "--board", "raspberry-pi-4")
    assert prepare(agent, convolution_bytes())[-1].ready.runtime == "onnxruntime"
    ready = prepare(agent, convolution_bytes(), runtime="xnnpack", intra_op_threads=3, graph_optimization="basic")[
        -1
    ].ready
    assert ready.settings[f"{XNN}.intra_op_num_threads"] == "3"
    assert ready.settings["intra_op_num_threads"] == "1"
    assert ready.settings["session.intra_op.allow_spinning"] == "0"
    assert counts(ready) == {XNN: 3, CPU: 2}
    operators = {group.provider: dict(group.operators) for group in ready.assigned}
    assert operators[XNN] == {"Conv": 1, "GlobalAveragePool": 1, "MatMul": 1}
    image = np.ones((1, 3, 16, 16), np.float32)
    np.testing.assert_allclose(
        run(agent, ready, "x", image)["y"], expected(convolution_bytes(), {"x": image}), rtol=1e-5, atol=1e-5
    )


def test_vitis_ai_keeps_its_cache_to_itself(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = make_board({VITIS: [*INT8]})
    query = (
        '{"kernels":[{"DPU Arch":"DPUCZDX8G_ISA1_B4096","DPU Frequency (MHz)":300,"fingerprint":"0x101000016010407"}]}'
    )
    board.write("usr/bin/xdputil", f"#!/bin/sh\necho '{query}'\n", 0o755)
    agent = run_agent(board, "--board", "kv260")
    code, text = failure(lambda: prepare(agent, qdq_bytes()))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "no configuration of Vitis AI's provider (/etc/vaip_config.json" in text

    configuration = board.write("etc/vaip_config.json", "{}", 0o666)
    code, text = failure(lambda: prepare(agent, qdq_bytes()))
    assert "can be changed by anyone" in text
    configuration.chmod(0o644)

    ready = prepare(agent, qdq_bytes())[-1].ready
    assert ready.runtime == "vitisai"
    assert counts(ready) == {VITIS: 6, CPU: 1}
    given = [one["options"][0] for one in board.sessions() if one.get("providers", [""])[0] == VITIS][-1]
    assert Path(given["config_file"]) == configuration
    assert given["cache_dir"].startswith(str(board.data / "homes"))
    agent.stop()
    agent = run_agent(board, "--board", "kv260")
    assert prepare(agent, qdq_bytes())[-1].ready.settings["compiled"] == "kept from an earlier run"
    assert board.did() == ["built the xmodel", "loaded the xmodel"]

    code, text = failure(lambda: prepare(agent, relu_bytes()))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "its float form runs on the ARM cores: choose runtime onnxruntime for it" in text
    assert counts(prepare(agent, relu_bytes(), runtime="onnxruntime")[-1].ready) == {CPU: 1}


def test_a_build_that_fails_says_what_the_library_said(make_board: MakeBoard, run_agent: RunAgent) -> None:
    board = jetson(make_board(JETSON, fails="[TRT] Error Code 10: Could not find any implementation for node product"))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    code, text = failure(lambda: prepare(agent, qdq_bytes()))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "Could not find any implementation for node product" in text
    assert list((board.data / "built").iterdir()) == []


def test_an_option_that_a_runtime_does_not_take_is_refused(make_board: MakeBoard, run_agent: RunAgent) -> None:
    agent = run_agent(jetson(make_board(JETSON)), "--board", "jetson-orin-nano")
    for runtime in ("tensorrt", "cuda"):
        code, text = failure(lambda runtime=runtime: prepare(agent, qdq_bytes(), runtime=runtime, providers=[CUDA]))  # type: ignore[misc]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"runtime {runtime} takes no option providers: leave it out" in text


def test_the_stand_in_refuses_what_onnxruntime_refuses(make_board: MakeBoard, run_agent: RunAgent) -> None:
    """A faithful stand-in: an option that the provider's parser does not know fails as it does there."""
    board = jetson(make_board(JETSON))
    path = board.folder / "agents" / "runtimes" / "cuda.py"
    path.write_text(path.read_text().replace('"use_tf32"', '"use_tf64"'))
    agent = run_agent(board, "--board", "jetson-orin-nano")
    known = {one.name: one.problem for one in agent.stub.Describe(pb.DescribeRequest(), timeout=60).runtimes}
    assert 'Unknown provider option: "use_tf64"' in known["cuda"]
