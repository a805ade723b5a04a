"""What a performance model says of a network: values that every model returns and every reader shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.emulation.lowered import Where

#: What a layer's time is bound by.
Bound = Literal["compute", "memory", "software"]


@dataclass(frozen=True, slots=True)
class LayerTiming:
    """One layer's time on a device.

    Args:
        name: as in the network.
        op_type: its operator.
        where: HW: in the accelerator; SW: on the ARM cores beside it.
        seconds: of one sample; None where no model covers it (software).
        cycles: of the accelerator's clock; None for software.
        bound: what limits it; None where `seconds` is.
        utilization: share of the accelerator's peak operations that it reaches, 0 … 1; None for software and for
            layers without multiply-accumulates.
        group: number, from 1, of the group of layers that run without the host in between; None for software.
        reason: why it is software; None for HW.
        note: what a figure in hardware rests on where no published one covers such a layer, or why it is 0.
    """

    name: str
    op_type: str
    where: Where
    seconds: float | None
    cycles: float | None = None
    bound: Bound | None = None
    utilization: float | None = None
    group: int | None = None
    reason: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ModelError:
    """How far a performance model was from published figures.

    Args:
        mean_percent: mean absolute error over rows predicted without them; None where there are none.
        median_percent: the median of them.
        rows: how many rows that is.
        fitted: what its constants were fitted on, in a sentence.
        predicted: how these rows were kept out of their own prediction.
    """

    mean_percent: float | None
    median_percent: float | None
    rows: int
    fitted: str
    predicted: str = "that it was not fitted to"

    def __str__(self) -> str:
        """The figures alone: mean 5.6 %, median 5.0 % on 64 published rows that it was not fitted to."""
        if self.mean_percent is None or self.median_percent is None:
            return "no published figure that it was not fitted to"
        rows = "1 published row" if self.rows == 1 else f"{self.rows} published rows"
        return f"mean {self.mean_percent:.1f} %, median {self.median_percent:.1f} % on {rows} {self.predicted}"


@dataclass(frozen=True, slots=True)
class NetworkTiming:
    """One network's time on a device.

    Args:
        layers: in the order of execution.
        seconds: of one sample, one thread, software and host included as far as the model covers them.
        fps: samples per second of one thread, 1 / seconds.
        fps_multi_thread: with all cores busy; None where the model has no such figure.
        cycles: of the accelerator for one sample; None where the model counts seconds.
        clock_mhz: of the accelerator.
        error: of the model.
    """

    layers: tuple[LayerTiming, ...]
    seconds: float
    fps: float
    fps_multi_thread: float | None
    cycles: float | None
    clock_mhz: float
    error: ModelError
