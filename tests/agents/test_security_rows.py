"""docs/security.md names a test for every attack it says is refused; the tests must be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What the agent and the host must refuse: all of the list.
COVERED = set(range(1, 29))
ROW = re.compile(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROWS = {int(row[1]): row for row in ROW.finditer((ROOT / "docs/security.md").read_text(encoding="utf-8"))}


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_list_is_in_the_table_and_none_says_later() -> None:
    assert sorted(ROWS) == list(range(1, 29))
    assert {number for number, row in ROWS.items() if "*later*" not in row[3]} == COVERED


@pytest.mark.parametrize("number", sorted(COVERED))
def test_a_covered_row_names_a_test(number: int) -> None:
    assert NAMED.findall(ROWS[number][4])


@pytest.mark.parametrize("number", sorted(ROWS))
def test_the_tests_and_modules_a_row_names_exist(number: int) -> None:
    for path, name in NAMED.findall(ROWS[number][4]):
        assert name in functions_of(ROOT / path), f"{path} has no {name}"
    for path in re.findall(r"`((?:agents|harness)/[\w/]+\.py)`", ROWS[number][3]):
        assert (ROOT / path).is_file(), path
