"""Rows 1 to 7, 9 and 17 to 19 of docs/security.md: attacks that come inside a network's own file."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from agents.network_check import CheckPolicy, NetworkRefused, check_network
from agents.protocol import agent_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def network(nodes: Sequence[onnx.NodeProto] = (), functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", F32, [4])],
        [helper.make_tensor_value_info("y", F32, [4])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("lab", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)


def outside(location: str = "weights.bin", **more: str) -> TensorProto:
    """A tensor of four floats that says its data lie elsewhere."""
    tensor = TensorProto(name="w", data_type=F32, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def with_initializer(tensor: TensorProto) -> bytes:
    model = network([helper.make_node("Add", ["y", "w"], ["z"])])
    model.graph.initializer.append(tensor)
    model.graph.output.append(helper.make_tensor_value_info("z", F32, [4]))
    data: bytes = model.SerializeToString()
    return data


def refusal(data: bytes, policy: CheckPolicy | None = None) -> str:
    """The one line of a refusal, which must come at once and cost no memory to speak of."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(NetworkRefused) as refused:
            check_network(data, policy or CheckPolicy())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 2.0
    assert peak < 4 << 20
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    return text


LOCATIONS = [
    "../../etc/shadow",
    "sub/../../x",
    "/etc/shadow",
    "weights.bin",
    "",
    ".",
    "file:///etc/shadow",
    "//host/share/x",
    "C:\\secrets",
    "w\0.bin",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_row_01_external_data_is_refused_wherever_it_points(location: str) -> None:
    assert "external data" in refusal(with_initializer(outside(location)))


def test_row_01_entries_without_the_flag_and_the_flag_without_entries_are_refused() -> None:
    entries = outside()
    entries.ClearField("data_location")
    entries.raw_data = b"\0" * 16
    flag = outside()
    flag.ClearField("external_data")
    flag.raw_data = b"\0" * 16
    for tensor in (entries, flag):
        assert "external data" in refusal(with_initializer(tensor))
    entries.ClearField("external_data")
    check_network(with_initializer(entries), CheckPolicy())


def places(descriptor: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - upb descriptor
    """Every way from ModelProto down to a TensorProto that passes no message type three times."""
    for field in descriptor.fields:
        kind = field.message_type
        if kind is None or sum(step.message_type is kind for step in path) == 2:
            continue
        if kind.full_name == "onnx.TensorProto":
            yield (*path, field)
        else:
            yield from places(kind, (*path, field))


PLACES = list(places(onnx.ModelProto.DESCRIPTOR))


def planted(path: tuple[Any, ...], tensor: TensorProto) -> bytes:
    """A good model with the tensor put at the end of that path."""
    model = network()
    message: Any = model
    for field in path:
        if message.DESCRIPTOR.full_name == "onnx.SparseTensorProto":
            good = helper.make_tensor("part", I64, [0], [])
            message.values.CopyFrom(good)
            message.indices.CopyFrom(good)
        inner = getattr(message, field.name)
        message = inner.add() if field.is_repeated else inner
        if message.DESCRIPTOR.full_name == "onnx.FunctionProto":
            message.domain = "lab"
    message.CopyFrom(tensor)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(field.name for field in path))
def test_row_01_external_data_is_found_in_every_place_onnx_has_for_a_tensor(path: tuple[Any, ...]) -> None:
    """From the descriptors, not from our walk: initializers, attributes, sparse parts, branches, functions."""
    training = path[0].name == "training_info"
    assert ("training_info" if training else "external data") in refusal(planted(path, outside()))
    inline = helper.make_tensor("w", F32, [1], [1.0])
    if not training:
        check_network(planted(path, inline), CheckPolicy())  # it is the external data that was refused


def test_row_01_the_places_are_many() -> None:
    names = {".".join(field.name for field in path) for path in PLACES}
    assert {
        "graph.initializer",
        "graph.sparse_initializer.values",
        "graph.node.attribute.t",
        "graph.node.attribute.tensors",
        "graph.node.attribute.g.initializer",
        "graph.node.attribute.graphs.node.attribute.sparse_tensors.indices",
        "functions.node.attribute.t",
        "functions.attribute_proto.t",
    } <= names


@pytest.mark.parametrize("kind", ["row_02_symlink", "row_03_hard_link", "row_04_plain_file"])
def test_row_02_to_04_a_file_lying_ready_changes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked, hard-linked or plain: what the location would find is never looked for."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x00\x00\x80\x3f" * 4)
    work = tmp_path / "work"
    work.mkdir()
    if kind == "row_02_symlink":
        (work / "weights.bin").symlink_to(secret)
    elif kind == "row_03_hard_link":
        os.link(secret, work / "weights.bin")
    else:
        (work / "weights.bin").write_bytes(secret.read_bytes())
    monkeypatch.chdir(work)
    data = with_initializer(outside(length="16", offset="0"))
    assert "external data" in refusal(data)


