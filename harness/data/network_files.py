"""A network on disk: one ONNX file, or one with its large tensors in data files beside it; neither read in full.

In memory a tensor that stays on disk carries external-data entries of its own: `location` is then an absolute path
that was checked here. What the file itself says is never followed unchecked.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from harness.data.wire import split_model
from harness.errors import UserError

#: Serialized protobuf messages end at 2 GB; beyond it a network needs external data files.
MAX_SINGLE_FILE_BYTES = 2**31 - 1
#: From this size on a network's large tensors stay on disk: below it, reading it whole is quicker and small enough.
LARGE_NETWORK_BYTES = 512 << 20
#: Tensors below this are always held in memory: shape inference and rules read the values of small constants.
SMALL_TENSOR_BYTES = 64 << 10

_PIECE_BYTES = 1 << 20
#: What external data needs to be found: the bytes of its key are in every file that uses it.
_LOCATION_KEY = b"location"
#: What a file that is no network makes the readers raise.
_UNREADABLE = (DecodeError, ValueError, RuntimeError)
_BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}


@dataclass(frozen=True, slots=True)
class Region:
    """Where the bytes of a tensor lie.

    Args:
        path: an absolute path.
        offset: of the first byte.
        length: in bytes.
    """

    path: Path
    offset: int
    length: int


def is_outside(tensor: TensorProto) -> bool:
    """Whether a tensor's values are in a file and not in the message."""
    return tensor.data_location == TensorProto.EXTERNAL


def refer(tensor: TensorProto, region: Region) -> None:
    """Let a tensor's values be those in a file."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in (("location", region.path), ("offset", region.offset), ("length", region.length)):
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = TensorProto.EXTERNAL


def region_of(tensor: TensorProto) -> Region:
    """Where the values of a tensor lie that is outside; only for tensors of networks read by `read_light`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Region(Path(entries["location"]), int(entries["offset"]), int(entries["length"]))


def read_light(path: Path) -> ModelProto:
    """An ONNX network whose tensors in other files, and the large ones of a large file, stay on disk.

    Every reference to a data file is checked: it exists, holds the tensor's bytes, and lies in the network's folder.

    Raises:
        UserError: no such file, not a network, or its external data is missing, cut off or outside its folder.
    """
    if not path.is_file():
        msg = f"{path}: no such network file; check the path"
        raise UserError(msg)
    try:
        model = _parsed(path)
    except _UNREADABLE as error:
        msg = f"{path}: not a readable ONNX file (truncated, or another format); export or copy it again"
        raise UserError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check its permissions"
        raise UserError(msg) from error
    if not model.graph.node and not model.graph.output:
        msg = f"{path}: holds no network (empty, or not an ONNX file); export it again"
        raise UserError(msg)
    return model


def load_structure(path: Path) -> tuple[ModelProto, dict[int, tuple[int, int]]]:
    """A network as it stands in its file, without the large tensors of a large file; data files are not looked at.

    Returns:
        the network, and index of an initializer → (first byte, length in the file) of the values it lacks.

    Raises:
        DecodeError, ValueError, RuntimeError: no network.
    """
    if path.stat().st_size < LARGE_NETWORK_BYTES:
        return onnx.load(str(path), load_external_data=False), {}
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        return split_model(data, SMALL_TENSOR_BYTES)


def _parsed(path: Path) -> ModelProto:
    model, left_out = load_structure(path)
    for tensor in tensors_of(model):
        if is_outside(tensor):
            refer(tensor, _located(path, tensor))
    for index, (offset, length) in left_out.items():
        tensor = model.graph.initializer[index]
        _check_length(path, tensor, length)
        refer(tensor, Region(path.absolute(), offset, length))
    return model


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a network: initializers, sparse ones, attributes, those of bodies and functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for entry in node.attribute:
            if entry.type == AttributeProto.TENSOR:
                yield entry.t
            elif entry.type == AttributeProto.SPARSE_TENSOR:
                yield from (entry.sparse_tensor.values, entry.sparse_tensor.indices)
            elif entry.type == AttributeProto.GRAPH:
                yield from _of_graph(entry.g)
            yield from entry.tensors
            for sparse in entry.sparse_tensors:
                yield from (sparse.values, sparse.indices)
            for body in entry.graphs:
                yield from _of_graph(body)


