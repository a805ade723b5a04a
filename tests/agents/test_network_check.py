"""What passes the check, and that its summary says what the `onnx` package says."""

from __future__ import annotations

import mmap
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from onnx import TensorProto, helper, numpy_helper

from agents.network_check import CheckPolicy, NetworkRefused, NetworkSummary, check_network
from agents.onnx_fields import MESSAGES
from agents.tensor_check import ELEMENT_BITS
from agents.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = Path(__file__).parents[2].parent / "shared/data/models"
LOOPS = {"Loop", "Scan", "SequenceMap"}


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from graphs_of_node(node)


def graphs_of_node(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from graphs_of(inner)


def summary_by_onnx(model: onnx.ModelProto) -> NetworkSummary:
    """The same facts, gathered through the protobuf classes."""
    graphs = [*graphs_of(model.graph)]
    nodes = [node for graph in graphs for node in graph.node]
    for function in model.functions:
        nodes.extend(function.node)
        for node in function.node:
            for graph in graphs_of_node(node):
                graphs.append(graph)
                nodes.extend(graph.node)
    tensors = [tensor for graph in graphs for tensor in graph.initializer]
    tensors += [attribute.t for node in nodes for attribute in node.attribute if attribute.HasField("t")]
    sizes = [numpy_helper.to_array(tensor).nbytes for tensor in tensors] or [0]
    stored = {tensor.name for tensor in model.graph.initializer}
    return NetworkSummary(
        ir_version=model.ir_version,
        opsets=tuple((entry.domain, entry.version) for entry in model.opset_import),
        domains=tuple(sorted({"" if node.domain == "ai.onnx" else node.domain for node in nodes})),
        node_count=len(nodes),
        inputs=tuple(value.name for value in model.graph.input if value.name not in stored),
        outputs=tuple(value.name for value in model.graph.output),
        largest_tensor_bytes=max(sizes),
        total_tensor_bytes=sum(sizes),
        has_loops=any(node.op_type in LOOPS for node in nodes),
        quantized=any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in nodes),
    )


def relu() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_tensor(tensor: TensorProto) -> bytes:
    model = relu()
    model.graph.initializer.append(tensor)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_every_real_network_passes_and_is_summed_up_as_onnx_does(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        summary = check_network(data, CheckPolicy())
    assert summary == summary_by_onnx(onnx.load(path))


def test_there_are_real_networks() -> None:
    if not MODELS.is_dir():
        pytest.skip("../shared/data/models is not there")
    assert len(list(MODELS.glob("*.onnx"))) >= 5


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic", "QDQ-int16", "QDQ-int4-weights"])
def test_what_onnxruntime_quantizes_passes(form: str, tmp_path: Path) -> None:
    source = MODELS / "mnist-8.onnx"
    if not source.exists():
        pytest.skip("../shared/data/models is not there")
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc] # an untyped library
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.batches = iter([generator.random((1, 1, 28, 28), dtype=np.float32) for _ in range(2)])

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"Input3": batch}

    model = onnx.version_converter.convert_version(onnx.load(source), 21)
    model.ir_version = 10
    onnx.save(model, tmp_path / "float.onnx")
    out = tmp_path / "int8.onnx"
    if form == "dynamic":
        q.quantize_dynamic(tmp_path / "float.onnx", out)
    else:
        q.quantize_static(
            tmp_path / "float.onnx",
            out,
            Reader(),
            quant_format=q.QuantFormat.QOperator if form == "QOperator" else q.QuantFormat.QDQ,
            activation_type=q.QuantType.QInt16 if form == "QDQ-int16" else q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt4 if form == "QDQ-int4-weights" else q.QuantType.QInt8,
            per_channel=form == "QDQ",
        )
    summary = check_network(out.read_bytes(), CheckPolicy())
    expected = summary_by_onnx(onnx.load(out))
    if form == "QDQ-int4-weights":  # NumPy holds an int4 in a byte
        assert summary.node_count == expected.node_count
    else:
        assert summary == expected
    if form == "QOperator":
        assert "com.microsoft" in summary.domains


def test_what_onnxruntime_fuses_passes(tmp_path: Path) -> None:
    import onnxruntime

    source = MODELS / "squeezenet1.1.onnx"
    if not source.exists():
        pytest.skip("../shared/data/models is not there")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    summary = check_network((tmp_path / "fused.onnx").read_bytes(), CheckPolicy())
    assert "com.microsoft" in summary.domains  # FusedConv
    assert summary == summary_by_onnx(onnx.load(tmp_path / "fused.onnx"))


def test_the_field_tables_are_those_of_the_installed_onnx() -> None:
    kinds = {
        **dict.fromkeys((FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64), Kind.VARINT),
        **dict.fromkeys((FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_ENUM), Kind.VARINT),
        FieldDescriptor.TYPE_FLOAT: Kind.FIXED32,
        FieldDescriptor.TYPE_DOUBLE: Kind.FIXED64,
        FieldDescriptor.TYPE_STRING: Kind.TEXT,
        FieldDescriptor.TYPE_BYTES: Kind.BYTES,
        FieldDescriptor.TYPE_MESSAGE: Kind.MESSAGE,
    }
    seen: dict[str, dict[int, tuple[str, Kind, bool, str, bool]]] = {}

    def collect(descriptor: Any) -> None:  # noqa: ANN401 - upb and pure-python classes differ
        name = descriptor.full_name.removeprefix("onnx.")
        if name in seen:
            return
        seen[name] = {
            f.number: (
                f.name,
                kinds[f.type],
                f.is_repeated,
                f.message_type.full_name.removeprefix("onnx.") if f.message_type else "",
                f.containing_oneof is not None,
            )
            for f in descriptor.fields
        }
        for f in descriptor.fields:
            if f.message_type:
                collect(f.message_type)

    collect(onnx.ModelProto.DESCRIPTOR)
    ours = {
        name: {n: (f.name, f.kind, f.repeated, f.message, bool(f.slot)) for n, f in table.items()}
        for name, table in MESSAGES.items()
    }
    assert ours == seen