def test_row_04_the_attack_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes have no folder of their own: a runtime given such a network reads the working folder's file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = with_initializer(outside(length="16", offset="0"))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (leaked,) = session.run(["z"], {"x": np.zeros(4, np.float32)})
    except Exception as refused:  # noqa: BLE001 - a later runtime's own refusal, in whichever class it has
        pytest.skip(f"this ONNX Runtime refuses it as well: {refused}")
    assert leaked.tolist() == [0.0, 1.0, 2.0, 3.0]


GUARDED = """
import sys
from agents.network_check import CheckPolicy, NetworkRefused, check_network
datas = [bytes.fromhex(line) for line in sys.stdin]
def forbid(event, args):
    if event.split(".")[0] in ("open", "os", "socket", "subprocess", "shutil", "urllib", "http", "import", "ctypes"):
        print("event", event, args)
sys.addaudithook(forbid)
for data in datas:
    try:
        check_network(data, CheckPolicy())
        print("accepted")
    except NetworkRefused:
        print("refused")
"""


def guarded(*datas: bytes) -> list[str]:
    """Check networks in a process that reports whatever it opens, resolves, connects to or imports meanwhile."""
    lines = "\n".join(data.hex() for data in datas)
    done = subprocess.run(
        [sys.executable, "-c", GUARDED], input=lines, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_row_04_and_05_bytes_are_judged_without_opening_or_resolving_anything() -> None:
    datas = [with_initializer(outside(location)) for location in LOCATIONS]
    assert guarded(*datas) == ["refused"] * len(datas)


def test_row_05_the_same_bytes_from_a_file_or_memory_get_the_same_answer(tmp_path: Path) -> None:
    import mmap

    data = with_initializer(outside())
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with pytest.raises(NetworkRefused) as refused:
            check_network(mapped, CheckPolicy())
        assert str(refused.value) == refusal(data) == refusal(bytes(memoryview(data)))


@pytest.mark.parametrize("marker", ["*/_ORT_MEM_ADDR_/*", "*/_ORT_MEM_ADDR_LITTLE_ENDIAN_/*"])
def test_row_06_an_address_in_memory_is_external_data_too(marker: str) -> None:
    data = with_initializer(outside(marker, offset=str(id(object())), length="16"))
    assert "external data" in refusal(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("__class__", "x"),
        ("__dict__", "{}"),
        ("basepath", "/etc"),
        ("length", str(2**62)),
        ("offset", "-1"),
        ("checksum", "a" * 100_000),
    ],
)
def test_row_07_keys_of_an_entry_are_never_looked_at(key: str, value: str) -> None:
    assert "external data" in refusal(with_initializer(outside("weights.bin", **{key: value})))


def test_row_07_the_agent_never_loads_with_the_onnx_package() -> None:
    assert not [name for name in imported_by_agents() if name.split(".")[0] == "onnx"]


def imported_by_agents() -> set[str]:
    """Every module that the agent's sources import, at top level or inside a function."""
    found: set[str] = set()
    for path in (ROOT / "agents").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    assert "agents.wire.NetworkRefused" in found
    return found


def test_row_09_addresses_inside_a_network_are_not_fetched() -> None:
    model = network()
    model.producer_name = "https://example.invalid/model"
    model.metadata_props.add(key="model_url", value="https://example.invalid/net.onnx")
    model.graph.doc_string = "hub://owner/repository"
    assert guarded(model.SerializeToString(), with_initializer(outside("https://example.invalid/w"))) == [
        "accepted",
        "refused",
    ]


