"""Tensors of large networks: they stay in files, are mapped when looked at, and go to a scratch folder when new.

A `ModelProto` holds references to them (`harness.data.network_files`), so copying a network of any size is cheap.
"""

from __future__ import annotations

import atexit
import hashlib
import mmap
import shutil
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from harness.data import network_files
from harness.data.network_files import Region, is_outside, refer, region_of, tensor_bytes, tensors_of
from harness.errors import UserError

#: Pages of tensors looked at earlier are given back beyond this: resident memory stays flat however large the file.
RESIDENT_BYTES = 256 << 20

#: Types that numpy and ONNX Runtime both map as they lie in the file; tensors of other types are held in memory.
_MAPPABLE = frozenset(
    {
        *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL),
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    }
)


def settle(model: ModelProto, what: str) -> ModelProto:
    """Decide which tensors of a network stay in files: the large initializers of a large network; load the others.

    Args:
        model: as `read_light` gives it; changed in place.
        what: how to call it in an error.

    Raises:
        UserError: a data file cannot be read, or what has to be in memory is more than a protobuf message holds.
    """
    outside = [tensor for tensor in tensors_of(model) if is_outside(tensor)]
    if not outside:
        return model
    inside = sum(tensor_bytes(tensor) or 0 for tensor in tensors_of(model) if not is_outside(tensor))
    total = inside + sum(region_of(tensor).length for tensor in outside)
    initializers = {id(tensor): tensor for tensor in model.graph.initializer}
    for tensor in outside:
        region = region_of(tensor)
        stays = id(tensor) in initializers and tensor.data_type in _MAPPABLE
        if total >= network_files.LARGE_NETWORK_BYTES and region.length >= network_files.SMALL_TENSOR_BYTES and stays:
            continue
        inside += region.length
        if inside > network_files.MAX_SINGLE_FILE_BYTES:
            msg = f"{what}: more than 2 GB of it are no weights of common types; split it before quantizing"
            raise UserError(msg)
        _load(tensor, region, what)
    return model


def _load(tensor: TensorProto, region: Region, what: str) -> None:
    try:
        with region.path.open("rb") as file:
            file.seek(region.offset)
            content = file.read(region.length)
    except OSError as error:
        msg = f"{what}: its external data cannot be read ({error.strerror}); copy the data file beside the network"
        raise UserError(msg) from error
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = content


def is_light(model: ModelProto) -> bool:
    """Whether tensors of this network stay in files."""
    return any(is_outside(tensor) for tensor in model.graph.initializer)


def values(tensor: TensorProto) -> NDArray[Any]:
    """A tensor's values; read-only and mapped from its file where it is outside."""
    if not is_outside(tensor):
        return numpy_helper.to_array(tensor)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    region = region_of(tensor)
    if not region.length:
        return np.zeros(tuple(tensor.dims), dtype)
    mapped = _residency.touch(region)
    count = region.length // dtype.itemsize
    return np.frombuffer(mapped, dtype, count, region.offset).reshape(tuple(tensor.dims))


class _Residency:
    """One mapping per file, and which parts of them were looked at last."""

    def __init__(self) -> None:
        self._maps: WeakValueDictionary[tuple[Path, int, int, int], mmap.mmap] = WeakValueDictionary()
        self._recent: OrderedDict[Region, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()

    def touch(self, region: Region) -> mmap.mmap:
        """The mapping of a region's file; the least recently touched pages are given back."""
        with self._lock:
            mapped = self._map(region)
            self._recent[region] = mapped
            self._recent.move_to_end(region)
            total = sum(seen.length for seen in self._recent)
            while total > RESIDENT_BYTES and len(self._recent) > 1:
                oldest, its_map = self._recent.popitem(last=False)
                total -= oldest.length
                _give_back(its_map, oldest)
            return mapped

    def forget(self, folder: Path) -> None:
        """Let go of the files in a folder that is about to be removed."""
        with self._lock:
            for region in [region for region in self._recent if region.path.parent == folder]:
                del self._recent[region]

    def _map(self, region: Region) -> mmap.mmap:
        try:
            with region.path.open("rb") as file:
                stat = region.path.stat()
                key = (region.path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
                mapped = self._maps.get(key)
                if mapped is None and region.offset + region.length <= stat.st_size:
                    mapped = self._maps[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            msg = f"{region.path}: cannot be read ({error.strerror}); restore the data file"
            raise UserError(msg) from error
        if mapped is None:
            msg = f"{region.path}: was cut off while in use; restore the data file"
            raise UserError(msg)
        return mapped


def _give_back(mapped: mmap.mmap, region: Region) -> None:
    """Drop a region's pages from this process; a later look at it reads them again."""
    if sys.platform == "win32":
        return  # the system trims them itself
    start = region.offset - region.offset % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, start, region.offset + region.length - start)


_residency = _Residency()


class _Scratch:
    """A folder of new tensors, made when the first one comes."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._known: dict[bytes, Region] = {}
        self._lock = threading.Lock()

    def add(self, value: NDArray[Any]) -> Region:
        """Write a tensor's bytes once: the candidates of a network share most of their weights."""
        content = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
        digest = hashlib.sha256(content.reshape(-1).view(np.uint8).data).digest()
        with self._lock:
            if digest not in self._known:
                self._known[digest] = self._write(content)
            return self._known[digest]

    def _write(self, content: NDArray[Any]) -> Region:
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="quantrig-"))
            path = self._folder / f"{len(self._known)}.bin"
            with path.open("wb") as file:
                content.tofile(file)
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            msg = f"{where}: no room for a large network's tensors ({error.strerror}); set TMPDIR to a larger disk"
            raise UserError(msg) from error
        return Region(path, 0, content.nbytes)

    def remove(self) -> None:
        """Delete everything."""
        with self._lock:
            if self._folder is not None:
                _residency.forget(self._folder)
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
                self._known.clear()


#: For networks worked on outside any `scratch()`; removed when the process ends.
_LASTING = _Scratch()
atexit.register(_LASTING.remove)
_current: ContextVar[_Scratch] = ContextVar("_current", default=_LASTING)


@contextmanager
def scratch() -> Iterator[None]:
    """A place for new tensors of large networks, gone at the end together with them."""
    place = _Scratch()
    token = _current.set(place)
    try:
        yield
    finally:
        _current.reset(token)
        place.remove()


def stored(value: NDArray[Any], name: str, *, outside: bool) -> TensorProto:
    """An array as a tensor.

    Args:
        value: any type that ONNX has.
        name: of the tensor.
        outside: it belongs to a network whose large tensors stay in files.
    """
    if outside and value.nbytes >= network_files.SMALL_TENSOR_BYTES:
        data_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        if data_type in _MAPPABLE:
            tensor = TensorProto(name=name, data_type=data_type, dims=value.shape)
            refer(tensor, _current.get().add(value))
            return tensor
    return numpy_helper.from_array(np.asarray(value, order="C"), name)
