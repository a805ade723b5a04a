"""Where the shared data lie, and how often a property is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3].parent / "shared"


@pytest.fixture(name="models_dir", scope="session")
def _models_dir() -> Path:
    folder = SHARED / "data" / "models"
    if not folder.is_dir():
        pytest.skip("../shared/data/models is not here")
    return folder


@pytest.fixture(name="vectors_csv", scope="session")
def _vectors_csv() -> Path:
    path = SHARED / "facts" / "histogram_vectors.csv"
    if not path.is_file():
        pytest.skip("../shared/facts/histogram_vectors.csv is not here")
    return path