def test_every_element_type_of_onnx_has_its_width() -> None:
    assert set(ELEMENT_BITS) == set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


@pytest.mark.parametrize("length", [0, 1, 3, 8, 1000])
@pytest.mark.parametrize("data_type", sorted(set(TensorProto.DataType.values()) - {0}))
def test_payloads_of_every_type_as_onnx_stores_them(data_type: int, length: int) -> None:
    values: Any = [b"a" if data_type == TensorProto.STRING else 1] * length
    typed = helper.make_tensor("w", data_type, [length], values)
    check_network(with_tensor(typed), CheckPolicy())
    stored = [typed]
    if data_type != TensorProto.STRING:
        raw = numpy_helper.from_array(numpy_helper.to_array(typed), "w")
        assert raw.data_type == data_type
        check_network(with_tensor(raw), CheckPolicy())
        stored.append(raw)
    if length:
        for tensor in stored:
            tensor.dims[0] = length + 8
            with pytest.raises(NetworkRefused, match="where its shape asks for"):
                check_network(with_tensor(tensor), CheckPolicy())


def test_negative_and_long_typed_integers_are_counted() -> None:
    values = [-(2**63), -1, 0, 2**63 - 1] * 5000
    tensor = helper.make_tensor("w", TensorProto.INT64, [20000], values)
    assert check_network(with_tensor(tensor), CheckPolicy()).largest_tensor_bytes == 160_000


def test_scalars_subgraphs_functions_and_sparse_tensors_pass() -> None:
    f32 = TensorProto.FLOAT
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", f32, [], [1.0]))],
        "branch",
        [],
        [helper.make_tensor_value_info("c", f32, [])],
    )
    double = helper.make_function(
        "lab", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", f32, [1], [3.0]), helper.make_tensor("indices", TensorProto.INT64, [1], [2]), [4]
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["flag"], ["s"], then_branch=branch, else_branch=branch),
            helper.make_node("Double", ["s"], ["y"], domain="lab"),
            helper.make_node("Constant", [], ["sp"], sparse_value=sparse),
        ],
        "g",
        [
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info("seq", f32, [None, 2]),
        ],
        [helper.make_tensor_value_info("y", f32, [])],
    )
    model = helper.make_model(
        graph,
        functions=[double],
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("lab", 1)],
    )
    summary = check_network(model.SerializeToString(), CheckPolicy())
    assert summary.node_count == 6
    assert summary.domains == ("", "lab")
    assert summary.inputs == ("flag", "seq")
    assert summary.largest_tensor_bytes == 16  # the sparse tensor, laid out


def test_half_a_gigabyte_is_checked_in_a_second_without_copying_it(tmp_path: Path) -> None:
    """The file is sparse on disk: stepping over the payload touches none of its pages."""
    elements = 500 << 18
    model = relu()
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[elements])
    tensor.raw_data = b""
    plain = model.SerializeToString()
    path = tmp_path / "large.onnx"
    path.write_bytes(plain)
    _grow_raw_data(path, model, 4 * elements)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert len(data) > 500 << 20
        tracemalloc.start()
        started = time.process_time()
        summary = check_network(data, CheckPolicy())
        cpu_s = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert summary.largest_tensor_bytes == 4 * elements
    assert cpu_s < 1.0
    assert peak < 1 << 20


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _grow_raw_data(path: Path, model: onnx.ModelProto, size: int) -> None:
    """Write the model with a last tensor of `size` zero bytes, as a hole in the file."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    head = tensor.SerializeToString() + b"\x4a" + _varint(size)
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString() + b"\x2a" + _varint(len(head) + size) + head
    model.ClearField("graph")
    with path.open("wb") as file:
        file.write(model.SerializeToString() + b"\x3a" + _varint(len(graph) + size) + graph)
        file.truncate(file.tell() + size)


def test_the_buffer_is_free_again_after_a_pass_and_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "relu.onnx"
    path.write_bytes(relu().SerializeToString())
    for damage in (False, True):
        with path.open("r+b") as file:
            data = mmap.mmap(file.fileno(), 0)
            if damage:
                data[-1] = 0xFF
                with pytest.raises(NetworkRefused):
                    check_network(data, CheckPolicy())
            else:
                check_network(data, CheckPolicy())
            data.close()  # BufferError while anything still looks at it


def test_loops_pass_where_the_policy_allows_them() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go2"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("go2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]),
        ],
    )
    model = relu()
    model.graph.node.append(helper.make_node("Loop", ["", "", "x"], ["z"], body=body))
    summary = check_network(model.SerializeToString(), CheckPolicy(allow_loops=True))
    assert summary.has_loops
    assert summary == summary_by_onnx(model)
    with pytest.raises(NetworkRefused, match="loops option"):
        check_network(model.SerializeToString(), CheckPolicy())


def test_an_imported_but_unused_domain_is_no_harm() -> None:
    model = relu()
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    assert check_network(model.SerializeToString(), CheckPolicy()).domains == ("",)


def test_only_the_standard_library_is_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys; before = set(sys.modules); import agents.network_check; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["agents"]
