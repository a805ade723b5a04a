"""What stands in for a board that is not there: its arithmetic, and what models say of its speed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.record.designs import DesignRecord
from harness.record.figure import Network
from harness.record.networks import LoweredRecord
from harness.record.target import TargetRecord
from harness.runs.designs import designs_of
from harness.runs.lowering import OtherNetwork, arithmetic_of, lowered_file
from harness.runs.networks import NetworkFile
from harness.targets.target import Target


@dataclass(frozen=True, slots=True)
class StandIn:
    """What a stand-in runs and what is known without its board.

    Args:
        file: the second arm: the lowered network, or the int8 network where it cannot be lowered.
        lowered: None for the int8 network itself.
        designs: of an FPGA.
        notes: one line each.
    """

    file: NetworkFile
    lowered: LoweredRecord | None
    designs: tuple[DesignRecord, ...]
    notes: tuple[str, ...] = ()


class StandIns:
    """Makes each target's stand-in once and each lowered network once (thread-safe).

    Args:
        folder: for lowered networks.
        job_name: what their files begin with.
        model: the float network.
    """

    def __init__(self, folder: Path, job_name: str, model: Path) -> None:
        self._folder = folder
        self._job_name = job_name
        self._model = model
        self._guard = threading.Lock()
        self._made: dict[str, StandIn] = {}
        self._lowered: dict[str, tuple[NetworkFile, LoweredRecord | None, tuple[str, ...]]] = {}

    def of(self, target: Target, int8: NetworkFile, before: TargetRecord) -> StandIn:
        """The stand-in of a target.

        Args:
            target: which.
            int8: its environment's network.
            before: what an earlier try left: what it began with it ends with.

        Raises:
            UserError: the network an earlier try ran cannot be made again.
        """
        with self._guard:
            if target.name not in self._made:
                file, lowered, notes = self._second_arm(target, int8, before)
                designs = designs_of(target, self._model, int8.path)
                self._made[target.name] = StandIn(file, lowered, designs, notes)
            return self._made[target.name]

    def _second_arm(
        self, target: Target, int8: NetworkFile, before: TargetRecord
    ) -> tuple[NetworkFile, LoweredRecord | None, tuple[str, ...]]:
        arithmetic = arithmetic_of(target)
        began_as_it_is = before.lowered is None and any(s.network is Network.QUANTIZED for s in before.shipments)
        if arithmetic is None or began_as_it_is:
            return int8, None, ()
        key = f"{arithmetic.name} {int8.digest}"
        if key not in self._lowered:
            out = self._folder / f"{self._job_name}.{arithmetic.name}.lowered.onnx"
            try:
                file, record = lowered_file(int8, arithmetic, out, before.lowered)
            except OtherNetwork:
                raise
            except UserError as error:
                if before.lowered is not None:
                    raise
                self._lowered[key] = int8, None, (f"not lowered to the board's arithmetic: {error}",)
            else:
                self._lowered[key] = file, record, _notes(record)
        return self._lowered[key]


def _notes(record: LoweredRecord) -> tuple[str, ...]:
    count = len(record.software)
    # On a GPU or a host, a layer in float is nothing special; an FPGA hands it to its processor.
    if not count or record.arithmetic not in {"dpu", "mathworks"}:
        return ()
    return (f"{count} of {count + record.hardware_layers} layers run in software there, in float: see the report",)
