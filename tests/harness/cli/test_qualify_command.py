"""`quantrig qualify`, `verify` and `keys` as a stranger calls them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import app
from harness.errors import UserError
from tests.harness.evidence.release import POLICY, RUN, Release, contents, make_release, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = make_release(tmp_path_factory.mktemp("command"))
    assert call("keys", "new", release.folder / "keys") == 0
    return release


def call(*arguments: object) -> int:
    code = app([str(one) for one in arguments], standalone_mode=False)
    return int(code or 0)


def qualify(made: Release, *more: object, policy: str = POLICY) -> int:
    (made.folder / "policy.yaml").write_text(policy)
    store = ("--store", made.folder / "q.db")
    return call("qualify", made.folder / "policy.yaml", "--runs", RUN, *store, *more)


def test_from_runs_to_a_bundle_that_verifies(made: Release, capsys: pytest.CaptureFixture[str]) -> None:
    assert qualify(made, "--out", made.folder / "o") == 0
    assert "pass: 5 gates, all passed" in capsys.readouterr().out
    bundle = made.folder / "o" / "toy-release.bundle.zip"
    assert sorted(one.name for one in bundle.parent.iterdir()) == ["decision.html", bundle.name]
    public = made.folder / "keys" / "release-public.pem"
    assert call("verify", bundle, "--key", public, "--require-pass") == 0
    out = capsys.readouterr().out
    assert "that is the key given" in out
    assert out.rstrip().endswith("\nintact")
    assert call("verify", bundle, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["intact"], said["verdict"], said["touched"]) == (True, "pass", [])
    assert said["trusted"] is None


@pytest.mark.parametrize(
    ("old", "new", "code", "word"),
    [
        ("speedup: {at_least: 1.2}", "speedup: {at_least: 5}", 1, "fail"),
        ("non_inferior_by: 10 pt", "non_inferior_by: 1.5 pt", 4, "inconclusive"),
        ("learnable_memory: {at_most: 1 MB}", "energy: {at_most: 1 mJ}", 4, "inconclusive"),
    ],
)
def test_exit_codes_follow_the_verdict(
    made: Release, capsys: pytest.CaptureFixture[str], old: str, new: str, code: int, word: str
) -> None:
    assert old in POLICY
    out = made.folder / "codes"
    assert qualify(made, "--out", out, "--json", policy=POLICY.replace(old, new)) == code
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["exit_code"]) == (word, code)
    # the bundle is intact either way; only who asks for a pass is refused
    assert call("verify", said["bundle"]) == 0
    assert call("verify", said["bundle"], "--require-pass") == code


def test_a_touched_bundle_is_exit_1_and_named(made: Release, capsys: pytest.CaptureFixture[str]) -> None:
    entries = contents(made.bundle)
    name = f"runs/{RUN}/outputs.json"
    bundle = write(made.folder / "touched.zip", entries | {name: entries[name].replace(b"rpi", b"rpj")})
    assert call("verify", bundle) == 1
    out = capsys.readouterr().out
    assert f"TOUCHED  {name}: its content is not what was signed" in out
    assert "not intact" in out


def test_another_key_is_exit_1(made: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("keys", "new", tmp_path / "other") == 0
    assert call("verify", made.bundle, "--key", tmp_path / "other") == 1
    assert "that is NOT the key given" in capsys.readouterr().out


def test_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("keys", "new", tmp_path / "k") == 0
    printed = capsys.readouterr().out.partition("fingerprint: ")[2].strip()
    assert stat.S_IMODE((tmp_path / "k" / "release-private.pem").stat().st_mode) == 0o600
    assert call("keys", "show", tmp_path / "k" / "release-public.pem") == 0
    assert capsys.readouterr().out.strip() == printed
    with pytest.raises(UserError, match="there is a key already"):
        call("keys", "new", tmp_path / "k")


def test_a_key_of_ones_own_is_made_once(
    made: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    policy = POLICY.replace("key: keys\n", "")
    assert qualify(made, "--out", tmp_path / "o", "--json", policy=policy) == 0
    first = capsys.readouterr()
    assert "made a signing key of your own" in first.err
    assert qualify(made, "--out", tmp_path / "o", "--json", policy=policy) == 0
    second = capsys.readouterr()
    assert second.err == ""
    assert json.loads(first.out)["signer"] == json.loads(second.out)["signer"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "nowhere.zip"),
        ("verify", "{bundle}", "--key", "nowhere.pem"),
        ("qualify", "nowhere.yaml"),
        ("qualify", "{policy}", "--runs", "nosuchrun", "--store", "{store}"),
        ("qualify", "{policy}", "--key", "nowhere"),
        ("keys", "show", "nowhere"),
    ],
)
def test_bad_input_is_one_line(made: Release, arguments: tuple[str, ...]) -> None:
    (made.folder / "policy.yaml").write_text(POLICY)
    places = {"bundle": made.bundle, "policy": made.folder / "policy.yaml", "store": made.folder / "q.db"}
    with pytest.raises(UserError) as caught:
        call(*(one.format(**places) for one in arguments))
    assert "\n" not in str(caught.value)
    assert "nowhere" in str(caught.value) or "nosuchrun" in str(caught.value)


def test_verify_asks_nothing_of_the_lab(made: Release, tmp_path: Path) -> None:
    """In another folder, without store or lab, and as the installed command."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "verify", str(made.bundle)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
