"""What a tensor or a declared type inside a network may be: its own bytes, in the size that its shape says."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.wire import NetworkRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agents.wire import Message, Reader

STRING = 8
#: Bits of one element, and the types of that width; a string counts as one pointer.
_TYPES_BY_BITS = {
    2: (25, 26),  # (u)int2
    4: (21, 22, 23),  # (u)int4, float4e2m1
    6: (27, 28),  # float6
    8: (2, 3, 9, 17, 18, 19, 20, 24),  # (u)int8, bool, float8
    16: (4, 5, 10, 16),  # (u)int16, float16, bfloat16
    32: (1, 6, 12),  # float, (u)int32
    64: (7, STRING, 11, 13, 14),  # (u)int64, double, complex64
    128: (15,),  # complex128
}
#: Bits of one element by TensorProto.DataType.
ELEMENT_BITS = {data_type: bits for bits, types in _TYPES_BY_BITS.items() for data_type in types}
_INT32, _INT64 = 6, 7
#: Which typed field carries a type when raw_data does not (comments of TensorProto in onnx.proto); else int32_data.
_TYPES_BY_FIELD = {
    "float_data": (1, 14),
    "int64_data": (7,),
    "string_data": (STRING,),
    "double_data": (11, 15),
    "uint64_data": (12, 13),
}
_TYPED_FIELD = {data_type: name for name, types in _TYPES_BY_FIELD.items() for data_type in types}
_TYPED_FIELDS = (*_TYPES_BY_FIELD, "int32_data")
#: Elements of the typed field per element of the tensor, times eight (packed types share one int32).
_TYPED_EIGHTHS = {14: 16, 15: 16, 21: 4, 22: 4, 23: 4, 25: 2, 26: 2}
#: More axes than any operator takes; NumPy stops at 64, TensorRT at 8.
MAX_RANK = 32
#: Integer tensors up to this long are kept, to bound what they size.
KEPT_VALUES = 64
#: Text inside a network is labels and vocabularies, not data.
MAX_TEXT_TENSOR_BYTES = 16 << 20


def clean(name: str) -> str:
    """A name out of an untrusted file, fit for one line of a log: printable ASCII, at most 64 characters."""
    if len(name) <= 64 and name.isascii() and name.isprintable() and "'" not in name:
        return f"'{name}'"
    shown = "".join(letter if letter.isascii() and letter.isprintable() and letter != "'" else "?" for letter in name)
    return f"'{shown[:61] + '...' if len(shown) > 64 else shown}'"


@dataclass(frozen=True)
class TensorFacts:
    """A tensor that passed.

    Args:
        size_bytes: in memory, dense.
        data_type: TensorProto.DataType.
        values: the elements of a short int32 or int64 tensor, else None.
    """

    size_bytes: int
    data_type: int
    values: tuple[int, ...] | None


def count_elements(dims: Sequence[int], where: str) -> int:
    """Product of the dimensions.

    Raises:
        NetworkRefused: a negative dimension, too many of them, or a product beyond 63 bits.
    """
    if len(dims) > MAX_RANK:
        raise NetworkRefused(f"{where} has {len(dims)} dimensions (at most {MAX_RANK}); reshape it")
    elements = 1
    for size in dims:
        if size < 0:
            raise NetworkRefused(f"{where} has the dimension {size}; give a size, or a name when it is dynamic")
        elements *= size
    # A zero would hide what the other dimensions say, and a runtime may multiply in another order.
    nonzero = 1
    for size in dims:
        nonzero *= size or 1
    if nonzero >> 63:
        raise NetworkRefused(f"{where} has dimensions whose product overflows 64 bits; correct its shape")
    return elements


def bounded_size(elements: int, data_type: int, max_bytes: int, where: str) -> int:
    """Bytes of so many elements.

    Raises:
        NetworkRefused: an unknown element type, or more than `max_bytes`.
    """
    bits = ELEMENT_BITS.get(data_type)
    if bits is None:
        raise NetworkRefused(
            f"{where} has the unknown element type {data_type}; export it with a type that ONNX defines"
        )
    size = (elements * bits + 7) // 8
    if size > max_bytes:
        raise NetworkRefused(
            f"{where} needs {size} bytes (the agent's limit is {max_bytes}); shrink it or raise the limit"
        )
    return size


def dims_of(message: Message, where: str) -> list[int]:
    """The `dims` of a TensorProto or SparseTensorProto."""
    dims = message.numbers.get("dims", [])
    if message.counts.get("dims", 0) != len(dims):
        raise NetworkRefused(f"{where} has {message.counts['dims']} dimensions (at most {MAX_RANK}); reshape it")
    return dims


def check_tensor(reader: Reader, tensor: Message, max_bytes: int, where: str) -> TensorFacts:
    """Check one TensorProto: no external data, and a payload that is exactly what type and shape say.

    Args:
        reader: of the file.
        tensor: the message.
        max_bytes: limit of one tensor.
        where: what to call it in a refusal.

    Raises:
        NetworkRefused: otherwise.
    """
    refuse_external_data(tensor, where)
    if tensor.has("segment"):
        raise NetworkRefused(f"{where} is one segment of a tensor; store it whole")
    reader.skim_within(tensor)
    data_type = tensor.number("data_type")
    elements = count_elements(dims_of(tensor, where), where)
    size = bounded_size(elements, data_type, max_bytes, where)
    _check_payload(tensor, elements, size, where)
    return TensorFacts(size, data_type, _short_values(reader, tensor, elements))


def refuse_external_data(tensor: Message, where: str) -> None:
    """Refuse a tensor that says its data lie elsewhere, whatever the location says: it is never looked at.

    Raises:
        NetworkRefused: `external_data` has entries, or `data_location` is not DEFAULT.
    """
    if tensor.has("external_data") or tensor.number("data_location") != 0:
        raise NetworkRefused(
            f"{where} keeps its data outside the file (external data); "
            "save the network as a single file: onnx.save(model, path, save_as_external_data=False)"
        )


def _check_payload(tensor: Message, elements: int, size: int, where: str) -> None:
    """Compare what is stored with what type and shape ask for."""
    data_type = tensor.number("data_type")
    stored = {name: _count(tensor, name) for name in _TYPED_FIELDS if _count(tensor, name)}
    raw = tensor.spans.get("raw_data")
    if raw and data_type == STRING:
        raise NetworkRefused(f"{where} is a string tensor with raw_data; store it as string_data")
    if raw and not stored:
        held, wanted, unit = raw[0][1] - raw[0][0], size, "bytes"
    else:
        name = _TYPED_FIELD.get(data_type, "int32_data")
        held, unit = stored.pop(name, 0), f"elements of {name}"
        wanted = (elements * _TYPED_EIGHTHS.get(data_type, 8) + 7) // 8
        if stored or raw:
            raise NetworkRefused(f"{where} stores its data more than once or in the wrong field; export it again")
    if held != wanted:
        raise NetworkRefused(f"{where} holds {held} {unit} where its shape asks for {wanted}; export it again")
    text = sum(stop - start for start, stop in tensor.spans.get("string_data", ()))
    if text > MAX_TEXT_TENSOR_BYTES:
        raise NetworkRefused(f"{where} holds {text} bytes of text (at most {MAX_TEXT_TENSOR_BYTES}); keep labels apart")


def _count(tensor: Message, name: str) -> int:
    return len(tensor.spans.get(name, ())) if name == "string_data" else tensor.counts.get(name, 0)


def _short_values(reader: Reader, tensor: Message, elements: int) -> tuple[int, ...] | None:
    data_type = tensor.number("data_type")
    if elements > KEPT_VALUES or data_type not in (_INT32, _INT64):
        return None
    raw = tensor.spans.get("raw_data")
    if raw and elements:
        return struct.unpack(f"<{elements}{'i' if data_type == _INT32 else 'q'}", reader.content(raw[0]))
    return tuple(tensor.numbers.get(_TYPED_FIELD.get(data_type, "int32_data"), ()))


def check_sparse(reader: Reader, sparse: Message, max_bytes: int, where: str) -> int:
    """Check one SparseTensorProto, which a runtime may lay out densely.

    Returns:
        Bytes of the dense tensor.

    Raises:
        NetworkRefused: otherwise.
    """
    parts = {}
    for name in ("values", "indices"):
        spans = sparse.spans.get(name)
        if not spans:
            raise NetworkRefused(f"{where} is a sparse tensor without {name}; export it again")
        parts[name] = check_tensor(
            reader, reader.read("TensorProto", spans[0], sparse.depth + 1), max_bytes, f"{name} of {where}"
        )
    elements = count_elements(dims_of(sparse, where), where)
    return bounded_size(elements, parts["values"].data_type, max_bytes, where)


def check_type(reader: Reader, declared: Message, max_bytes: int, where: str) -> None:
    """Check a TypeProto: a declared size within the limit; a dynamic dimension counts as one.

    Raises:
        NetworkRefused: otherwise.
    """
    below = declared.depth + 1
    for name in ("tensor_type", "sparse_tensor_type"):
        for span in declared.spans.get(name, ()):
            kind = "TypeProto.Tensor" if name == "tensor_type" else "TypeProto.SparseTensor"
            tensor = reader.read(kind, span, below)
            dims: list[int] = []
            for shape in tensor.spans.get("shape", ()):
                dims = _declared_dims(reader, reader.read("TensorShapeProto", shape, below + 1))
            elements = count_elements(dims, where)
            if tensor.number("elem_type"):  # 0: left to shape inference
                bounded_size(elements, tensor.number("elem_type"), max_bytes, where)
    if declared.has("opaque_type"):
        raise NetworkRefused(f"{where} has an opaque type; use tensors")
    for name, kind, inner in (
        ("sequence_type", "TypeProto.Sequence", "elem_type"),
        ("optional_type", "TypeProto.Optional", "elem_type"),
        ("map_type", "TypeProto.Map", "value_type"),
    ):
        for span in declared.spans.get(name, ()):
            wrapper = reader.read(kind, span, below)
            for element in wrapper.spans.get(inner, ()):
                check_type(reader, reader.read("TypeProto", element, below + 1), max_bytes, where)


def _declared_dims(reader: Reader, shape: Message) -> list[int]:
    spans = shape.spans.get("dim", ())
    dims = (reader.read("TensorShapeProto.Dimension", span, shape.depth + 1) for span in spans)
    return [dim.number("dim_value", 1) for dim in dims]