def test_row_09_the_agent_has_no_client_for_hubs_or_addresses() -> None:
    clients = {"urllib.request", "http.client", "ftplib", "requests", "httpx", "aiohttp", "huggingface_hub", "onnx.hub"}
    imported = imported_by_agents()
    assert not {name for name in imported if any(name == c or name.startswith(c + ".") for c in clients)}


def framed(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    size, head = len(content), bytearray([number << 3 | 2])
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(head) + bytes([size]) + content


def nested_ifs(levels: int) -> bytes:
    """A graph within the branch of a graph, `levels` times."""
    graph = framed(1, framed(4, b"Relu"))
    for _ in range(levels):
        graph = framed(1, framed(4, b"If") + framed(5, framed(1, b"then_branch") + framed(6, graph)))
    return b"\x08\x08" + framed(7, graph) + framed(8, b"\x10\x11")


@pytest.mark.parametrize("levels", [34, 1000, 5000])
def test_row_17_graphs_nested_beyond_reason_are_refused(levels: int) -> None:
    data = nested_ifs(levels)
    assert "messages deep" in refusal(data)
    with pytest.raises(DecodeError):  # protobuf's limit, which older ones lack, is beyond ours
        onnx.load_from_string(data)


def test_row_17_the_deepest_network_allowed_is_one_that_protobuf_reads() -> None:
    deepest = max(levels for levels in range(34) if accepted(nested_ifs(levels)))
    assert deepest == 20
    onnx.load_from_string(nested_ifs(deepest))
    assert "messages deep" in refusal(nested_ifs(deepest + 1))


def accepted(data: bytes) -> bool:
    try:
        check_network(data, CheckPolicy())
    except NetworkRefused:
        return False
    return True


@pytest.mark.parametrize("wrapper", [4, 9, 5])
def test_row_17_types_nested_beyond_reason_are_refused(wrapper: int) -> None:
    """Sequence of sequence of …, optional of optional of …, map to map to …"""
    kind = framed(1, b"\x08\x01")
    for _ in range(5000):
        kind = framed(wrapper, framed(2 if wrapper == 5 else 1, kind))
    graph = framed(11, framed(1, b"x") + framed(2, kind))
    assert "messages deep" in refusal(b"\x08\x08" + framed(7, graph) + framed(8, b"\x10\x11"))


def test_row_18_json_is_not_turned_into_messages_and_the_protocol_has_no_any() -> None:
    assert not [name for name in imported_by_agents() if "json_format" in name]
    kinds: set[str] = set()
    waiting = list(agent_pb2.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name not in kinds:
            kinds.add(descriptor.full_name)
            waiting += [field.message_type for field in descriptor.fields if field.message_type]
    assert "quantrig.agent.v1.PrepareRequest" in kinds
    assert not [name for name in kinds if name.startswith("google.protobuf.")]


def shaped(operator: str, constants: dict[str, list[int]], inputs: Sequence[str], *, as_nodes: bool) -> bytes:
    """One node whose inputs are constants: initializers, or the outputs of Constant nodes."""
    model = network([helper.make_node(operator, list(inputs), ["big"])])
    for name, values in constants.items():
        tensor = helper.make_tensor(name, I64, [len(values)], values)
        if as_nodes:
            model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        else:
            model.graph.initializer.append(tensor)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize(
    ("operator", "constants", "inputs"),
    [
        ("ConstantOfShape", {"s": [1 << 20, 1 << 20]}, ["s"]),
        ("ConstantOfShape", {"s": [-1]}, ["s"]),
        ("ConstantOfShape", {"s": [1 << 33, 1 << 33]}, ["s"]),
        ("Expand", {"s": [1 << 40]}, ["x", "s"]),
        ("Tile", {"s": [1 << 40]}, ["x", "s"]),
        ("Resize", {"s": [1, 1, 1 << 20, 1 << 20]}, ["x", "", "", "s"]),
        ("Pad", {"s": [0, 0, 1 << 20, 1 << 20]}, ["x", "s"]),
        ("OneHot", {"s": [1 << 40]}, ["x", "s", "v"]),
        ("Range", {"a": [0], "b": [1 << 60], "c": [1]}, ["a", "b", "c"]),
    ],
)
def test_row_19_constants_that_ask_for_a_huge_tensor_are_refused(
    operator: str, constants: dict[str, list[int]], inputs: list[str], as_nodes: bool
) -> None:
    text = refusal(shaped(operator, constants, inputs, as_nodes=as_nodes))
    assert operator in text
    modest = {name: [min(abs(value), 2) for value in values] for name, values in constants.items()}
    check_network(shaped(operator, modest, inputs, as_nodes=as_nodes), CheckPolicy())


def test_row_19_a_branch_sees_the_constants_around_it() -> None:
    node = helper.make_node("ConstantOfShape", ["s"], ["big"])
    branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("big", F32, None)])
    model = network([helper.make_node("If", ["f"], ["o"], then_branch=branch, else_branch=branch)])
    model.graph.initializer.append(helper.make_tensor("s", I64, [1], [1 << 40]))
    assert "ConstantOfShape" in refusal(model.SerializeToString())


