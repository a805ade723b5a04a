"""`--budget SECONDS`: how a target's timing is made to fit into a time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.record.timing import BlockRecord
from harness.runs.profile import Profile
from harness.targets.values import WarmUp

#: Below this not even two pairs of the shortest networks and their warm-up fit.
LEAST_S = 2.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a target's warm-up and blocks may take; it starts with this value.

    Args:
        seconds: in all; None: as long as the profile wants.
        spent_s: what an earlier try of the same run took already.
    """

    seconds: float | None
    spent_s: float = 0.0
    _began: float = field(default_factory=time.monotonic, init=False)

    @classmethod
    def after(cls, seconds: float | None, finished: Iterable[BlockRecord]) -> Budget:
        """What is left after the blocks of an earlier try; at least `LEAST_S`, since the networks warm up anew."""
        spent_s = sum(block.duration_s for block in finished)
        return cls(seconds, spent_s if seconds is None else min(spent_s, max(seconds - LEAST_S, 0.0)))

    @property
    def deadline(self) -> float | None:
        """On `time.monotonic`."""
        return None if self.seconds is None else self._began + self.seconds - self.spent_s

    def for_warm_up(self, profile: Profile) -> Profile:
        """The profile whose warm-up leaves time for the blocks."""
        return profile if self.seconds is None else profile.warmed_within(self.seconds - self.spent_s)

    def for_blocks(self, profile: Profile, warm: Iterable[WarmUp]) -> Profile:
        """The profile whose first stage fits into what is left, by how long an inference took in warm-up."""
        if self.deadline is None:
            return profile
        first_s, second_s = (one.duration_s / max(one.iterations, 1) for one in warm)
        return profile.timed_within(max(self.deadline - time.monotonic(), 0.0), (first_s, second_s))
