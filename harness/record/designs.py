"""What is known of a network on an FPGA's logic without the board, and what was put into that logic."""

from __future__ import annotations

from dataclasses import dataclass

from harness.record.figure import Network, Source


@dataclass(frozen=True, slots=True)
class DesignRow:
    """One figure that a model or a published table gives of a network on a design; None with the reason in `note`."""

    metric: str
    value: float | None
    unit: str
    source: Source
    note: str = ""


@dataclass(frozen=True, slots=True)
class DesignRecord:
    """One network on one design of an FPGA's logic, without the board: what models and tables say.

    Args:
        network: which of the two.
        design: the bitstream or processor with its clock, as a table heads it; "" where the network has none.
        digest: sha256 of the design's description; "" where there is none.
        rows: its figures.
        note: how far the model is from published figures, for beneath a table; "" without a model.
        compile_log: layers in hardware and software, groups and memory map, line by line.
        remarks: what a reader must know of these figures, a sentence each.
    """

    network: Network
    design: str
    digest: str
    rows: tuple[DesignRow, ...] = ()
    note: str = ""
    compile_log: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Programming:
    """A design and a network on their way into a board's logic.

    Args:
        network: which of the two.
        design: the bitstream or processor.
        design_digest: of its description.
        network_digest: of the network as it was sent.
        boot_id: of the device, "" when unknown.
        device: fingerprint of the device.
        design_skipped: the same design was loaded already.
        network_skipped: so was the same network.
    """

    network: Network
    design: str
    design_digest: str
    network_digest: str
    boot_id: str
    device: str
    design_skipped: bool
    network_skipped: bool
