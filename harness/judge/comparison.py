"""Float against int8 on one target: what a test asks and a gate decides on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.judge.target_verdict import TargetVerdict
from harness.record.figure import Figure, Network
from harness.record.run import RunRecord
from harness.record.target import TargetRecord


@dataclass(frozen=True, slots=True)
class Comparison:
    """One target's part of a finished run.

    Args:
        target: the target's record: status, description, blocks, notes.
        figures: all its figures.
        record: the run it belongs to.
    """

    target: TargetRecord
    figures: tuple[Figure, ...]
    record: RunRecord

    @classmethod
    def of(cls, record: RunRecord, target: str) -> Comparison:
        """The comparison of one target.

        Raises:
            KeyError: the run has no such target.
        """
        for one in record.targets:
            if one.name == target:
                return cls(one, tuple(f for f in record.figures if f.target == target), record)
        raise KeyError(target)

    @property
    def status(self) -> str:
        """The word `done`, or why there are no figures."""
        return self.target.status

    @property
    def verdict(self) -> TargetVerdict:
        """What came of the job's gates on this target."""
        here = tuple(result for result in self.record.gates if result.target == self.target.name)
        return TargetVerdict(self.target.name, here, asked=bool(self.record.gates or self.record.job.get("gates")))

    def figure(self, metric: str, network: Network | str = Network.RATIO) -> Figure | None:
        """The figure of that metric, None where the run has no such row."""
        return next((f for f in self.figures if f.metric == metric and f.network == network), None)

    def value(self, metric: str, network: Network | str = Network.RATIO) -> float | None:
        """Its value, None where there is no such row or nothing is known."""
        found = self.figure(metric, network)
        return None if found is None else found.value

    def __iter__(self) -> Iterator[Figure]:
        """All figures, in the order of the table."""
        return iter(self.figures)
