"""The pytest plug-in: float against int8 on the boards of a lab, as tests.

    def test_int8_is_as_good(compare):
        result = compare("job.yaml")
        assert result.verdict.passed                # the job's gates
        result.assert_no_regression()               # against --quantrig-baseline

Loaded by every pytest run of an environment that has quantrig, so everything heavy is imported on first use, and a
project's own fixture or parameter called `target` stays that project's.
"""

from harness.pytest_plugin.boards import lab, pytest_collection_modifyitems, pytest_generate_tests, target
from harness.pytest_plugin.comparing import compare, pytest_unconfigure
from harness.pytest_plugin.options import (
    ENVIRONMENTS,
    PROFILES,
    QuantrigWarning,
    pytest_addoption,
    pytest_configure,
    pytest_sessionstart,
)
from harness.pytest_plugin.telling import pytest_assertrepr_compare, pytest_runtest_makereport

__all__ = [
    "ENVIRONMENTS",
    "PROFILES",
    "QuantrigWarning",
    "compare",
    "lab",
    "pytest_addoption",
    "pytest_assertrepr_compare",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "pytest_sessionstart",
    "pytest_unconfigure",
    "target",
]
