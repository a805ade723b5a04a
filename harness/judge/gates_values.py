"""What a gate asks, and where: plain values.

gate = Gate("speedup", "speedup", Rule.AT_LEAST, 1.2, "x", Network.RATIO)
gate.on(Place("rpi5-lab", "raspberry-pi-5", "cpu", ("dotprod",)))   # the gate as it holds there, or None
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.record.figure import Network, Source
from harness.record.gates import Rule


@dataclass(frozen=True, slots=True)
class Place:
    """What of a target decides which gates hold there."""

    target: str
    board: str
    environment: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which targets are meant: those that match every kind of word given; no words at all mean every target.

    Args:
        targets: names of entries in targets.yaml.
        tags: a target with any of them.
        environments: gpu, cpu, fpga, host.
        boards: kinds of board.
    """

    targets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    boards: tuple[str, ...] = ()

    def holds(self, place: Place) -> bool:
        """Whether a target is meant."""
        return (
            (not self.targets or place.target in self.targets)
            and (not self.tags or not set(self.tags).isdisjoint(place.tags))
            and (not self.environments or place.environment in self.environments)
            and (not self.boards or place.board in self.boards)
        )


@dataclass(frozen=True, slots=True)
class Override:
    """What differs on some targets; None leaves the gate's own.

    Args:
        scope: on which.
        threshold: in the gate's unit.
        sources: kinds of figure that may decide.
        model_error: see `Gate`.
        skip: the gate does not hold there.
    """

    scope: Scope
    threshold: float | None = None
    sources: tuple[Source, ...] | None = None
    model_error: float | None = None
    skip: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """One thing asked of every target it holds on.

    Args:
        name: unique in its file.
        metric: of the figure it is about; for `NON_INFERIOR` the metric whose loss is bounded.
        rule: what is asked.
        threshold: in `unit`; of `NON_INFERIOR` the margin, positive.
        unit: as the figure's: "ms", "bytes", "fraction", "x", "LSB", …
        network: whose figure; `NON_INFERIOR` is always about the pair.
        higher_is_better: of the metric of `NON_INFERIOR`; False turns a rise into the loss.
        sources: kinds of figure that may decide; another kind leaves the gate inconclusive.
        model_error: how far a modelled figure may be off, as a fraction; it takes the place of an interval.
        scope: on which targets it holds.
        overrides: what differs where; the last that matches wins.
    """

    name: str
    metric: str
    rule: Rule
    threshold: float
    unit: str
    network: Network
    higher_is_better: bool = True
    sources: tuple[Source, ...] = (Source.MEASURED,)
    model_error: float | None = None
    scope: Scope = field(default_factory=Scope)
    overrides: tuple[Override, ...] = ()

    def on(self, place: Place) -> Gate | None:
        """The gate as it holds on a target, without overrides; None where it does not."""
        if not self.scope.holds(place):
            return None
        found = replace(self, overrides=())
        for override in self.overrides:
            if not override.scope.holds(place):
                continue
            if override.skip:
                return None
            found = replace(
                found,
                threshold=found.threshold if override.threshold is None else override.threshold,
                sources=found.sources if override.sources is None else override.sources,
                model_error=found.model_error if override.model_error is None else override.model_error,
            )
        return found
