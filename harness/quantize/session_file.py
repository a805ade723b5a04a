"""A quantizer session on disk: one zip of JSON, arrays and small networks, nothing executable in it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.session_content import VERSION, Arrays, SessionFile, restored, stored

Which = Literal["float", "int8"]

#: Networks up to this size travel in the session.
MAX_NETWORK_BYTES = 64 << 20
#: What a session may hold: more than any that was saved, and little enough that a crafted file does no harm.
_MAX_JSON_BYTES = 256 << 20
_MAX_ARRAY_BYTES = 2 << 30
_JSON, _ARRAYS = "session.json", "arrays/"
_NETWORKS: Mapping[Which, str] = {"float": "networks/float.onnx", "int8": "networks/int8.onnx"}
#: All that the readers raise for what is no session: whatever bytes a file holds, its reader sees one line.
_UNREADABLE = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    SyntaxError,  # of the header of an array, which numpy reads as a literal of Python's
    tokenize.TokenError,
    RuntimeError,  # encrypted, or packed in a way that Python does not know
)


class StoredSession(NamedTuple):
    """What a session file holds.

    Args:
        content: its JSON part.
        calibration: None before `calibrate`.
        networks: "float" and "int8" → bytes, those that travel with it.
    """

    content: SessionFile
    calibration: Calibration | None
    networks: Mapping[Which, bytes]


def save_session(
    path: Path,
    model: Path,
    digest: str,
    environment: str,
    calibration: Calibration | None,
    *,
    networks: Mapping[Which, bytes] | None = None,
    **results: Any,  # noqa: ANN401 (fields of SessionFile)
) -> None:
    """Write a session whole or not at all.

    Args:
        path: the file.
        model, digest, environment: of the float network.
        calibration: in full.
        networks: those that travel along (`embeddable`).
        results: state, quantized, mixed, ranking, options.

    Raises:
        UserError: the place cannot be written, or the calibration is larger than a session may be.
    """
    arrays: Arrays = {}
    content = SessionFile(
        version=VERSION,
        model=str(model),
        digest=digest,
        environment=environment,
        calibration=None if calibration is None else stored(calibration, arrays),
        **results,
    )
    if sum(value.nbytes for value in arrays.values()) > _MAX_ARRAY_BYTES:
        msg = f"{path}: the calibration takes more than 2 GB (its samples are large); save one of smaller samples"
        raise UserError(msg)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_JSON, content.model_dump_json())
            for name, value in arrays.items():
                with archive.open(f"{_ARRAYS}{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, allow_pickle=False)
            for which, data in (networks or {}).items():
                # Weights are as good as noise: packing them takes time and saves little.
                archive.writestr(_NETWORKS[which], data, zipfile.ZIP_STORED)
        os.replace(temporary, path)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); choose another place"
        raise UserError(msg) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def embeddable(path: Path, digest: str) -> bytes | None:
    """A network to travel in a session: a single file of at most 64 MiB whose digest is still that; else None."""
    try:
        if path.stat().st_size > MAX_NETWORK_BYTES:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    # That of a network with data files covers them, and is not its file's.
    return data if hashlib.sha256(data).hexdigest() == digest else None


def load_session(path: Path) -> StoredSession:
    """Read a session.

    Raises:
        UserError: no such file, not a session, or one of a later version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            read = json.loads(_limited(archive, _JSON, _MAX_JSON_BYTES))
            version = int(read["version"])
            if version > VERSION:
                msg = (
                    f"{path}: written by a later version (format {version}, this one reads {VERSION}); update quantrig"
                )
                raise UserError(msg)
            content = SessionFile.model_validate_json(_limited(archive, _JSON, _MAX_JSON_BYTES))
            arrays = dict(_arrays_of(archive) if version > 1 else _nested_arrays(archive))
            calibration = None if content.calibration is None else restored(content.calibration, arrays)
            return StoredSession(content, calibration, _networks(archive, content))
    except FileNotFoundError as error:
        msg = f"{path}: no such session; check the path"
        raise UserError(msg) from error
    except _UNREADABLE as error:
        msg = f"{path}: not a quantizer session, or damaged; save it again"
        raise UserError(msg) from error


def _limited(archive: zipfile.ZipFile, name: str, at_most: int) -> bytes:
    # Python's reader stops at the size that the entry declares.
    if archive.getinfo(name).file_size > at_most:
        msg = f"{name} is too large"
        raise ValueError(msg)
    return archive.read(name)


def _arrays_of(archive: zipfile.ZipFile, prefix: str = _ARRAYS) -> Iterator[tuple[str, NDArray[Any]]]:
    entries = [entry for entry in archive.infolist() if entry.filename.startswith(prefix)]
    if sum(entry.file_size for entry in entries) > _MAX_ARRAY_BYTES:
        msg = "arrays are too large"
        raise ValueError(msg)
    for entry in entries:
        with archive.open(entry) as file:
            yield entry.filename.removeprefix(prefix).removesuffix(".npy"), _array(file, entry.file_size)


def _nested_arrays(archive: zipfile.ZipFile) -> Iterator[tuple[str, NDArray[Any]]]:
    """Those of the first format, which nested a file of numpy's in the zip."""
    with zipfile.ZipFile(BytesIO(_limited(archive, "arrays.npz", _MAX_ARRAY_BYTES))) as nested:
        yield from _arrays_of(nested, prefix="")


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """One array in numpy's format; never objects, and never larger than its entry."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    # Python's own integers: a shape whose product overflows must not look small.
    count = 1
    for length in shape:
        count *= int(length)
    if dtype.hasobject or count < 0 or count * dtype.itemsize > size:
        msg = "not an array of numbers"
        raise ValueError(msg)
    data = file.read()
    if len(data) != count * dtype.itemsize:
        msg = "cut off"
        raise ValueError(msg)
    value = np.frombuffer(bytearray(data), dtype=dtype)
    return value.reshape(shape, order="F" if fortran else "C")


def _networks(archive: zipfile.ZipFile, content: SessionFile) -> dict[Which, bytes]:
    digests: dict[Which, str | None] = {
        "float": content.digest,
        "int8": None if content.quantized is None else content.quantized.digest,
    }
    found: dict[Which, bytes] = {}
    names = set(archive.namelist())
    for which, name in _NETWORKS.items():
        if name in names:
            found[which] = _limited(archive, name, MAX_NETWORK_BYTES)
            if hashlib.sha256(found[which]).hexdigest() != digests[which]:
                msg = f"{name} is not the network that the session is about"
                raise ValueError(msg)
    return found
