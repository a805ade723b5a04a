"""Goal: what a mixed-precision network has to reach, in one of three figures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isnan

from harness.errors import UserError
from harness.quantize.fidelity import Score


class Kind(StrEnum):
    """What a target is about."""

    SQNR_DB = "sqnr_db"  # of the scores, at least
    AGREEMENT = "agreement"  # top-1 agreement with the float network, a share, at least
    LOSS_POINTS = "loss_points"  # what the metric loses against the float network, points, at most


@dataclass(frozen=True)
class Goal:
    """What a mixed-precision network has to reach on the held-back samples.

    Args:
        kind: which figure.
        value: at least (SQNR in dB, agreement as a share), or at most (points lost).

    Raises:
        UserError: a value that the figure cannot have.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        if self.kind is Kind.AGREEMENT and not 0 <= self.value <= 1:
            msg = f"agreement target {self.value:g}: it is a share; give 0 … 1 (0.99 for 99 %)"
            raise UserError(msg)
        if isnan(self.value):
            msg = f"{self.kind} target: not a number"
            raise UserError(msg)

    def figure(self, score: Score, reference: Score) -> float:
        """The figure of one network.

        Raises:
            UserError: the samples do not give it.
        """
        if self.kind is Kind.SQNR_DB:
            return score.sqnr_db
        if self.kind is Kind.AGREEMENT:
            if score.agreement is None:
                msg = "agreement target: the network's first output holds no class scores; give an SQNR target"
                raise UserError(msg)
            return score.agreement
        if score.accuracy is None or reference.accuracy is None:
            msg = "accuracy target: the held-back samples have no labels; give labelled ones, or an SQNR target"
            raise UserError(msg)
        return 100 * (reference.accuracy - score.accuracy)

    def met(self, figure: float) -> bool:
        """Whether a figure is good enough. Shares and points are quotients of counts: rounding must not decide."""
        if self.kind is Kind.LOSS_POINTS:
            return figure <= self.value + 1e-9
        return figure >= self.value - 1e-9

    def better(self, figure: float) -> float:
        """A number that grows as the figure gets better."""
        return -figure if self.kind is Kind.LOSS_POINTS else figure

    def text(self, figure: float) -> str:
        """A figure of this kind, for a person."""
        return {
            Kind.SQNR_DB: f"SQNR {figure:.2f} dB",
            Kind.AGREEMENT: f"top-1 agreement {figure:.4g}",
            Kind.LOSS_POINTS: f"{figure:.3g} points lost",
        }[self.kind]


def goal_of(sqnr_db: float | None, agreement: float | None, loss_points: float | None) -> Goal | None:
    """The goal that one of three arguments names; None where none does.

    Raises:
        UserError: two are given.
    """
    given = [
        Goal(kind, value)
        for kind, value in ((Kind.SQNR_DB, sqnr_db), (Kind.AGREEMENT, agreement), (Kind.LOSS_POINTS, loss_points))
        if value is not None
    ]
    if len(given) > 1:
        msg = "one target at a time: SQNR, agreement or accuracy; remove the others"
        raise UserError(msg)
    return given[0] if given else None
