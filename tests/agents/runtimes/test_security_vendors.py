"""Rows 12 to 14, 16 and 28 of docs/security.md on boards with a vendor's runtime and tools."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import onnx
import pytest
from onnx import TensorProto, helper

from agents.protocol import agent_pb2 as pb
from tests.agents.conftest import ROOT, AgentProcess, failure, relu_bytes
from tests.agents.runtimes.conftest import L4T, Board, MakeBoard, prepare, qdq_bytes
from tests.agents.settings_boards import add_sudo
from tests.agents.settings_boards import jetson as settable_jetson

RunAgent = Callable[..., AgentProcess]
TRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {TRT: ["QuantizeLinear", "DequantizeLinear", "MatMul", "Relu"], CUDA: ["Softmax", "Relu"]}
#: Beginnings of what is native code to a board: engines of TensorRT 8 and 10, an FPGA's bitstream, a library.
NATIVE = (
    b"ftrt" + bytes(64),
    b"ptrt" + bytes(64),
    b"xclbin2\0" + bytes(64),
    b"\x7fELF\x02\x01\x01" + bytes(64),
)


@pytest.fixture
def jetson(make_board: MakeBoard) -> Board:
    board = make_board(PROVIDERS)
    board.write("etc/nv_tegra_release", L4T)
    board.package("tensorrt", "10.3.0")
    return board


def given(board: Board) -> list[dict[str, object]]:
    return [one for one in board.sessions() if "providers" in one]


def test_row_12_native_code_is_refused_by_its_content_whatever_runs_it(jetson: Board, run_agent: RunAgent) -> None:
    agent = run_agent(jetson, "--board", "jetson-orin-nano")
    agent.stub.Describe(pb.DescribeRequest(), timeout=60)
    before = len(given(jetson))
    for data, runtime in itertools.product(NATIVE, ("tensorrt", "onnxruntime")):
        code, text = failure(lambda data=data, runtime=runtime: prepare(agent, data, runtime=runtime))  # type: ignore[misc]
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "not an ONNX network but" in text
    assert len(given(jetson)) == before, "the runtime saw it"


def test_row_12_an_engine_inside_a_network_is_refused(jetson: Board, run_agent: RunAgent) -> None:
    """ONNX Runtime's EPContext operator carries an engine, or names the file of one, for the provider to run."""
    agent = run_agent(jetson, "--board", "jetson-orin-nano")
    for engine in (b"ftrt" + bytes(16), b"/tmp/x.engine"):
        node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", source=TRT, ep_cache_context=engine)
        code, text = failure(lambda node=node: prepare(agent, one_node(node)))  # type: ignore[misc]
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "com.microsoft.EPContext" in text
        assert "is not among the com.microsoft operators this agent runs" in text


def one_node(node: onnx.NodeProto, functions: list[onnx.FunctionProto] | None = None) -> bytes:
    """A network of one node, which need not be valid."""
    value = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "network",
        [helper.make_tensor_value_info("x", value, [1, 4])],
        [helper.make_tensor_value_info("y", value, [1, 4])],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid(node.domain, 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8, functions=functions or [])
    return bytes(model.SerializeToString())


def test_row_13_a_host_cannot_name_a_path(jetson: Board, run_agent: RunAgent) -> None:
    agent = run_agent(jetson, "--board", "jetson-orin-nano")
    smuggled = [f"{TRT}:trt_engine_cache_path=/tmp", "../../x", "/tmp/libevil.so", f"{TRT}\0/tmp"]
    for provider in smuggled:
        code, text = failure(lambda provider=provider: prepare(agent, relu_bytes(), providers=[provider]))  # type: ignore[misc]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "is no such name" in text
    for runtime in ("../tensorrt", "agents.runtimes.tensorrt:Tensorrt", "/tmp/runtime.so"):
        code, _ = failure(lambda runtime=runtime: prepare(agent, relu_bytes(), runtime=runtime))  # type: ignore[misc]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    ready = prepare(agent, relu_bytes(), runtime="tensorrt")[-1].ready
    assert ready.runtime == "tensorrt"
    homes = str(jetson.data / "homes")
    for one in given(jetson):
        for options in one["options"]:  # type: ignore[attr-defined]  # read from JSON
            assert all(value.startswith(homes) for name, value in options.items() if "path" in name or "/" in value)


