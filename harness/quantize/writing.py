"""Writing a network whole or not at all: as a single file up to 2 GB, beyond it with a data file beside it.

Tensors that lie in other files are copied from there in pieces, so writing takes no memory to speak of.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto

from harness.data import network_files
from harness.data.network_files import Region, is_outside, refer, region_of
from harness.data.wire import GRAPH_OF_MODEL, INITIALIZER_OF_GRAPH, RAW_DATA_OF_TENSOR, around, header
from harness.errors import UserError
from harness.quantize import external

_PIECE_BYTES = 1 << 20
#: A page: readers map the data file, and mappings begin at pages.
_ALIGNMENT = 4096


def single_file_bytes(model: ModelProto) -> int:
    """About how large a network is as a single file (within a few bytes a tensor, never less)."""
    outside = sum(region_of(tensor).length for tensor in model.graph.initializer if is_outside(tensor))
    return int(model.ByteSize()) + outside


def fits_single_file(model: ModelProto) -> bool:
    """Whether a network can be a single file, as agents take it."""
    return single_file_bytes(model) <= network_files.MAX_SINGLE_FILE_BYTES


def data_file_of(out: Path) -> Path:
    """Where `write_model` puts the tensors of a network that is no single file."""
    return out.with_name(f"{out.name}.data")


def check_target(out: Path, source: Path) -> None:
    """Refuse to write over a network that is being read, or over its data.

    Raises:
        UserError: `out`, or the data file that may come with it, belongs to `source`.
    """
    read = {source.resolve(), *(file.resolve() for file in network_files.data_files(source))}
    for file in (out, data_file_of(out)):
        if file.resolve() in read:
            whose = "the float network" if file.resolve() == source.resolve() else "the float network's data"
            msg = f"{file}: would overwrite {whose}; choose another output file"
            raise UserError(msg)


def write_model(model: ModelProto, out: Path) -> None:
    """Write a network whole or not at all: an interrupted write leaves the old file, or none.

    Above 2 GB the large tensors go to `data_file_of(out)`.

    Raises:
        UserError: the place cannot be written, or a data file has changed while in use.
    """
    if fits_single_file(model):
        with _replaced(out) as stream:
            for piece in _pieces(model):
                stream.write(piece)
        return
    if not any(is_outside(tensor) for tensor in model.graph.initializer):
        msg = f"{out}: the network is above the 2 GB of a single ONNX file; give it with external data"
        raise UserError(msg)
    data_file = data_file_of(out)
    light = ModelProto()
    light.CopyFrom(model)
    with _replaced(data_file) as stream:
        for tensor in light.graph.initializer:
            if is_outside(tensor):
                _append(tensor, stream, data_file)
        # From here on the old network's data are gone: better no network than one with another's weights.
        out.unlink(missing_ok=True)
    with _replaced(out) as stream:
        stream.write(light.SerializeToString(deterministic=True))


def as_single_file(path: Path, out: Path) -> Path:
    """The path of a network as a single file, as agents take it.

    Args:
        path: any network.
        out: where the single file is written, when the network has data files.

    Raises:
        UserError: the network is above 2 GB.
    """
    if not network_files.data_files(path):
        return path
    model = external.settle(network_files.read_light(path), str(path))
    if not fits_single_file(model):
        size = single_file_bytes(model) / 1e9
        msg = (
            f"{path}: {size:.1f} GB cannot travel to an agent (single files end at 2 GB); "
            "quantize and validate it on this machine: `quantrig quantize`"
        )
        raise UserError(msg)
    write_model(model, out)
    return out


def _append(tensor: TensorProto, stream: BinaryIO, data_file: Path) -> None:
    region = region_of(tensor)
    stream.write(bytes(-stream.tell() % _ALIGNMENT))
    offset = stream.tell()
    for piece in _content(region):
        stream.write(piece)
    refer(tensor, Region(Path(data_file.name), offset, region.length))


def _pieces(model: ModelProto) -> Iterator[bytes]:
    """The serialized network; what `SerializeToString` gives, with the tensors that lie in files in their place."""
    if not any(is_outside(tensor) for tensor in model.graph.initializer):
        yield model.SerializeToString(deterministic=True)
        return
    before_graph, after_graph = around(model, GRAPH_OF_MODEL)
    before, after = around(model.graph, INITIALIZER_OF_GRAPH)
    tensors = [_parts(tensor) for tensor in model.graph.initializer]
    sizes = [len(head) + len(tail) + (region.length if region else 0) for head, region, tail in tensors]
    headers = [header(INITIALIZER_OF_GRAPH, size) for size in sizes]
    length = len(before) + sum(map(len, headers)) + sum(sizes) + len(after)
    yield before_graph + header(GRAPH_OF_MODEL, length) + before
    for start, (head, region, tail) in zip(headers, tensors, strict=True):
        yield start + head
        if region is not None:
            yield from _content(region)
        yield tail
    yield after + after_graph


def _parts(tensor: TensorProto) -> tuple[bytes, Region | None, bytes]:
    """(what stands before the data, where the data lie, what stands behind them)."""
    if not is_outside(tensor):
        return tensor.SerializeToString(deterministic=True), None, b""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("external_data")
    copy.ClearField("data_location")
    region = region_of(tensor)
    head, tail = around(copy, RAW_DATA_OF_TENSOR)
    return head + header(RAW_DATA_OF_TENSOR, region.length), region, tail


def _content(region: Region) -> Iterator[bytes]:
    left = region.length
    with region.path.open("rb") as file:
        file.seek(region.offset)
        while left:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                msg = f"{region.path}: was cut off while in use; restore the data file"
                raise UserError(msg)
            left -= len(piece)
            yield piece


@contextmanager
def _replaced(out: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file `out` once all of it is written."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    except OSError as error:
        msg = f"{out}: cannot be written ({error.strerror}); choose another place"
        raise UserError(msg) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(temporary).chmod(0o644)
        os.replace(temporary, out)
    except OSError as error:
        msg = f"{out}: cannot be written ({error.strerror}); free some space or choose another place"
        raise UserError(msg) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
