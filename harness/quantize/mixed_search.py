"""Search: the smallest set of float layers with which a network meets a goal, by doubling, bisection and pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.quantize.goal import Goal
from harness.quantize.layer_latency import Costs
from harness.quantize.sensitivity import LayerCost
from harness.quantize.variants import Variants

#: Gains closer than this are equal even where the samples say no error: as much as a correction must bring to be kept.
_LEAST_NOISE_DB = 0.1


@dataclass(frozen=True)
class Step:
    """One network that was made and run on the way.

    Args:
        layers: those left in float.
        figure: what the goal is about.
        sqnr_db: of the scores.
        met: whether the goal is.
    """

    layers: tuple[str, ...]
    figure: float
    sqnr_db: float
    met: bool


class Search:
    """Tries sets of float layers; remembers each.

    Args:
        variants: makes and runs the networks.
        goal: to reach.
    """

    def __init__(self, variants: Variants, goal: Goal) -> None:
        self._variants = variants
        self._goal = goal
        self._tried: dict[frozenset[str], Step] = {}

    @property
    def path(self) -> list[Step]:
        """Every set tried, in order."""
        return list(self._tried.values())

    def step(self, layers: Sequence[str]) -> Step:
        """What comes of leaving these layers in float."""
        key = frozenset(layers)
        if key not in self._tried:
            score = self._variants.score(key)[1]
            figure = self._goal.figure(score, self._variants.yardstick.float_score)
            self._tried[key] = Step(tuple(layers), figure, score.sqnr_db, self._goal.met(figure))
        return self._tried[key]

    def met(self, layers: Sequence[str]) -> bool:
        """Whether the goal is met with these layers in float."""
        return self.step(layers).met

    def smallest(self, ranking: Sequence[LayerCost], costs: Costs, most: int) -> tuple[str, ...]:
        """The smallest set found, most sensitive first; where nothing meets the goal, the best that was tried."""
        # What a layer gains and what it costs alone rank layers differently where errors cancel or add up.
        alone = sorted(ranking, key=lambda cost: float("inf") if cost.alone_db is None else cost.alone_db)
        found = self._pruned(self._by_latency(ranking, costs, most), most)
        fewer = self._pruned([cost.layer for cost in alone], most if found is None else len(found) - 1)
        if fewer is not None or found is not None:
            return fewer or found or ()
        best = max(self.path, key=lambda step: (self._goal.better(step.figure), -len(step.layers)))
        return best.layers

    def _pruned(self, order: Sequence[str], most: int) -> tuple[str, ...] | None:
        """The shortest head of the list that meets the goal, without the layers that can be int8 after all."""
        length = self._head(order, most)
        if not length:
            return None
        chosen = list(order[:length])
        for layer in reversed(order[:length]):
            without = [name for name in chosen if name != layer]
            if without and self.met(without):
                chosen = without
        return tuple(chosen)

    def _head(self, order: Sequence[str], most: int) -> int:
        """Length of the shortest head of the list that meets the goal, by doubling and bisection; 0 for none."""
        low, high = 0, min(1, most)
        while high and not self.met(order[:high]):
            if high == most:
                return 0
            low, high = high, min(2 * high, most)
        while high - low > 1:
            middle = (low + high) // 2
            if self.met(order[:middle]):
                high = middle
            else:
                low = middle
        return high

    def _by_latency(self, ranking: Sequence[LayerCost], costs: Costs, most: int) -> list[str]:
        """The order of gains, with ties decided by latency where they touch the head that meets the goal."""
        order = [cost.layer for cost in ranking]
        length = self._head(order, most) if costs.given else 0
        decided: list[str] = []
        for group in ties(ranking):
            names = [cost.layer for cost in group]
            if len(group) > 1 and len(decided) < length:
                names.sort(key=costs.of)  # stable: equal costs stay in order of gain
            decided.extend(names)
        return decided


def ties(ranking: Sequence[LayerCost]) -> list[list[LayerCost]]:
    """Groups of layers whose gains are equal within noise, each compared with the first of its group.

    Equal: the difference is at most the two standard errors taken together (root of the sum of squares; about one
    standard error of the difference), or 0.1 dB where they are smaller or unknown.
    """
    groups: list[list[LayerCost]] = []
    for cost in ranking:
        if groups:
            leader = groups[-1][0]
            error = ((leader.gain_error_db or 0.0) ** 2 + (cost.gain_error_db or 0.0) ** 2) ** 0.5
            if leader.gain_db - cost.gain_db <= max(error, _LEAST_NOISE_DB):
                groups[-1].append(cost)
                continue
        groups.append([cost])
    return groups