def test_row_13_the_options_are_a_closed_list() -> None:
    """No option of the protocol is a path, a library or free text; a new one must be added here on purpose."""
    fields = {field.name: field.type for field in pb.SessionOptions.DESCRIPTOR.fields}
    assert set(fields) == {
        *("intra_op_threads", "graph_optimization", "disabled_optimizers", "precise_x86_int8", "providers"),
    }
    assert {field.name for field in pb.PrepareRequest.DESCRIPTOR.fields} == {"digest", "runtime", "options", "permit"}


def test_row_14_an_option_beyond_the_list_is_refused(jetson: Board, run_agent: RunAgent) -> None:
    """As a field that a changed host's protocol would have: bytes that this agent's protobuf does not know."""
    agent = run_agent(jetson, "--board", "jetson-orin-nano")
    text = "trt_extra_plugin_lib_paths=/tmp/evil.so"
    options = pb.SessionOptions.FromString(bytes([6 << 3 | 2, len(text)]) + text.encode())
    request = pb.PrepareRequest(digest=agent.upload(relu_bytes()), runtime="tensorrt", options=options)
    code, message = failure(lambda: agent.stub.Prepare(request, timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "a field that this agent does not know" in message


def test_row_14_operators_of_plug_in_libraries_are_refused(jetson: Board, run_agent: RunAgent) -> None:
    agent = run_agent(jetson, "--board", "jetson-orin-nano")
    for domain in ("trt.plugins", "com.xilinx", "com.amd", "my.ops"):
        node = helper.make_node("EfficientNMS_TRT", ["x"], ["y"], domain=domain)
        code, _ = failure(lambda node=node: prepare(agent, one_node(node)))  # type: ignore[misc]
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        # Nor under the name of a function of the network's own, which a provider could take for its plug-in.
        relu = helper.make_node("Relu", ["x"], ["y"])
        body = helper.make_function(domain, node.op_type, ["x"], ["y"], [relu], [helper.make_opsetid("", 17)])
        data = one_node(node, [body])
        if domain == "my.ops":
            assert prepare(agent, data)[-1].ready.network_id
            continue
        code, text = failure(lambda data=data: prepare(agent, data))  # type: ignore[misc]
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"reserved domain '{domain}'" in text


def test_row_16_the_environment_reaches_neither_a_runtime_nor_a_tool(jetson: Board, run_agent: RunAgent) -> None:
    seen = jetson.folder / "tool-environment"
    jetson.write("usr/sbin/nvpmodel", f"#!/bin/sh\n/usr/bin/env > {seen}\necho 'NV Power Mode: 15W'\necho 2\n", 0o755)
    planted = {
        "LD_PRELOAD": "",  # a library that is there would be loaded by this test's own agent as well
        "LD_AUDIT": "",
        "ORT_TENSORRT_ENGINE_CACHE_PATH": "/tmp",
        "ORT_TENSORRT_EXTRA_PLUGIN_LIB_PATHS": "/tmp/evil.so",
        "ORT_LOAD_CONFIG_FROM_MODEL": "1",
        "XLNX_ENABLE_FINGERPRINT_CHECK": "0",
        "XLNX_VART_FIRMWARE": "/tmp/evil.xclbin",
        "VITISAI_EP_JSON_CONFIG": "/tmp/evil.json",
        "CUDA_INJECTION64_PATH": "/tmp/evil.so",
    }
    agent = run_agent(jetson, "--board", "jetson-orin-nano", env=planted)
    prepare(agent, qdq_bytes())
    for one in given(jetson):
        assert not set(planted) & set(one["environment"])  # type: ignore[call-overload]  # read from JSON
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert not set(planted) & names
    assert "LC_ALL" in names


#: All that the agent may ask of vendors' tools unless a host holds the board's settings.
READ_ONLY = {
    *("nvpmodel -q", "nvpmodel -q --verbose", "jetson_clocks --show", "xmutil listapps", "xmutil platformstats"),
    *("xmutil xlnx_platformstats", "xdputil query", "show_dpu", "platformstats", "xlnx_platformstats"),
}
TOOLS = {
    "jetson-orin-nano": ("nvpmodel", "jetson_clocks", "tegrastats"),
    "raspberry-pi-5": ("vcgencmd",),
    "kv260": ("xmutil", "xdputil", "xbutil", "show_dpu", "platformstats", "fpgautil", "dfx-mgr-client"),
    "nvidia-gpu": ("nvidia-smi",),
}
CHANGING = ("sudo", "nvpmodel", "cpufreq-set", "cpupower", "tee", "reboot", "poweroff", "shutdown", "sh", "su")


@pytest.mark.parametrize("kind", sorted(TOOLS))
def test_row_28_no_call_of_a_host_changes_power_or_clocks(
    make_board: MakeBoard, run_agent: RunAgent, kind: str
) -> None:
    board = make_board()
    log = board.folder / "called"
    for tool in {*TOOLS[kind], *CHANGING}:
        board.write(f"usr/sbin/{tool}", f'#!/bin/sh\necho "$(/usr/bin/basename $0) $*" >> {log}\n', 0o755)
    mode = board.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n", 0o666)
    agent = run_agent(board, "--board", kind)
    evil = ["-m 0", "; nvpmodel -m 0", "$(jetson_clocks)", "--store", "reset-gpu-clocks"]
    for text in evil:
        settings = pb.BoardSettings(power_mode=text, governor=text)
        # What a host sends is looked up in the board's own lists, where none of it is.
        held = agent.stub.HoldSettings(iter([pb.HoldRequest(settings=settings)]), timeout=60)
        assert all(state.problem for event in held for state in event.held.settings)
        for call in (
            lambda text=text: agent.stub.Prepare(pb.PrepareRequest(digest=text, runtime=text), timeout=60),
            lambda text=text: agent.stub.Program(pb.ProgramRequest(design=text, digest=text), timeout=60),
            lambda text=text: agent.stub.Unload(pb.UnloadRequest(network_id=text), timeout=60),
        ):
            assert failure(call)[0] in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    agent.stub.Describe(pb.DescribeRequest(), timeout=60)
    prepare(agent, relu_bytes())
    list(agent.stub.StreamTelemetry(pb.TelemetryRequest(interval_s=0.1, duration_s=0.3), timeout=60))
    assert agent.stop() == 0
    called = log.read_text().splitlines() if log.exists() else []
    assert called, "the tools of this board were never asked: this test shows nothing"
    for line in called:
        reading = line.startswith(("tegrastats --interval", "tegrastats --stop", "vcgencmd ", "nvidia-smi --query"))
        assert reading or line.strip() in READ_ONLY, line
        assert not [
            word for word in ("-m", "-pm", "-lgc", "-ac", "-pl", "loadapp", "unloadapp") if word in line.split()
        ]
    assert mode.read_text() == "schedutil\n"


#: All that may change a board's state, whatever a host asks for: `2` is any number that the board's own list has.
CHANGING_COMMANDS = {
    *("nvpmodel -m 2", "nvpmodel -m 0", "jetson_clocks", "jetson_clocks --store DATA/jetson-clocks.conf"),
    "jetson_clocks --restore DATA/jetson-clocks.conf",
}


def test_row_28_what_a_host_may_change_is_a_closed_list(tmp_path: Path) -> None:
    """A hold of everything there is: the tools hear these words and no others, and sudo is not asked by root."""
    orin = settable_jetson(tmp_path / "board" / "root")
    if os.geteuid() == 0:
        add_sudo(orin)  # anybody else would have to ask it
    agent = AgentProcess(
        tmp_path / "board" / "data", "--board", "jetson-orin-nano", "--board-root", str(orin.root), cwd=ROOT
    )
    try:
        wishes = pb.BoardSettings(power_mode="MAXN_SUPER", lock_clocks=True, governor="performance")
        events = list(agent.stub.HoldSettings(iter([pb.HoldRequest(settings=wishes)]), timeout=60))
        assert [event.WhichOneof("event") for event in events] == ["held", "given_back"]
    finally:
        agent.stop()
    called = {line.rpartition(" [")[0].replace(str(agent.data_dir), "DATA") for line in orin.called()}
    assert called - READ_ONLY <= CHANGING_COMMANDS
    assert called >= CHANGING_COMMANDS


def test_row_28_the_settings_are_a_closed_list_of_words() -> None:
    """No call but one changes a board's state, and what it takes is a name, a yes and a name; never a command."""
    calls = {method.name for method in pb.DESCRIPTOR.services_by_name["Agent"].methods}
    assert not [name for name in calls if any(word in name.lower() for word in ("power", "clock", "exec", "shell"))]
    fields = {field.name: field.type for field in pb.BoardSettings.DESCRIPTOR.fields}
    text, yes = pb.SettingState.DESCRIPTOR.fields_by_name["name"].type, pb.Policy.DESCRIPTOR.fields[0].type
    assert fields == {"power_mode": text, "lock_clocks": yes, "governor": text}
    assert {field.name for field in pb.HoldRequest.DESCRIPTOR.fields} == {"settings"}