def tensor_bytes(tensor: TensorProto) -> int | None:
    """Bytes that a tensor's shape and type ask for; None for strings and unknown types."""
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if tensor.data_type in _BITS:
        return (count * _BITS[tensor.data_type] + 7) // 8
    if tensor.data_type in {TensorProto.STRING, TensorProto.UNDEFINED}:
        return None
    try:
        return count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
    except KeyError:
        return None


def _located(path: Path, tensor: TensorProto) -> Region:
    """The checked place of a tensor's external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    wanted = tensor_bytes(tensor)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else wanted
    except ValueError:
        offset, length = -1, None
    if not location or offset < 0 or length is None or length < 0:
        msg = f"{path}: the external data entry of tensor {tensor.name!r} is damaged; export the network again"
        raise UserError(msg)
    file = _data_file(path, tensor.name, location)
    _check_length(path, tensor, length)
    size = file.stat().st_size
    if offset + length > size:
        msg = (
            f"{path}: its external data is cut off ({location!r} ends at byte {size}, tensor {tensor.name!r} at "
            f"{offset + length}); copy the data file again"
        )
        raise UserError(msg)
    return Region(file, offset, length)


def _check_length(path: Path, tensor: TensorProto, length: int) -> None:
    wanted = tensor_bytes(tensor)
    if length != wanted:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        shape = "x".join(map(str, tensor.dims)) or "scalar"
        msg = (
            f"{path}: tensor {tensor.name!r} holds {length} bytes, {shape} {kind} is {wanted}; export the network again"
        )
        raise UserError(msg)


def _data_file(path: Path, tensor: str, location: str) -> Path:
    """The data file of that name beside a network.

    A network may come from anywhere: it must not make us read (and ship to a board) files outside its folder. Links
    may lead to where the network file itself is linked to, as download caches do.
    """
    windows = PureWindowsPath(location)
    beside = not (PurePosixPath(location).is_absolute() or windows.drive or windows.root or ".." in windows.parts)
    file = (path.parent / location).absolute()
    if beside and file.exists():
        real = file.resolve()
        beside = any(real.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent))
    if not beside:
        msg = (
            f"{path}: tensor {tensor!r} keeps its data at {location!r}, outside the network's folder; "
            "refused: export the network with its data file beside it"
        )
        raise UserError(msg)
    if not file.is_file():
        msg = f"{path}: its external data cannot be read (no file {location!r}); copy the data file beside the network"
        raise UserError(msg)
    return file


def network_digest(path: Path) -> str:
    """Hex sha256 of a network: of its file, or of its file and its data files where it has any.

    Raises:
        UserError: it cannot be read, or its external data cannot.
    """
    try:
        plain, mentions = _file_digest(path)
        if not mentions:
            return plain
        files = _data_files(_parsed(path), path)
        if not files:
            return plain
        whole = hashlib.sha256(bytes.fromhex(plain))
        for file in sorted(files):
            # Their names stand in the network's own file, which is part of the digest.
            whole.update(bytes.fromhex(_file_digest(file)[0]))
    except _UNREADABLE:
        return plain  # no network: whoever reads it says so
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        raise UserError(msg) from error
    return whole.hexdigest()


def data_files(path: Path) -> set[Path]:
    """The data files of a network: none for a single file.

    Raises:
        UserError: it is no network, or its external data is missing, cut off or outside its folder.
    """
    return _data_files(read_light(path), path)


def _data_files(model: ModelProto, path: Path) -> set[Path]:
    return {region_of(tensor).path for tensor in tensors_of(model) if is_outside(tensor)} - {path.absolute()}


def _file_digest(path: Path) -> tuple[str, bool]:
    """(sha256, whether the file may refer to external data)."""
    stat = path.stat()
    if stat.st_size < LARGE_NETWORK_BYTES // 8:
        return _hashed(path)
    # Gigabytes are not hashed again while nothing about the file has changed.
    return _hashed_once(path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _hashed(path: Path) -> tuple[str, bool]:
    digest = hashlib.sha256()
    mentions, before = False, b""
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            mentions = mentions or _LOCATION_KEY in piece or _LOCATION_KEY in before + piece[: len(_LOCATION_KEY)]
            before = piece[-len(_LOCATION_KEY) :]
    return digest.hexdigest(), mentions


@lru_cache(maxsize=64)
def _hashed_once(path: Path, _inode: int, _size: int, _modified_ns: int, _changed_ns: int) -> tuple[str, bool]:
    return _hashed(path)
