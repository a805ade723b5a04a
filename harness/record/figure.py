"""One published number and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Network(StrEnum):
    """The two networks of every published table, and the rows that compare them."""

    FLOAT = "Floating-Point"
    QUANTIZED = "Quantized"
    RATIO = "Ratio"


#: Those that run, in the order of the first pair of blocks.
ARMS = (Network.FLOAT, Network.QUANTIZED)


class Source(StrEnum):
    """How a number came to be; never mixed silently in one column."""

    MEASURED = "measured"  # on that device
    EMULATED = "emulated"  # the device's arithmetic run elsewhere: outputs and accuracy only, never time
    MODELLED = "modelled"  # a performance model with a known error
    PUBLISHED = "published"  # quoted, with its source in `note`


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of comparison.csv (`../../docs/design.md`: tidy, one figure a row).

    Args:
        target: entry of targets.yaml.
        board: board kind.
        environment: gpu, cpu, fpga or host: whose rules quantized the network.
        network: which of the two networks, or `Ratio` for a paired comparison.
        device: what executed it, e.g. "onnxruntime 1.31.1 CPUExecutionProvider, 2 threads".
        metric: name with its unit suffix where it has one: latency_p50_ms, accuracy_top1, …
        value: None when unknown; never 0 in its place.
        ci_low: lower end of the 95 % interval, None when there is none.
        ci_high: upper end.
        unit: "ms", "bytes", "fraction", "1/s", "x", …
        source: how the value came to be.
        n: how many independent units the value rests on (samples, block pairs); None when not applicable.
        note: one line for the reader.
    """

    target: str
    board: str
    environment: str
    network: Network
    device: str
    metric: str
    value: float | None
    unit: str
    source: Source
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    note: str = ""
