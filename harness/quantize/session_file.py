"""A quantizer session on disk: one zip of JSON and arrays, nothing executable in it."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.histogram import Histogram, MsbHistogram
from harness.quantize.observe import SUM_CLASSES, ChannelSums, TensorStats
from harness.quantize.placement import Layers

#: Raised when a field changes its meaning.
VERSION = 1

#: dtype and shape of an array are part of the .npy format; counts are stored as they are.
Arrays = dict[str, NDArray[Any]]


class _Tensor(BaseModel):
    # The range of a tensor that was never seen is infinite.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    name: str
    low: float
    high: float
    count: int
    exponent: int | None = None
    zeros: int = 0
    histograms: bool = False


class _Sums(BaseModel):
    """Channel sums of one tensor; of the classes only those that hold something are stored."""

    model_config = ConfigDict(extra="forbid")

    name: str
    count: int
    classes: list[int]


class _Calibration(BaseModel):
    model_config = ConfigDict(extra="forbid")

    digest: str
    environment: str
    layers: Layers
    samples: int
    tensors: list[_Tensor]
    means: list[str]
    kept: list[list[str]]
    rows: list[tuple[str, str, str, float, float]]
    kept_at: list[int] = []
    sums: list[_Sums] = []


class SessionFile(BaseModel):
    """The JSON part of a session.

    Args:
        version: of the format.
        model: path of the float network as the user gave it.
        digest: its sha256.
        environment: gpu, cpu, fpga or host.
        calibration: None before `calibrate`.
    """

    model_config = ConfigDict(extra="forbid")

    version: int
    model: str
    digest: str
    environment: str
    calibration: _Calibration | None = None


def save_session(path: Path, model: Path, digest: str, environment: str, calibration: Calibration | None) -> None:
    """Write a session whole or not at all.

    Raises:
        UserError: the place cannot be written.
    """
    arrays: Arrays = {}
    stored = None if calibration is None else _stored(calibration, arrays)
    content = SessionFile(version=VERSION, model=str(model), digest=digest, environment=environment, calibration=stored)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("session.json", content.model_dump_json())
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            archive.writestr("arrays.npz", buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); choose another place"
        raise UserError(msg) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def load_session(path: Path) -> tuple[SessionFile, Calibration | None]:
    """Read a session.

    Raises:
        UserError: no such file, not a session, or one of a later version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = SessionFile.model_validate_json(archive.read("session.json"))
            loaded = np.load(io.BytesIO(archive.read("arrays.npz")), allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files}
            calibration = None if content.calibration is None else _restored(content.calibration, arrays)
    except FileNotFoundError as error:
        msg = f"{path}: no such session; check the path"
        raise UserError(msg) from error
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, ValidationError, json.JSONDecodeError) as error:
        msg = f"{path}: not a quantizer session, or damaged; save it again"
        raise UserError(msg) from error
    if content.version > VERSION:
        msg = (
            f"{path}: written by a later version (format {content.version}, this one reads {VERSION}); update quantrig"
        )
        raise UserError(msg)
    return content, calibration


def _stored(calibration: Calibration, arrays: Arrays) -> _Calibration:
    tensors = []
    for index, (name, stats) in enumerate(calibration.tensors.items()):
        entry = _Tensor(name=name, low=stats.low, high=stats.high, count=stats.count)
        if stats.histogram is not None and stats.msb is not None:
            entry.histograms = True
            entry.exponent = stats.histogram.exponent
            entry.zeros = stats.histogram.zeros
            arrays[f"counts{index}"] = stats.histogram.counts
            arrays[f"positive{index}"] = stats.msb.positive
            arrays[f"negative{index}"] = stats.msb.negative
        tensors.append(entry)
    for index, mean in enumerate(calibration.means.values()):
        arrays[f"mean{index}"] = mean
    for number, sample in enumerate(calibration.kept):
        for index, value in enumerate(sample.values()):
            arrays[f"kept{number}.{index}"] = value
    sums = []
    for index, (name, total) in enumerate(calibration.sums.items()):
        used = np.flatnonzero(total.classes.any(axis=1))
        arrays[f"sums{index}"] = total.classes[used]
        sums.append(_Sums(name=name, count=total.count, classes=used.tolist()))
    return _Calibration(
        digest=calibration.digest,
        environment=calibration.environment,
        layers=calibration.layers,
        samples=calibration.samples,
        tensors=tensors,
        means=list(calibration.means),
        kept=[list(sample) for sample in calibration.kept],
        rows=list(calibration.rows),
        kept_at=list(calibration.kept_at),
        sums=sums,
    )


def _restored(stored: _Calibration, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
    tensors = {}
    for index, entry in enumerate(stored.tensors):
        histogram = msb = None
        if entry.histograms:
            histogram = Histogram(entry.exponent, arrays[f"counts{index}"], entry.zeros)
            msb = MsbHistogram(arrays[f"positive{index}"], arrays[f"negative{index}"], entry.zeros)
        tensors[entry.name] = TensorStats(entry.low, entry.high, entry.count, histogram, msb)
    sums = {}
    for index, total in enumerate(stored.sums):
        values = arrays[f"sums{index}"]
        classes = np.zeros((SUM_CLASSES, values.shape[1]))
        classes[total.classes] = values
        sums[total.name] = ChannelSums(classes, total.count)
    return Calibration(
        digest=stored.digest,
        environment=stored.environment,
        layers=stored.layers,
        samples=stored.samples,
        tensors=tensors,
        means={name: arrays[f"mean{index}"] for index, name in enumerate(stored.means)},
        kept=tuple(
            {name: arrays[f"kept{number}.{index}"] for index, name in enumerate(names)}
            for number, names in enumerate(stored.kept)
        ),
        rows=tuple(stored.rows),
        kept_at=tuple(stored.kept_at),
        sums=sums,
    )
