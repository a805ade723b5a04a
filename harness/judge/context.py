"""What every figure of one target repeats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.judge.caveats import target_caveats
from harness.record.figure import Figure, Network, Source
from harness.record.networks import Loading
from harness.record.target import TargetRecord

_CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class TargetContext:
    """The columns that are the same in all rows of a target.

    Args:
        target: entry of targets.yaml.
        board: board kind.
        environment: whose rules quantized the network.
        source: `measured` or `emulated`.
        device: what executed the networks.
        quantized_notes: what a reader of any figure of the quantized network must know.
    """

    target: str
    board: str
    environment: str
    source: Source
    device: str = ""
    quantized_notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: TargetRecord) -> TargetContext:
        """The context of a target's record; the device from what its sessions really used."""
        return cls(
            target=record.name,
            board=record.board,
            environment=record.environment,
            source=record.source,
            device=describe_device(
                record.loadings, on_arm=record.environment == "fpga" and record.source is Source.MEASURED
            ),
            quantized_notes=target_caveats(record),
        )

    def figure(
        self,
        network: Network,
        metric: str,
        value: float | None,
        unit: str,
        *,
        interval: tuple[float, float] | None = None,
        n: int | None = None,
        notes: Iterable[str] = (),
        about_outputs: bool = False,
        source: Source | None = None,
        device: str | None = None,
    ) -> Figure:
        """One row of this target.

        Args:
            network: which network, or Ratio.
            metric: its name.
            value: None when unknown.
            unit: of value and interval.
            interval: 95 %.
            n: independent units.
            notes: joined into the row's note.
            about_outputs: the figure depends on the quantized network's arithmetic and carries `quantized_notes`.
            source: where it is not the target's own.
            device: the same.
        """
        own = self.quantized_notes if about_outputs and network is not Network.FLOAT else ()
        return Figure(
            target=self.target,
            board=self.board,
            environment=self.environment,
            network=network,
            device=self.device if device is None else device,
            metric=metric,
            value=None if value is None else float(value),
            unit=unit,
            source=self.source if source is None else source,
            ci_low=interval[0] if interval else None,
            ci_high=interval[1] if interval else None,
            n=n,
            note="; ".join(dict.fromkeys(note for note in (*notes, *own) if note)),
        )


def describe_device(loadings: Iterable[Loading], *, on_arm: bool = False) -> str:
    """E.g. "onnxruntime 1.31.1 CPUExecutionProvider"; both, where the two networks ran differently.

    Args:
        loadings: of a target's networks.
        on_arm: an FPGA board: what its CPU provider runs, runs on the ARM cores beside the logic, and it is said.
    """
    texts = []
    for item in loadings:
        arm = " (ARM cores)" if on_arm and item.providers == (_CPU,) else ""
        texts.append(f"{item.runtime} {item.runtime_version} {', '.join(item.providers)}".strip() + arm)
    return " / ".join(dict.fromkeys(texts))
