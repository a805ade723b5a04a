from __future__ import annotations

import pytest

from tests.harness.evidence.release import Release, make_release


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A bundle with an honest signature; nobody changes its files."""
    return make_release(tmp_path_factory.mktemp("release"))
