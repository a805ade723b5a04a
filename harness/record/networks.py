"""What became of the two networks: made, sent, loaded, and what they put out."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.record.figure import Network, Source


@dataclass(frozen=True, slots=True)
class QuantizedRecord:
    """What the rule book of an environment made of the network."""

    environment: str
    digest: str
    method: str
    quantized_layers: int
    kept_float: tuple[tuple[str, str], ...]  # (layer, reason)
    notes: tuple[str, ...]
    disabled_optimizers: tuple[str, ...] = ()  # graph optimizers that must not touch it
    learnable_bytes: int | None = None  # weights and biases, counted from their dtypes
    layers: tuple[LayerSqnr, ...] = ()  # in the network's order; empty where they could not be told apart
    layers_samples: int = 0  # how many calibration samples `layers` rests on


@dataclass(frozen=True, slots=True)
class LayerSqnr:
    """How far one layer's result in the int8 network is from the float network's, everything before it included.

    Args:
        layer: its name in the float network.
        op_type: ONNX operator.
        sqnr_db: None where both are equal, or the float result is zero throughout.
    """

    layer: str
    op_type: str
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class LoweredRecord:
    """The graph that a stand-in ran in place of the int8 network: the board's own arithmetic (docs/emulation.md).

    Args:
        arithmetic: dpu, mathworks, host or gpu.
        claim: the sentence that goes with every figure of it.
        digest: of the lowered network; that of the int8 one stands in `QuantizedRecord`.
        hardware_layers: how many layers were computed in the board's integers.
        software: one line for each layer that was computed in float, with the reason.
        disabled_optimizers: graph optimizers that must not touch it.
    """

    arithmetic: str
    claim: str
    digest: str
    hardware_layers: int
    software: tuple[str, ...]
    disabled_optimizers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shipment:
    """One artifact on its way to one board."""

    network: Network
    digest: str
    size_bytes: int
    sent_bytes: int  # 0 when the board held it already
    skipped: bool  # already on the board


@dataclass(frozen=True, slots=True)
class ProviderShare:
    """What one provider of a runtime ran of a network: how many nodes, of which operators, their names where known."""

    provider: str
    count: int
    operators: dict[str, int]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loading:
    """How long a network took to become ready on a board, phase by phase, ms; None where the phase does not exist."""

    network: Network
    start_ms: float
    check_ms: float
    load_ms: float
    compile_ms: float | None
    already_loaded: bool
    runtime: str
    runtime_version: str
    providers: tuple[str, ...]
    warm_up_iterations: int | None = None
    warm_up_s: float | None = None
    steady: bool | None = None
    first_ms: float | None = None
    assigned: tuple[ProviderShare, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)  # of the session, by the runtime's own names


@dataclass(frozen=True, slots=True)
class SamplesRecord:
    """What each sample contributed to the metrics of one network, kept in a file (harness.judge.samples).

    Args:
        network: which of the two.
        path: relative to the run's folder, `samples/<target>.<network>.npz`.
        digest: sha256 of the file.
        metrics: names of the job's metrics, in its order.
        without_rows: those of them that are one number over the whole set and cannot be recomputed from the file.
    """

    network: Network
    path: str
    digest: str
    metrics: tuple[str, ...] = ()
    without_rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputsRecord:
    """Everything that one network put out on one target, as one number to compare boards and runs by.

    Args:
        network: which of the two.
        digest: sha256 over names, types, shapes and values of all outputs in the order of the samples; equal exactly
            where every bit is. How the samples were cut into batches and chunks is not in it.
        samples: how many.
        source: `measured` on the board, or `emulated`.
    """

    network: Network
    digest: str
    samples: int
    source: Source
