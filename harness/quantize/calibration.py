"""What calibration found: a value that can be stored, merged with another's, and quantized from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.observe import ChannelSums, TensorStats
from harness.quantize.placement import Layers
from harness.quantize.reservoir import thinned
from harness.quantize.tables import TABLE_COLUMNS, Row


@dataclass(frozen=True)
class Calibration:
    """What a pass over the data showed; valid for one network and one environment's tensors.

    Args:
        digest: sha256 of the float network's file.
        environment: gpu, cpu, fpga or host.
        layers: "needed" or "all".
        samples: how many samples were seen.
        tensors: name → statistics.
        means: input of a weighted layer → mean per channel.
        kept: up to 64 samples in the data's order, evenly spread over them, for scoring and fitting; each a feed of
            one sample, or of one pass where the network has a fixed batch. At most 64 MiB, or 8 samples.
        rows: the calibration table.
        kept_at: number in the data of each kept one's (first) sample, from 0.
        sums: what `means` are made of, so that calibrations of parts of the data can be merged.
    """

    digest: str
    environment: str
    layers: Layers
    samples: int
    tensors: Mapping[str, TensorStats]
    means: Mapping[str, NDArray[np.float64]]
    kept: tuple[Mapping[str, NDArray[Any]], ...] = field(default=(), repr=False)
    rows: tuple[Row, ...] = field(default=(), repr=False)
    kept_at: tuple[int, ...] = field(default=(), repr=False)
    sums: Mapping[str, ChannelSums] = field(default_factory=dict, repr=False)

    @property
    def has_histograms(self) -> bool:
        """Whether methods other than minmax can be used."""
        return all(stats.histogram is not None for stats in self.tensors.values())

    def table(self) -> pd.DataFrame:
        """The ranges, one row per learnable or activation, in the five published columns."""
        return pd.DataFrame(list(self.rows), columns=list(TABLE_COLUMNS))

    def merged(self, other: Calibration) -> Calibration:
        """The calibration of both parts of the data.

        Ranges, histograms and means are those that one pass over all data would have found, bit for bit and in
        whatever order parts are merged, given the same activations. Kept samples of `other` follow ours; together
        they are thinned to the bounds of one calibration.

        Raises:
            UserError: the two are of different networks, environments or layers, or one lacks histograms.
        """
        for what in ("digest", "environment", "layers"):
            mine, theirs = str(getattr(self, what)), str(getattr(other, what))
            if mine != theirs:
                name = "network" if what == "digest" else what
                msg = f"calibrations of different {name} cannot be merged ({mine[:12]}, {theirs[:12]})"
                raise UserError(msg)
        if self.tensors.keys() != other.tensors.keys() or self.has_histograms != other.has_histograms:
            msg = "calibrations that observed different things cannot be merged; calibrate both parts with one method"
            raise UserError(msg)
        sums = _merged_sums(self.sums, other.sums)
        kept = [*zip(self.kept_at, self.kept, strict=True)]
        kept += [(self.samples + at, sample) for at, sample in zip(other.kept_at, other.kept, strict=True)]
        kept = thinned(kept)
        return Calibration(
            self.digest,
            self.environment,
            self.layers,
            self.samples + other.samples,
            {name: stats.merged(other.tensors[name]) for name, stats in self.tensors.items()},
            means_of(sums),
            tuple(sample for _, sample in kept),
            _merged_rows(self.rows, other.rows),
            tuple(at for at, _ in kept),
            sums,
        )


def means_of(sums: Mapping[str, ChannelSums]) -> dict[str, NDArray[np.float64]]:
    """Mean per channel of each tensor that was seen."""
    return {name: mean for name, total in sums.items() if (mean := total.mean()) is not None}


def _merged_sums(first: Mapping[str, ChannelSums], second: Mapping[str, ChannelSums]) -> dict[str, ChannelSums]:
    sums = {}
    for name in dict.fromkeys((*first, *second)):
        present = [part[name] for part in (first, second) if name in part]
        if len({part.classes.shape for part in present}) == 1:
            sums[name] = present[0] if len(present) == 1 else present[0].merged(present[1])
    return sums


def _merged_rows(first: tuple[Row, ...], second: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows in the network's order; a part that saw nothing of a layer has no row of it."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    extremes = {row[:3]: row[3:] for row in longer}
    for row in shorter:
        low, high = extremes.get(row[:3], row[3:])
        extremes[row[:3]] = (min(low, row[3]), max(high, row[4]))
    return tuple((*names, low, high) for names, (low, high) in extremes.items())
