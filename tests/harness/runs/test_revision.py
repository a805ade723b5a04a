"""What git says of a folder, against repositories made on the spot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.runs.revision import knows_branch, revision_of

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("GIT", "CI_", "BRANCH"))}


def git(folder: Path, *arguments: str) -> str:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", folder, *own, *arguments], env=PLAIN, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch", "trunk")
    (tmp_path / "job.yaml").write_text("name: a\n")
    git(tmp_path, "add", "job.yaml")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_branch_its_commit_and_whether_files_differ(repository: Path) -> None:
    inner = repository / "inner"
    inner.mkdir()
    found = revision_of(inner, PLAIN)
    assert found is not None
    assert (found.commit, found.branch, found.dirty) == (git(repository, "rev-parse", "HEAD"), "trunk", False)
    (inner / "untracked").write_text("reports are no change of the job\n")
    assert revision_of(inner, PLAIN) == found
    (repository / "job.yaml").write_text("name: b\n")
    again = revision_of(inner, PLAIN)
    assert again is not None
    assert again.dirty


def test_ci_checks_out_a_bare_commit_and_names_the_branch_itself(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    unknown = revision_of(repository, PLAIN)
    assert unknown is not None
    assert unknown.branch == ""
    named = revision_of(repository, PLAIN | {"GITHUB_HEAD_REF": "feature", "GITHUB_REF_NAME": "7/merge"})
    assert named is not None
    assert named.branch == "feature"


def test_another_repository_in_the_environment_is_not_asked(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    assert revision_of(outside, PLAIN | {"GIT_DIR": str(repository / ".git")}) is None


def test_no_repository_no_commit_no_git(tmp_path: Path) -> None:
    assert revision_of(tmp_path, PLAIN) is None
    assert revision_of(tmp_path / "missing", PLAIN) is None
    git(tmp_path, "init", "--quiet")
    assert revision_of(tmp_path, PLAIN) is None
    assert revision_of(tmp_path, PLAIN | {"PATH": str(tmp_path)}) is None


def test_branches_are_known_by_their_whole_name(repository: Path) -> None:
    git(repository, "update-ref", "refs/remotes/origin/feature/x", "HEAD")
    assert knows_branch(repository, "trunk")
    assert knows_branch(repository, "feature/x")
    assert not knows_branch(repository, "feature")
    assert not knows_branch(repository, "--all")
