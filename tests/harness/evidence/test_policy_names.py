from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.evidence.policy import parse_policy


def policy_named(name: str) -> str:
    return parse_policy(f"name: '{name}'\njobs: [a.yaml]\n", Path("release.yaml").resolve()).name


@pytest.mark.parametrize("name", ["camera-2.1", "kws", "7", "r2.0.1-rc.3", "a" * 64])
def test_a_release_may_be_called_by_its_version(name: str) -> None:
    assert policy_named(name) == name


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("Camera 2.1", "camera-2.1"),
        ("../camera", "camera"),
        (".hidden", "hidden"),
        ("a..b", "a.b"),
        ("v2.", "v2"),
        ("a/b\\c", "a-b-c"),
        ("Ü", "release"),
        ("", "release"),
        ("a" * 65, "a" * 64),
    ],
)
def test_a_name_that_is_no_file_name_is_refused_with_one_that_is(name: str, better: str) -> None:
    with pytest.raises(UserError) as caught:
        policy_named(name)
    assert str(caught.value).endswith(f"write {better}")
    assert policy_named(better) == better
