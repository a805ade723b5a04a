"""How much a run measures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.errors import UserError
from harness.record.timing import StoppingRule

#: Share of a budget that warm-up may take, for both networks together.
_WARM_UP_SHARE = 0.25
#: What a pair costs beside its two blocks (the way to the board and back, telemetry between them), s.
_PAIR_EXTRA_S = 0.05


@dataclass(frozen=True, slots=True)
class Profile:
    """How long blocks and warm-up last and when a target has been timed enough (docs/statistics.md).

    Args:
        block_s: least duration of a block, s.
        block_iterations: least number of inferences in a block.
        min_pairs: float/int8 pairs of the first stage, which tells how many are needed; even: ABBA rounds are of two.
        max_pairs: then the ratio is published with whatever interval it has.
        half_width: the goal: half the 95 % interval of ln(ratio).
        warm_up_s: least duration of warm-up, s.
        warm_up_cap_s: then the network counts as 'not warm'.
        warm_up_window_s: medians of the last three windows must agree.
        warm_up_tolerance: within this.
    """

    name: str
    block_s: float
    block_iterations: int
    min_pairs: int
    max_pairs: int
    half_width: float
    warm_up_s: float
    warm_up_cap_s: float
    warm_up_window_s: float
    warm_up_tolerance: float = 0.02

    def rule(self, budget_s: float | None = None) -> StoppingRule:
        """When a target is timed enough."""
        return StoppingRule(self.min_pairs // 2, self.half_width, self.max_pairs // 2, budget_s)

    def warmed_within(self, budget_s: float) -> Profile:
        """The same with a warm-up that leaves three quarters of the budget to the blocks.

        A window ends with an inference, so always a little late: where least and most duration met, the cap came before
        the window that could have shown a steady network. Of six windows the fourth and the fifth may show it.
        """
        share_s = _WARM_UP_SHARE * budget_s / 2
        return replace(
            self,
            warm_up_s=min(self.warm_up_s, share_s * 4 / 6),
            warm_up_cap_s=min(self.warm_up_cap_s, share_s),
            warm_up_window_s=min(self.warm_up_window_s, share_s / 6),
        )

    def timed_within(self, left_s: float, iterations_s: tuple[float, float]) -> Profile:
        """The same with a first stage that fits into what is left of a budget: shorter blocks first, then fewer pairs.

        Args:
            left_s: of the budget, after warm-up.
            iterations_s: how long one inference of each network takes.
        """
        for_block_s = (left_s / self.min_pairs - _PAIR_EXTRA_S) / 2
        shorter = replace(self, block_s=min(self.block_s, max(for_block_s, 0.0)))
        affordable = int(left_s / shorter.pair_s(iterations_s)) // 2 * 2
        return replace(shorter, min_pairs=min(self.min_pairs, max(affordable, 4)))

    def pair_s(self, iterations_s: tuple[float, float]) -> float:
        """About how long a pair of blocks takes."""
        return _PAIR_EXTRA_S + sum(max(self.block_s, self.block_iterations * one) for one in iterations_s)


#: For a demo or a smoke test: the same method in seconds, with wider intervals. The windows of warm-up are a fifth
#: of a second because a steady state within 2 % is rarely reached on a busy laptop; 5 % is asked instead.
QUICK = Profile("quick", 0.15, 30, 10, 16, 0.03, 0.6, 3.0, 0.2, 0.05)
#: Blocks of at least 1 s and 30 inferences, ±1.5 %: a difference of 3 % is then found in 98 of 100 runs
#: (docs/statistics.md). A board whose pairs scatter by 5 % needs the cap of 80.
STANDARD = Profile("standard", 1.0, 30, 12, 80, 0.015, 2.0, 60.0, 1.0)
#: What a release is signed on: ±1 % from a first stage of 20, and blocks of 100 inferences, so that 20 of them carry
#: p99 (662 are the least, docs/statistics.md).
RELEASE = Profile("release", 1.0, 100, 20, 160, 0.01, 5.0, 120.0, 1.0)

PROFILES = {profile.name: profile for profile in (QUICK, STANDARD, RELEASE)}


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        UserError: there is none.
    """
    try:
        return PROFILES[name]
    except KeyError:
        message = f"unknown profile '{name}'; choose one of {', '.join(PROFILES)}"
        raise UserError(message) from None
