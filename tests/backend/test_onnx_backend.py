"""Whatever network somebody brings is prepared and quantized for every environment, or refused in one line.

The networks are the `onnx` package's own: about two thousand, most of one operator, some of whole classifiers.
One in 24, chosen by name, runs in every test run; `make test-backend` runs all and writes docs/robustness.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backend.cases import Case, all_cases
from tests.backend.sweep import examine

CASES = [pytest.param(case, id=case.identity, marks=() if case.sampled else pytest.mark.slow) for case in all_cases()]


@pytest.mark.parametrize("case", CASES)
def test_a_network_of_the_backend_tests(case: Case, tmp_path: Path) -> None:
    wrong = [
        f"{outcome.environment}: {outcome.reason}" for outcome in examine(case, tmp_path) if outcome.verdict is None
    ]
    assert not wrong, "\n".join(wrong)
