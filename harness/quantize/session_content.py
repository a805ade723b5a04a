"""What a session file says, field by field, and how a calibration becomes JSON and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from harness.quantize.calibration import Calibration
from harness.quantize.histogram import Histogram, MsbHistogram
from harness.quantize.mixed import MixedPrecision
from harness.quantize.observe import SUM_CLASSES, ChannelSums, TensorStats
from harness.quantize.options import Options
from harness.quantize.pattern import HALF_BINS
from harness.quantize.placement import Layers
from harness.quantize.quantizer import QuantizedModel

#: Raised when a field changes its meaning. 1: no networks, results, options or state; arrays in one nested file.
VERSION = 2

#: dtype and shape of an array are part of the .npy format; counts are stored as they are.
Arrays = dict[str, NDArray[Any]]
_MSB_BINS = 256


class _Model(BaseModel):
    # The range of a tensor that was never seen is infinite, and so is the SQNR of what int8 does not change.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class _Tensor(_Model):
    name: str
    low: float
    high: float
    count: int
    exponent: int | None = None
    zeros: int = 0
    histograms: bool = False


class _Sums(_Model):
    """Channel sums of one tensor; of the classes only those that hold something are stored."""

    name: str
    count: int
    classes: list[int]


class StoredCalibration(_Model):
    """A calibration without its arrays; the fields are those of `Calibration`."""

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


class StoredRanking(_Model):
    """The table of a sensitivity sweep.

    Args:
        columns: in order.
        numbers: column → values.
        texts: column → values.
        facts: the table's `attrs`; a number that is not finite as text.
    """

    columns: list[str]
    numbers: dict[str, list[float]]
    texts: dict[str, list[str]]
    facts: dict[str, str | int | float | None]

    @staticmethod
    def of(table: pd.DataFrame) -> StoredRanking:
        """From the table."""
        numbers = [name for name in table.columns if pd.api.types.is_numeric_dtype(table[name])]
        return StoredRanking(
            columns=[str(name) for name in table.columns],
            numbers={str(name): [float(value) for value in table[name]] for name in numbers},
            texts={str(name): [str(value) for value in table[name]] for name in table.columns if name not in numbers},
            facts={
                str(name): repr(value) if isinstance(value, float) and not np.isfinite(value) else value
                for name, value in table.attrs.items()
            },
        )

    def table(self) -> pd.DataFrame:
        """The table again."""
        cells: dict[str, Any] = {name: np.array(values, float) for name, values in self.numbers.items()}
        cells |= self.texts
        table = pd.DataFrame({name: cells[name] for name in self.columns})
        table.attrs = {
            name: float(value) if value in {"inf", "-inf", "nan"} else value for name, value in self.facts.items()
        }
        return table


class SessionFile(_Model):
    """The JSON part of a session.

    Args:
        version: of the format.
        model: path of the float network as the user gave it.
        digest: its sha256.
        environment: gpu, cpu, fpga or host.
        calibration: None before `calibrate`.
        state: {input: output} of a recurrent network.
        quantized: the int8 network made last; None before `quantize`.
        mixed: how its target figure was met; None without one.
        ranking: of the last `sensitivity`.
        options: how the int8 network was asked for.
    """

    version: int
    model: str
    digest: str
    environment: str
    calibration: StoredCalibration | None = None
    state: dict[str, str] = {}
    quantized: QuantizedModel | None = None
    mixed: MixedPrecision | None = None
    ranking: StoredRanking | None = None
    options: Options | None = None


def stored(calibration: Calibration, arrays: Arrays) -> StoredCalibration:
    """The JSON of a calibration; its arrays are added to `arrays`."""
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
            arrays[f"kept{number}.{index}"] = np.asarray(value)
    sums = []
    for index, (name, total) in enumerate(calibration.sums.items()):
        # By its bits: -0 is something too.
        used = np.flatnonzero(np.ascontiguousarray(total.classes).view(np.int64).any(axis=1))
        arrays[f"sums{index}"] = total.classes[used]
        sums.append(_Sums(name=name, count=total.count, classes=used.tolist()))
    return StoredCalibration(
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


def restored(content: StoredCalibration, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
    """The calibration again.

    Raises:
        KeyError, ValueError: an array is missing, or is not what it should be.
    """
    tensors = {}
    for index, entry in enumerate(content.tensors):
        histogram = msb = None
        if entry.histograms:
            histogram = Histogram(entry.exponent, _counts(arrays[f"counts{index}"], 2 * HALF_BINS), entry.zeros)
            positive, negative = (_counts(arrays[f"{side}{index}"], _MSB_BINS) for side in ("positive", "negative"))
            msb = MsbHistogram(positive, negative, entry.zeros)
        tensors[entry.name] = TensorStats(entry.low, entry.high, entry.count, histogram, msb)
    sums = {}
    for index, total in enumerate(content.sums):
        values = arrays[f"sums{index}"]
        classes = np.zeros((SUM_CLASSES, values.shape[1]))
        classes[total.classes] = values
        sums[total.name] = ChannelSums(classes, total.count)
    return Calibration(
        digest=content.digest,
        environment=content.environment,
        layers=content.layers,
        samples=content.samples,
        tensors=tensors,
        means={name: arrays[f"mean{index}"] for index, name in enumerate(content.means)},
        kept=tuple(
            {name: arrays[f"kept{number}.{index}"] for index, name in enumerate(names)}
            for number, names in enumerate(content.kept)
        ),
        rows=tuple(content.rows),
        # The first format remembered the first samples of the data.
        kept_at=tuple(content.kept_at or range(len(content.kept))),
        sums=sums,
    )


def _counts(values: NDArray[Any], bins: int) -> NDArray[np.int64]:
    if values.shape != (bins,) or values.dtype != np.int64 or (values < 0).any():
        msg = "not a histogram"
        raise ValueError(msg)
    return values
