"""The check every network passes before any runtime sees it (docs/security.md).

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        summary = check_network(data, CheckPolicy(max_tensor_bytes=256 << 20))

The walk goes over the bytes with tables of our own, not through a protobuf library or the `onnx` package: both have
had holes in exactly this place, and a runtime of an older board has them still. Nothing is opened, resolved or
copied; a tensor's payload is stepped over, so the time depends on the number of nodes and not on the megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from agents.onnx_fields import MESSAGES
from agents.operator_rules import (
    SIZED_OPERATORS,
    Body,
    FunctionId,
    Scope,
    Sizing,
    check_calls,
    check_function_name,
    check_operator,
    check_sizes,
    is_function_call,
)
from agents.tensor_check import (
    TensorFacts,
    bounded_size,
    check_sparse,
    check_tensor,
    check_type,
    clean,
    count_elements,
)
from agents.wire import Message, NetworkRefused, Reader

if TYPE_CHECKING:
    import mmap

__all__ = ["CheckPolicy", "NetworkRefused", "NetworkSummary", "check_network"]

#: A protobuf message cannot be larger (a signed 32-bit length).
MAX_FILE_BYTES = 2**31 - 1
#: Fields a check reads before it gives up: fifty for each of 100,000 nodes (a convolution with its two tensors, its
#: attributes and its declared output has 45), some ten seconds of time.
MAX_FIELDS = 5_000_000
#: AttributeProto.AttributeType: UNDEFINED (before IR version 2) to TYPE_PROTOS.
_ATTRIBUTE_TYPES = range(15)
_FLOAT = 1
_BYTE = 2
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: What else is sent by mistake or on purpose: offset, bytes and its name.
_OTHER_FORMATS = (
    (0, b"\x7fELF", "a native library or program"),
    (0, b"MZ", "a native library or program"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"ftrt", "a compiled TensorRT engine"),
    (0, b"ptrt", "a compiled TensorRT engine"),
    (0, b"xclbin2", "an FPGA bitstream"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    # ONNX Runtime takes any bytes with this mark for its own format and never reads them as ONNX, even where they
    # are a valid ModelProto whose producer_name happens to lie there.
    (4, b"ORTM", "an ONNX Runtime (.ort) model"),
)


@dataclass(frozen=True)
class CheckPolicy:
    """What an agent lets through.

    Args:
        allow_loops: whether Loop, Scan and SequenceMap may be used.
        max_tensor_bytes: of one initializer, attribute, declared input, output or intermediate value.
        max_total_bytes: of all stored tensors together, laid out densely.
        max_nodes: of the graph, its subgraphs and its functions, the latter also counted as inlined.
        max_depth: messages within messages; one `If` within another costs three. Protobuf's own limit is 100.
    """

    allow_loops: bool = False
    max_tensor_bytes: int = 1 << 30
    max_total_bytes: int = 2 << 30
    max_nodes: int = 100_000
    max_depth: int = 64


@dataclass(frozen=True)
class NetworkSummary:
    """What the walk saw of a network that passed.

    Args:
        ir_version: of the file.
        opsets: (domain, version) as imported, in the file's order.
        domains: domains of the operators that are used, sorted; "" is ONNX's own.
        node_count: nodes of the graph, its subgraphs and its functions.
        inputs: names a caller feeds: graph inputs without an initializer.
        outputs: names of the graph's outputs.
        largest_tensor_bytes: of the tensors stored in the file.
        total_tensor_bytes: of all of them.
        has_loops: whether Loop, Scan or SequenceMap occur.
        quantized: whether an operator quantizes or dequantizes.
    """

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    domains: tuple[str, ...]
    node_count: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    largest_tensor_bytes: int
    total_tensor_bytes: int
    has_loops: bool
    quantized: bool = False


def check_network(data: memoryview | mmap.mmap | bytes, policy: CheckPolicy) -> NetworkSummary:
    """Walk a whole ONNX file and refuse what a board must not be given.

    Args:
        data: the file; kept open by the caller, never copied, free again when this returns.
        policy: limits of this agent.

    Raises:
        NetworkRefused: with one line that names the thing and the remedy.
    """
    with memoryview(data) as whole, whole.cast("B") as view:
        _check_format(view)
        return _Walk(Reader(view, MESSAGES, max_depth=policy.max_depth, max_fields=MAX_FIELDS), policy).model(len(view))


def _check_format(view: memoryview) -> None:
    remedy = "send a single-file ONNX network; the board compiles it itself"
    if len(view) == 0:
        raise NetworkRefused(f"the file is empty; {remedy}")
    if len(view) > MAX_FILE_BYTES:
        raise NetworkRefused(f"the file has {len(view)} bytes and an ONNX file at most {MAX_FILE_BYTES}; {remedy}")
    for offset, mark, name in _OTHER_FORMATS:
        if bytes(view[offset : offset + len(mark)]) == mark:
            raise NetworkRefused(f"not an ONNX network but {name}; {remedy}")


@dataclass
class _Seen:
    """What the walk has met so far."""

    domains: set[str] = field(default_factory=set)
    nodes: int = 0
    largest_tensor_bytes: int = 0
    total_tensor_bytes: int = 0
    has_loops: bool = False
    quantized: bool = False
    scopes: list[Scope] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where in the network a node lies: the names it sees and the body it counts for."""

    scope: Scope
    body: Body