def test_row_19_random_tensors_are_sized_by_an_attribute() -> None:
    data = network([helper.make_node("RandomNormal", [], ["r"], shape=[1 << 20, 1 << 20])]).SerializeToString()
    assert "RandomNormal" in refusal(data)


@pytest.mark.parametrize("dims", [[1 << 62], [1 << 40], [1 << 32, 1 << 32], [-1], [0, -1], [1 << 62, 1 << 62, 0]])
@pytest.mark.parametrize("place", ["input", "output", "value_info", "initializer"])
def test_row_19_huge_and_absurd_dimensions_are_refused(place: str, dims: list[int]) -> None:
    model = network()
    if place == "initializer":
        model.graph.initializer.add(name="big", data_type=F32, dims=dims)
    else:
        getattr(model.graph, place).append(helper.make_tensor_value_info("big", F32, dims))
    assert "'big'" in refusal(model.SerializeToString())


def test_row_19_a_small_sparse_tensor_may_not_be_huge_when_laid_out() -> None:
    values = helper.make_tensor("v", F32, [1], [1.0])
    indices = helper.make_tensor("i", I64, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [1 << 40])
    data = network([helper.make_node("Constant", [], ["c"], sparse_value=sparse)]).SerializeToString()
    assert "needs" in refusal(data)


def test_row_19_many_tensors_are_refused_together() -> None:
    policy = CheckPolicy(max_tensor_bytes=1024, max_total_bytes=4096)
    model = network()
    for index in range(5):
        model.graph.initializer.append(helper.make_tensor(f"w{index}", F32, [256], b"\0" * 1024, raw=True))
    assert "together" in refusal(model.SerializeToString(), policy)
    del model.graph.initializer[4]
    check_network(model.SerializeToString(), policy)


@pytest.mark.parametrize("operator", ["Loop", "Scan", "SequenceMap"])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize("place", ["graph", "branch", "function"])
def test_row_19_loops_are_refused_unless_the_policy_says_otherwise(operator: str, domain: str, place: str) -> None:
    loop = helper.make_node(operator, ["x"], ["z"], domain=domain, body=helper.make_graph([], "b", [], []))
    if place == "graph":
        model = network([loop])
    elif place == "branch":
        model = network([helper.make_node("If", ["f"], [], then_branch=helper.make_graph([loop], "t", [], []))])
    else:
        model = network(functions=[helper.make_function("lab", "F", ["x"], ["z"], [loop], [])])
    assert operator in refusal(model.SerializeToString())
    assert check_network(model.SerializeToString(), CheckPolicy(allow_loops=True)).has_loops


def test_row_19_functions_that_double_at_every_level_are_refused() -> None:
    """Thirty functions of two calls each are a billion nodes once inlined."""

    def doubling(level: int) -> onnx.FunctionProto:
        called = "Relu" if level == 0 else f"F{level - 1}"
        domain = "" if level == 0 else "lab"
        body = [
            helper.make_node(called, ["a"], ["t"], domain=domain),
            helper.make_node(called, ["t"], ["b"], domain=domain),
        ]
        return helper.make_function("lab", f"F{level}", ["a"], ["b"], body, [helper.make_opsetid("", 17)])

    functions = [doubling(level) for level in range(30)]
    data = network([helper.make_node("F29", ["x"], ["z"], domain="lab")], functions).SerializeToString()
    assert "once its functions are inlined" in refusal(data)
    small = network([helper.make_node("F9", ["x"], ["z"], domain="lab")], functions[:10]).SerializeToString()
    check_network(small, CheckPolicy())
