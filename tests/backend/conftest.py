from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two thousand short tests come last: what pytest-xdist's workers take from one another at the end."""
    items.sort(key=lambda item: "tests/backend/" in item.nodeid)
