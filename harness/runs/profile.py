"""How much a run measures."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UserError


@dataclass(frozen=True, slots=True)
class Profile:
    """How long blocks and warm-up last and when a target has been timed enough (docs/results.md, 'Timing').

    Args:
        block_s: least duration of a block, s.
        block_iterations: least number of inferences in a block.
        min_pairs: least number of float/int8 pairs.
        max_pairs: then the ratio is published with whatever interval it has.
        half_width: stop when the 95 % interval of ln(ratio) is at most this wide on either side.
        warm_up_s: least duration of warm-up, s.
        warm_up_cap_s: then the network counts as 'not warm'.
        warm_up_window_s: medians of the last three windows must agree.
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


#: For a demo or a smoke test: the same method in seconds, with wider intervals. The windows of warm-up are a fifth
#: of a second because a steady state within 2 % is rarely reached on a busy laptop; 5 % is asked instead.
QUICK = Profile("quick", 0.15, 30, 8, 12, 0.02, 0.6, 3.0, 0.2, 0.05)
#: Blocks of at least 1 s and 30 inferences, at least 8 pairs, ±2 %, at most 40 pairs; warm-up of at least 2 s, at
#: most 60 s.
STANDARD = Profile("standard", 1.0, 30, 8, 40, 0.02, 2.0, 60.0, 1.0)

PROFILES = {profile.name: profile for profile in (QUICK, STANDARD)}


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
