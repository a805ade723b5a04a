"""Writing: the same evidence gives the same bytes, and a bundle is there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.errors import UserError
from harness.evidence.bundle import BundledRun, write_bundle
from harness.evidence.container import Container, name_is_plain
from harness.evidence.gather import Gathered
from harness.evidence.keys import PRIVATE_KEY, fingerprint, load_private, load_public, make_key, sign, signed_by
from harness.evidence.manifest import RunPart
from harness.evidence.policy import load_policy
from harness.evidence.qualify import judge_runs, plan_policy, publish_decision
from harness.job import load_job
from harness.report.runjson import load
from harness.store import open_store
from tests.harness.evidence.release import POLICY, RUN, Release, contents, make_release


def bundle(release: Release, path: Path, gathered: Gathered, key: Ed25519PrivateKey) -> Path:
    record = load((release.run / "run.json").read_text())
    write_bundle(
        path,
        policy_name="toy",
        policy_text=b"jobs: []\n",
        page=b"<p>",
        verdict="pass",
        runs=[BundledRun(record, 0, gathered)],
        key=key,
        created="2026-11-21T10:00:00+00:00",
        environment=b"{}",
    )
    return path


def test_the_same_evidence_gives_the_same_bytes(release: Release, tmp_path: Path) -> None:
    file = tmp_path / "raw.bin"
    file.write_bytes(bytes(range(256)) * 10)
    key = Ed25519PrivateKey.generate()
    one = bundle(release, tmp_path / "a.zip", Gathered({"runs/r/b": b"b", "runs/r/a": file}), key)
    os.utime(file, (1, 1))
    file.chmod(0o600)
    two = bundle(release, tmp_path / "b.zip", Gathered({"runs/r/a": file, "runs/r/b": b"b"}), key)
    assert one.read_bytes() == two.read_bytes()
    assert contents(one)["runs/r/a"] == file.read_bytes()
    assert Container(one).faults == []


def test_a_bundle_is_there_whole_or_not_at_all(release: Release, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.zip"
    key = Ed25519PrivateKey.generate()
    bundle(release, path, Gathered({"runs/r/a": b"first"}), key)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"gone\.bin"):
        bundle(release, path, Gathered({"runs/r/a": tmp_path / "gone.bin"}), key)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["a.zip"]


def test_names_that_boards_make_up_become_plain() -> None:
    part = RunPart("r")
    names = ["outputs/rpi [batch 4]/x", "outputs/../x", "a..b", ".hidden", "samples/-x", "ünï", "a b", "a+0020b"]
    entries = [part.name(name) for name in names]
    assert all(name_is_plain(entry) for entry in entries)
    assert len(set(entries)) == len(names)


def test_keys(tmp_path: Path) -> None:
    private, public = make_key(tmp_path / "keys")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = load_private(tmp_path / "keys")
    assert fingerprint(load_public(public)) == fingerprint(key.public_key())
    signature = sign(key, b"manifest")
    assert signed_by(load_public(public), signature, b"manifest")
    assert not signed_by(load_public(public), signature, b"manifesto")
    # a signature over the bare bytes, as another use of the same key would make, is none of a bundle
    assert not signed_by(load_public(public), key.sign(b"manifest"), b"manifest")
    before = private.read_bytes()
    with pytest.raises(UserError, match="there is a key already"):
        make_key(tmp_path / "keys")
    assert private.read_bytes() == before
    private.chmod(0o644)
    with pytest.raises(UserError, match="others may read this key; chmod 600"):
        load_private(private)
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=r"quantrig keys new DIR|cannot be read"):
            load_private(place)
    (tmp_path / PRIVATE_KEY).write_text("no key")
    (tmp_path / PRIVATE_KEY).chmod(0o600)
    with pytest.raises(UserError, match="no private key in PEM"):
        load_private(tmp_path)
    with pytest.raises(UserError, match="no Ed25519 public key"):
        load_public(tmp_path / PRIVATE_KEY)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("targets: [rpi]", "targets: [rpi, jetson]", "has no target jetson"),
        ("profile: quick", "profile: release", "was measured quick"),
        ("jobs: [job.yaml]", "jobs: [job.yaml, other.yaml]", "none of the runs is of job other"),
    ],
)
def test_runs_that_are_not_what_the_policy_asks(tmp_path: Path, old: str, new: str, says: str) -> None:
    made = make_release(tmp_path / "r")
    (made.folder / "other.yaml").write_text("name: other\nmodel: toy.onnx\ndata: {source: data.npz}\n")
    (made.folder / "policy.yaml").write_text(POLICY.replace(old, new))
    store = open_store(str(made.folder / "q.db"))
    try:
        with pytest.raises(UserError, match=says):
            judge_runs(load_policy(made.folder / "policy.yaml"), [RUN], store)
    finally:
        store.close()


def test_a_job_that_was_changed_since_its_run_is_not_bundled(tmp_path: Path) -> None:
    made = make_release(tmp_path / "r")
    job, policy = made.folder / "job.yaml", load_policy(made.folder / "policy.yaml")
    path = made.run / "run.json"
    record = json.loads(path.read_text())
    record["job"] = load_job(job).as_json()
    path.write_text(json.dumps(record))
    store = open_store(str(made.folder / "q.db"))
    try:
        assert judge_runs(policy, [RUN], store)
        for more in ("preprocess: {scale: 2}", "quantize: {exclude: [conv]}", "postprocess: a:b"):
            job.write_text(f"name: toy\nmodel: toy.onnx\ndata: {{source: data.npz}}\n{more}\n")
            with pytest.raises(UserError, match=rf"was changed since \({more.partition(':')[0]}\); run it again"):
                judge_runs(policy, [RUN], store)
    finally:
        store.close()


def test_a_bundle_that_would_not_verify_is_not_written(tmp_path: Path) -> None:
    """A run of a version with another estimator, say."""
    made = make_release(tmp_path / "r")
    before = made.bundle.read_bytes()
    path = made.run / "run.json"
    record = json.loads(path.read_text())
    (stated,) = [one for one in record["figures"] if (one["metric"], one["network"]) == ("fps", "Quantized")]
    stated["value"] *= 1.01
    path.write_text(json.dumps(record))
    store, policy = open_store(str(made.folder / "q.db")), load_policy(made.folder / "policy.yaml")
    try:
        judged = judge_runs(policy, [RUN], store)
        with pytest.raises(UserError, match=r"not written, it would not verify \(toy: rpi: Quantized fps: stated as"):
            publish_decision(policy, judged, store, out=made.folder / "out", key=made.key)
    finally:
        store.close()
    assert made.bundle.read_bytes() == before
    assert [one.name for one in made.bundle.parent.iterdir() if "unchecked" in one.name] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jobs: [job.yaml]\nprofile: quick\n", "nothing is asked of job.yaml"),
        ("jobs: [job.yaml]\ngates:\n  speedup: {at_least: 1, only: {tags: [x]}}\n", "nothing is asked of rpi"),
        (
            "jobs: [job.yaml]\ngates:\n  fps: {at_least: 1}\n  speedup: {at_least: 1, only: {tags: [x]}}\n",
            "gate 'speedup' holds on none of the chosen",
        ),
        ("jobs: [job.yaml]\nprofile: fast\ngates:\n  speedup: {at_least: 1}\n", "unknown profile 'fast'"),
        ("jobs: [job.yaml, job.yaml]\n", "a job is named twice"),
        ("jobs: [nojob.yaml]\n", "policy.yaml:1: jobs: no file"),
        ("jobs: []\n", "jobs"),
        ("job: x\n", "unknown field 'job'; did you mean 'jobs'?"),
    ],
)  # fmt: skip
def test_a_policy_that_will_not_do_is_told_before_a_board_is_touched(
    release: Release, tmp_path: Path, text: str, says: str
) -> None:
    path = release.folder / "bad" / "policy.yaml"
    path.parent.mkdir(exist_ok=True)
    for name in ("job.yaml", "targets.yaml", "toy.onnx", "data.npz"):
        (path.parent / name).write_bytes((release.folder / name).read_bytes())
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        plan_policy(load_policy(path), tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_example_is_in_order(tmp_path: Path) -> None:
    ((_, plan),) = plan_policy(load_policy(Path(__file__).parents[3] / "examples/digits/release.yaml"), tmp_path)
    assert [gate.name for gate in plan.job.gates][:2] == ["accuracy", "agreement"]
    assert len(plan.targets) == 3
