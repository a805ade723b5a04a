"""Which commit of which branch a job's file stood on when its run began."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.record.run import Revision

#: A repository on a network disk may be slow; a run never waits longer for it.
_TIMEOUT_S = 10
#: How CI systems name the branch they checked out as a bare commit: GitHub (pull requests first), GitLab, Jenkins.
_CI_BRANCH = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BRANCH_NAME")
#: These would point git at another repository than the folder's own.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def revision_of(folder: Path, environ: Mapping[str, str] = os.environ) -> Revision | None:
    """What git says of a folder.

    Args:
        folder: of the job's file.
        environ: where a CI system names the branch when git itself is on none.

    Returns:
        None outside a repository, without a commit, and where git is not installed.
    """
    commit = _git(folder, environ, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    branch = _git(folder, environ, "symbolic-ref", "--quiet", "--short", "HEAD")
    if not branch:
        branch = next((environ[name] for name in _CI_BRANCH if environ.get(name)), "")
    # fsmonitor would start a program that the repository's own configuration names
    changed = _git(folder, environ, "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no")
    return Revision(commit, branch, dirty=changed != "")


def knows_branch(folder: Path, name: str) -> bool:
    """Whether the repository of a folder has a branch of that name, of its own or of a remote."""
    if not name or name.startswith("-"):
        return False
    listed = _git(folder, os.environ, "for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes")
    refs = (listed or "").splitlines()
    return f"refs/heads/{name}" in refs or any(
        ref.startswith("refs/remotes/") and ref.split("/", 3)[3:] == [name] for ref in refs
    )


def _git(folder: Path, environ: Mapping[str, str], *arguments: str) -> str | None:
    """What git prints; None where it fails."""
    env = {name: value for name, value in environ.items() if name not in _MISLEADING}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "--no-optional-locks", *arguments],
            env=env, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