@dataclass(frozen=True)
class _AttributeFacts:
    """What a node's attribute holds, as far as sizes need it."""

    name: str
    tensor: TensorFacts | None
    ints: tuple[int, ...]


class _Walk:
    """One pass over one file."""

    def __init__(self, reader: Reader, policy: CheckPolicy) -> None:
        self._reader = reader
        self._policy = policy
        self._seen = _Seen()

    def model(self, size_bytes: int) -> NetworkSummary:
        """Check the file from its first byte to its last."""
        model = self._reader.read("ModelProto", (0, size_bytes), 0)
        for name in ("graph", "ir_version", "opset_import"):
            if not model.has(name):
                raise NetworkRefused(f"not an ONNX network: it has no {name}; export it again")
        if model.has("training_info"):
            raise NetworkRefused("the network carries training_info; export it for inference")
        opsets = self._opsets(model)
        main, functions = Body(), self._functions(model)
        graph = self._reader.read("GraphProto", model.spans["graph"][0], 1)
        inputs, outputs = self._graph(graph, _Place(self._new_scope(None), main))
        check_calls(main, functions, self._policy.max_nodes)
        for scope in self._seen.scopes:
            check_sizes(scope, self._policy.max_tensor_bytes)
        self._reader.skim_within(model, but=frozenset({"graph", "functions", "opset_import"}))
        seen = self._seen
        return NetworkSummary(
            ir_version=model.number("ir_version"),
            opsets=opsets,
            domains=tuple(sorted(seen.domains)),
            node_count=seen.nodes,
            inputs=inputs,
            outputs=outputs,
            largest_tensor_bytes=seen.largest_tensor_bytes,
            total_tensor_bytes=seen.total_tensor_bytes,
            has_loops=seen.has_loops,
            quantized=seen.quantized,
        )

    def _new_scope(self, parent: Scope | None) -> Scope:
        scope = Scope(parent)
        self._seen.scopes.append(scope)
        return scope

    def _children(self, message: Message, name: str, kind: str) -> list[Message]:
        return [self._reader.read(kind, span, message.depth + 1) for span in message.spans.get(name, ())]

    def _opsets(self, message: Message) -> tuple[tuple[str, int], ...]:
        imports = self._children(message, "opset_import", "OperatorSetIdProto")
        return tuple((entry.text("domain"), entry.number("version")) for entry in imports)

    def _functions(self, model: Message) -> dict[FunctionId, Body]:
        bodies: dict[FunctionId, Body] = {}
        for span in model.spans.get("functions", ()):
            function = self._reader.read("FunctionProto", span, 1)
            key = (function.text("domain"), function.text("name"), function.text("overload"))
            check_function_name(key)
            if key in bodies:
                raise NetworkRefused(f"function {clean(key[1])} is defined twice; keep one")
            place = _Place(self._new_scope(None), Body())
            self._nodes(function, place)
            for attribute in self._children(function, "attribute_proto", "AttributeProto"):
                self._attribute(attribute, place, f"function {clean(key[1])}")
            self._values(function, "value_info")
            self._reader.skim_within(function, but=frozenset({"node", "attribute_proto", "value_info"}))
            bodies[key] = place.body
        return bodies

    def _graph(self, graph: Message, place: _Place) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Check a graph and return the names of its free inputs and of its outputs."""
        stored = set()
        for tensor in self._children(graph, "initializer", "TensorProto"):
            name = tensor.text("name")
            stored.add(name)
            facts = self._tensor(tensor, f"initializer {clean(name)}")
            if facts.values is not None:
                place.scope.constants[name] = facts.values
        for sparse in self._children(graph, "sparse_initializer", "SparseTensorProto"):
            self._sparse(sparse, "a sparse initializer")
        self._nodes(graph, place)
        inputs, outputs = self._values(graph, "input"), self._values(graph, "output")
        self._values(graph, "value_info")
        walked = {"node", "initializer", "sparse_initializer", "input", "output", "value_info"}
        self._reader.skim_within(graph, but=frozenset(walked))
        return tuple(name for name in inputs if name not in stored), outputs

    def _nodes(self, message: Message, place: _Place) -> None:
        for span in message.spans.get("node", ()):
            self._seen.nodes += 1
            place.body.nodes += 1
            if self._seen.nodes > self._policy.max_nodes:
                raise NetworkRefused(f"the network has more than {self._policy.max_nodes} nodes; simplify it")
            self._node(self._reader.read("NodeProto", span, message.depth + 1), place)

    def _node(self, node: Message, place: _Place) -> None:
        domain, operator = node.text("domain"), node.text("op_type")
        domain = "" if domain == "ai.onnx" else domain
        where = f"node {clean(node.text('name'))} ({clean(domain + '.' + operator if domain else operator)})"
        called = (domain, operator, node.text("overload"))
        looping = check_operator(called, where, allow_loops=self._policy.allow_loops)
        self._seen.has_loops = self._seen.has_loops or looping
        self._seen.domains.add(domain)
        self._seen.quantized = self._seen.quantized or operator in _QUANTIZING
        if is_function_call(domain):
            place.body.calls[called] = place.body.calls.get(called, 0) + 1
        attributes = [
            self._attribute(attribute, place, where)
            for attribute in self._children(node, "attribute", "AttributeProto")
        ]
        self._reader.skim_within(node, but=frozenset({"attribute"}))
        if domain == "":
            self._note_sizes(node, attributes, place, where)

    def _note_sizes(self, node: Message, attributes: list[_AttributeFacts], place: _Place, where: str) -> None:
        """Keep short constants and the nodes they size; judge shapes that are attributes at once."""
        operator, outputs = node.text("op_type"), node.texts.get("output", [])
        value = next((a.tensor for a in attributes if a.name == "value" and a.tensor is not None), None)
        if operator == "Constant" and outputs:
            ints = next((a.ints for a in attributes if a.name in ("value_ints", "value_int")), None)
            constant = value.values if value is not None else ints
            if constant is not None:
                place.scope.constants[outputs[0]] = constant
        elif operator in ("RandomNormal", "RandomUniform"):
            for attribute in attributes:
                if attribute.name == "shape":
                    elements = count_elements(attribute.ints, f"the shape of {where}")
                    bounded_size(elements, _FLOAT, self._policy.max_tensor_bytes, f"the output of {where}")
        elif operator in SIZED_OPERATORS:
            # ConstantOfShape without a value is float; elsewhere the type is not known here, and the least is assumed.
            plain = _FLOAT if operator == "ConstantOfShape" else _BYTE
            data_type = value.data_type if value is not None and operator == "ConstantOfShape" else plain
            place.scope.sizings.append(Sizing(operator, tuple(node.texts.get("input", ())), data_type, where))

    def _attribute(self, attribute: Message, place: _Place, where: str) -> _AttributeFacts:
        name = attribute.text("name")
        what = f"attribute {clean(name)} of {where}"
        if attribute.number("type") not in _ATTRIBUTE_TYPES:
            raise NetworkRefused(f"{what} has the unknown type {attribute.number('type')}; export the network again")
        tensors = [self._tensor(t, what) for t in self._children(attribute, "t", "TensorProto")]
        for tensor in self._children(attribute, "tensors", "TensorProto"):
            self._tensor(tensor, what)
        for kind in ("sparse_tensor", "sparse_tensors"):
            for sparse in self._children(attribute, kind, "SparseTensorProto"):
                self._sparse(sparse, what)
        for kind in ("g", "graphs"):
            for graph in self._children(attribute, kind, "GraphProto"):
                self._graph(graph, _Place(self._new_scope(place.scope), place.body))
        for kind in ("tp", "type_protos"):
            for declared in self._children(attribute, kind, "TypeProto"):
                check_type(self._reader, declared, self._policy.max_tensor_bytes, what)
        ints = attribute.numbers.get("ints", attribute.numbers.get("i", []))
        return _AttributeFacts(name, tensors[0] if tensors else None, tuple(ints))

    def _tensor(self, tensor: Message, where: str) -> TensorFacts:
        facts = check_tensor(self._reader, tensor, self._policy.max_tensor_bytes, where)
        self._add_bytes(facts.size_bytes)
        return facts

    def _sparse(self, sparse: Message, where: str) -> None:
        self._add_bytes(check_sparse(self._reader, sparse, self._policy.max_tensor_bytes, where))

    def _add_bytes(self, size: int) -> None:
        self._seen.largest_tensor_bytes = max(self._seen.largest_tensor_bytes, size)
        self._seen.total_tensor_bytes += size
        if self._seen.total_tensor_bytes > self._policy.max_total_bytes:
            self._refuse_total()

    def _refuse_total(self) -> NoReturn:
        raise NetworkRefused(
            f"the network's tensors need more than {self._policy.max_total_bytes} bytes together (the agent's limit); "
            "shrink it or raise the limit"
        )

    def _values(self, message: Message, name: str) -> tuple[str, ...]:
        """Check the declared types of a list of values and return their names."""
        names = []
        for value in self._children(message, name, "ValueInfoProto"):
            label = value.text("name")
            names.append(label)
            for declared in self._children(value, "type", "TypeProto"):
                check_type(self._reader, declared, self._policy.max_tensor_bytes, f"{name} {clean(label)}")
            self._reader.skim_within(value, but=frozenset({"type"}))
        return tuple(names)
