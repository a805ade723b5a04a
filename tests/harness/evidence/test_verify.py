"""A bundle is borne out by its raw data, bit by bit; whatever is changed is found and named."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.errors import ExitCode, UserError
from harness.evidence.container import Container
from harness.evidence.manifest import MANIFEST, SIGNATURE
from harness.evidence.verify import verify_bundle
from harness.job import load_job
from harness.record.gates import Outcome
from tests.harness.evidence.release import RUN, Release, contents, resigned, run_json, scores, write

FORGER = Ed25519PrivateKey.generate()
RECORD = f"runs/{RUN}/run.json"


def stated(record: dict[str, Any], metric: str, network: str = "Ratio") -> dict[str, Any]:
    (found,) = [f for f in record["figures"] if (f["metric"], f["network"]) == (metric, network)]
    return dict(found)


def test_an_honest_bundle_is_intact(release: Release) -> None:
    found = verify_bundle(release.bundle, release.key.public_key())
    assert (found.touched, found.differences) == ([], [])
    assert found.intact
    assert found.trusted is True
    assert found.verdict is Outcome.PASS
    assert len(found.gates) == 5
    assert found.recomputed >= 20
    assert found.unknown == []
    assert found.kept == []
    assert found.exit_code() is ExitCode.GOOD
    assert verify_bundle(release.bundle).trusted is None


def test_its_figures_are_those_of_numpy_and_scipy(release: Release) -> None:
    """Nothing of ours computes here: raw blocks, outputs and labels as anyone can read them out of the zip."""
    entries = contents(release.bundle)
    record = run_json(entries)
    blocks: Any = record["targets"][0]["blocks"]  # type: ignore[index]
    medians: dict[str, dict[int, float]] = {"Floating-Point": {}, "Quantized": {}}
    for block in blocks:
        medians[block["network"]][block["pair"]] = float(np.median(block["latency_ns"]))
    logs = np.log([medians["Floating-Point"][p] / medians["Quantized"][p] for p in sorted(medians["Quantized"])])
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
    speedup = stated(record, "speedup")
    assert speedup["value"] == pytest.approx(np.exp(logs.mean()))
    assert (speedup["ci_low"], speedup["ci_high"]) == pytest.approx(
        (np.exp(logs.mean() - half), np.exp(logs.mean() + half))
    )

    right = {}
    for network in ("floating-point", "quantized"):
        names = sorted(name for name in entries if f"/outputs/rpi/{network}/" in name)
        (release.folder / "one.npz").write_bytes(b"")
        parts = []
        for name in names:
            (release.folder / "one.npz").write_bytes(entries[name])
            with np.load(release.folder / "one.npz") as arrays:
                parts.append(arrays["arr_1"])
        right[network] = np.concatenate(parts).argmax(axis=1) == scores()[1]
    first, second = right["floating-point"], right["quantized"]
    assert stated(record, "accuracy_top1", "Floating-Point")["value"] == pytest.approx(first.mean())
    assert stated(record, "accuracy_top1", "Quantized")["value"] == pytest.approx(second.mean())
    delta = stated(record, "accuracy_top1_delta")
    assert delta["value"] == pytest.approx(second.mean() - first.mean())
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    assert f"exact McNemar p = {stats.binomtest(min(b, c), b + c).pvalue:.3g}" in delta["note"]
    wilson = stats.binomtest(int(second.sum()), len(second)).proportion_ci(method="wilson")
    quantized = stated(record, "accuracy_top1", "Quantized")
    assert (quantized["ci_low"], quantized["ci_high"]) == pytest.approx((wilson.low, wilson.high))
    assert stated(record, "learnable_memory_bytes", "Floating-Point")["value"] == 5 * 16 * 4
    assert stated(record, "learnable_memory_bytes", "Quantized")["value"] == 5 * 16


def place_of(bundle: Path, offset: int) -> tuple[str, bool]:
    """(entry, in its content) of a byte, by Python's own reader."""
    with zipfile.ZipFile(bundle) as archive:
        infos = archive.infolist()
    for info in reversed(infos):
        start = info.header_offset + 30 + len(info.filename)
        if info.header_offset <= offset < start + info.file_size:
            return info.filename, offset >= start
    return "", False


def flipped(release: Release, to: Path, offset: int, bit: int) -> Path:
    raw = bytearray(release.bundle.read_bytes())
    raw[offset] ^= 1 << bit
    to.write_bytes(raw)
    return to


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_bit_anywhere_is_found(release: Release, tmp_path: Path, data: st.DataObject) -> None:
    size = release.bundle.stat().st_size
    offset = data.draw(st.integers(0, size - 1), label="offset")
    bundle = flipped(release, tmp_path / "flipped.zip", offset, data.draw(st.integers(0, 7), label="bit"))
    found = verify_bundle(bundle)
    assert found.touched
    assert found.exit_code() is ExitCode.GATE_FAILED
    name, in_content = place_of(release.bundle, offset)
    if in_content:
        assert any(line.startswith(f"{name}: ") for line in found.touched)


def test_one_bit_of_every_entry_names_the_entry(release: Release, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(release.bundle) as archive:
        infos = archive.infolist()
    for info in infos:
        offset = info.header_offset + 30 + len(info.filename) + int(rng.integers(info.file_size))
        found = verify_bundle(flipped(release, tmp_path / "flipped.zip", offset, int(rng.integers(8))))
        assert any(line.startswith(f"{info.filename}: ") for line in found.touched), info.filename


def test_one_bit_that_the_headers_own_checksum_follows(release: Release, tmp_path: Path) -> None:
    """A forger mends the zip as well: then the signed digest tells."""
    for name, content in contents(release.bundle).items():
        entries = contents(release.bundle)
        entries[name] = bytes([content[0] ^ 1]) + content[1:]
        found = verify_bundle(write(tmp_path / "mended.zip", entries))
        assert not found.intact
        named = {MANIFEST, SIGNATURE} if name in {MANIFEST, SIGNATURE, "public-key.pem"} else {name}
        assert any(word in line for line in found.touched for word in (*named, name)), name


Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def without(name: str) -> Change:
    return lambda entries: {key: value for key, value in entries.items() if key != name}


def swapped(first: str, second: str) -> Change:
    return lambda entries: entries | {first: entries[second], second: entries[first]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without(RECORD), f"{RECORD}: missing"),
        (without(SIGNATURE), f"{SIGNATURE}: missing"),
        (without(MANIFEST), f"{MANIFEST}: missing"),
        (without("public-key.pem"), "public-key.pem: missing"),
        (lambda entries: entries | {"extra.txt": b"x"}, "extra.txt: not listed"),
        (
            swapped(f"runs/{RUN}/samples/rpi.Quantized.npz", f"runs/{RUN}/samples/rpi.Floating-Point.npz"),
            "rpi.Quantized.npz: its content is not what was signed",
        ),
        (lambda entries: dict(reversed(entries.items())), "not in their order"),
        (lambda _: {}, f"{MANIFEST}: missing"),
    ],
)
def test_entries_removed_added_swapped(release: Release, tmp_path: Path, change: Change, says: str) -> None:
    found = verify_bundle(write(tmp_path / "changed.zip", change(contents(release.bundle))))
    assert not found.intact
    assert any(says in line for line in found.touched), found.touched


def raw_zip(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../b", "C:\\x", "a\x00b", "\u202etxt", "", "a//b", "a/"]
)
def test_names_that_lead_elsewhere_are_refused(release: Release, tmp_path: Path, name: str) -> None:
    found = verify_bundle(raw_zip(tmp_path / "x.zip", [*contents(release.bundle).items(), (name, b"x")]))
    assert not found.intact


def test_other_zips_with_the_same_content_are_refused(release: Release, tmp_path: Path) -> None:
    entries = list(contents(release.bundle).items())
    assert not verify_bundle(raw_zip(tmp_path / "d.zip", entries, zipfile.ZIP_DEFLATED)).intact
    bomb = raw_zip(tmp_path / "bomb.zip", [(MANIFEST, bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    assert not verify_bundle(bomb).intact
    with pytest.warns(UserWarning, match="Duplicate"):
        assert not verify_bundle(raw_zip(tmp_path / "two.zip", [*entries, entries[-1]])).intact
    raw = release.bundle.read_bytes()
    for number, other in enumerate((raw + b"\0", b"\0" + raw, raw[:-1], raw[: len(raw) // 2], b"", b"PK\3\4")):
        (tmp_path / f"{number}.zip").write_bytes(other)
        assert not verify_bundle(tmp_path / f"{number}.zip").intact


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for place in (tmp_path / "pipe", tmp_path / "endless", tmp_path):
        with pytest.raises(UserError, match="is no file; give the bundle's"):
            verify_bundle(place)


def test_any_unzip_opens_it(release: Release) -> None:
    with zipfile.ZipFile(release.bundle) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(Container(release.bundle).entries)
    if unzip := shutil.which("unzip"):
        subprocess.run([unzip, "-tq", release.bundle], check=True, capture_output=True)


def test_another_key_is_told_and_refused_where_the_key_is_known(release: Release, tmp_path: Path) -> None:
    other = resigned(tmp_path / "other.zip", contents(release.bundle), FORGER)
    unknown = verify_bundle(other)
    assert unknown.trusted is None
    assert unknown.signer != verify_bundle(release.bundle).signer
    known = verify_bundle(other, release.key.public_key())
    assert known.trusted is False
    assert not known.intact
    assert known.exit_code() is ExitCode.GATE_FAILED


def test_a_new_list_without_the_key_does_not_verify(release: Release, tmp_path: Path) -> None:
    entries = contents(release.bundle)
    forged = contents(resigned(tmp_path / "forged.zip", entries | {"policy.yaml": b"jobs: [x]\n"}, FORGER))
    half = forged | {"public-key.pem": entries["public-key.pem"]}
    assert not verify_bundle(write(tmp_path / "half.zip", half)).intact
    old = forged | {SIGNATURE: entries[SIGNATURE]}
    assert not verify_bundle(write(tmp_path / "old.zip", old)).intact


def edited(entries: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    record: dict[str, Any] = run_json(entries)
    change(record)
    return entries | {RECORD: (json.dumps(record, indent=1) + "\n").encode()}


def figure_of(record: dict[str, Any], metric: str, network: str = "Ratio") -> dict[str, Any]:
    return next(f for f in record["figures"] if (f["metric"], f["network"]) == (metric, network))


def _faster(record: dict[str, Any]) -> None:
    figure_of(record, "speedup")["value"] *= 1.001


def _narrower(record: dict[str, Any]) -> None:
    figure_of(record, "accuracy_top1_delta")["ci_low"] = -0.001


def _accurate(record: dict[str, Any]) -> None:
    figure_of(record, "accuracy_top1", "Quantized")["value"] = 1.0


def _more(record: dict[str, Any]) -> None:
    figure_of(record, "accuracy_top1", "Quantized")["n"] = 50_000


def _close(record: dict[str, Any]) -> None:
    figure_of(record, "top1_agreement")["value"] = 1.0


def _small(record: dict[str, Any]) -> None:
    figure_of(record, "learnable_memory_bytes", "Quantized")["value"] = 1


def _invented(record: dict[str, Any]) -> None:
    record["figures"].append(figure_of(record, "speedup") | {"metric": "energy_saved"})


def _twice(record: dict[str, Any]) -> None:
    record["figures"].append(figure_of(record, "speedup") | {"value": 9.0})


def _hidden(record: dict[str, Any]) -> None:
    record["figures"] = [f for f in record["figures"] if f["metric"] != "latency_p90_ms"]


def _passed(record: dict[str, Any]) -> None:
    record["gates"][1]["outcome"] = "fail"


def _evidence(record: dict[str, Any]) -> None:
    record["gates"][1]["ci_low"] = 1.5


def _no_gate(record: dict[str, Any]) -> None:
    record["gates"] = record["gates"][1:]
    del record["job"]["gates"]["accuracy"]


def _weak_gate(record: dict[str, Any]) -> None:
    record["job"]["gates"]["speedup"]["at_least"] = 0.1
    record["gates"][1]["threshold"] = 0.1
    record["gates"][1]["claim"] = "speedup at least 0.1x"


def _block(record: dict[str, Any]) -> None:
    block = record["targets"][0]["blocks"][1]
    block["latency_ns"] = [ns - 40_000 for ns in block["latency_ns"]]


def _other_metrics(record: dict[str, Any]) -> None:
    record["job"]["metrics"] = ["accuracy_top5"]
    record["job"]["gates"]["accuracy"]["metric"] = "accuracy_top5"


def _profile(record: dict[str, Any]) -> None:
    record["profile"] = "release"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_faster, "rpi: Ratio speedup: stated as"),
        (_narrower, "rpi: Ratio accuracy_top1_delta: lower end stated as -0.001"),
        (_accurate, "rpi: Quantized accuracy_top1: stated as 1.0"),
        (_more, "rpi: Quantized accuracy_top1: n stated as 50000"),
        (_close, "rpi: Ratio top1_agreement: stated as 1.0"),
        (_small, "rpi: Quantized learnable_memory_bytes: stated as 1"),
        (_invented, "rpi: Ratio energy_saved: the raw data give no such figure"),
        (_twice, "rpi: Ratio speedup is stated twice"),
        (_hidden, "latency_p90_ms is missing from run.json"),
        (_passed, "rpi: gate speedup: stated as fail, the figures say pass"),
        (_evidence, "rpi: gate speedup: its evidence"),
        (_no_gate, "gate accuracy was not decided as policy.yaml and job.yaml have it"),
        (_weak_gate, "gate speedup was not decided as policy.yaml and job.yaml have it"),
        (_block, "rpi: Ratio speedup: stated as"),
        (_other_metrics, "its job.yaml has other metrics than run.json"),
        (_profile, "measured release on the validation split, not quick"),
    ],
)
def test_forged_figures_with_valid_digests_are_caught_by_computing_them_again(
    release: Release, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    forged = resigned(tmp_path / "forged.zip", edited(contents(release.bundle), change), FORGER)
    found = verify_bundle(forged)
    assert found.touched == []
    assert any(says in line for line in found.differences), found.differences
    assert found.exit_code() is ExitCode.GATE_FAILED


def test_a_gate_of_the_jobs_own_cannot_be_dropped(release: Release, tmp_path: Path) -> None:
    entries = contents(release.bundle)
    name = f"runs/{RUN}/job.yaml"
    entries[name] += b"gates: {fps: {at_least: 100000}}\n"
    found = verify_bundle(resigned(tmp_path / "x.zip", entries, release.key))
    assert found.differences == ["toy: gate fps was not decided as policy.yaml and job.yaml have it"]


def test_the_job_shown_is_the_job_measured(release: Release, tmp_path: Path) -> None:
    entries = contents(release.bundle)
    name = f"runs/{RUN}/job.yaml"
    shown = entries[name].decode()
    measured = load_job(release.folder / "job.yaml").as_json()

    def recorded(record: dict[str, Any]) -> None:
        record["job"] = {**measured, "gates": record["job"]["gates"]}

    entries = edited(entries, recorded)
    found = verify_bundle(resigned(tmp_path / "same.zip", dict(entries), FORGER))
    assert found.differences == ["decision.html: not the page that these figures make"]  # it names the other key
    for more in ("preprocess: {scale: 2}", "quantize: {exclude: [conv]}", "postprocess: a:b", "metrics: [miou]"):
        entries[name] = f"{shown}{more}\n".encode()
        found = verify_bundle(resigned(tmp_path / "other.zip", dict(entries), FORGER))
        assert f"toy: its job.yaml has other {more.partition(':')[0]} than run.json" in found.differences, more
    del entries[name]
    found = verify_bundle(resigned(tmp_path / "none.zip", dict(entries), FORGER))
    assert "toy: its job.yaml is neither there nor said to be absent" in found.differences


def test_forged_samples_contradict_the_outputs(release: Release, tmp_path: Path) -> None:
    """Rows that say every sample is right, with the digest that the record names mended too."""
    import hashlib
    import io

    entries = contents(release.bundle)
    name = f"runs/{RUN}/samples/rpi.Quantized.npz"
    with np.load(io.BytesIO(entries[name])) as kept:
        arrays = {key: kept[key] for key in kept.files}
    assert int((arrays["accuracy_top1/rank"] > 0).sum()) == 15
    arrays["accuracy_top1/rank"] = np.zeros_like(arrays["accuracy_top1/rank"])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    entries[name] = buffer.getvalue()
    assert any(
        "not the file that the run's record names" in line
        for line in verify_bundle(resigned(tmp_path / "a.zip", entries, FORGER)).differences
    )

    def mend(record: dict[str, Any]) -> None:
        for one in record["targets"][0]["samples"]:
            if one["network"] == "Quantized":
                one["digest"] = hashlib.sha256(entries[name]).hexdigest()

    found = verify_bundle(resigned(tmp_path / "b.zip", edited(entries, mend), FORGER))
    assert any("not what the raw outputs and labels give" in line for line in found.differences)


def test_other_texts_are_held_against_the_record(release: Release, tmp_path: Path) -> None:
    for name, says in (
        ("decision.html", "decision.html: not the page"),
        (f"runs/{RUN}/comparison.csv", "comparison.csv: not the table"),
    ):
        entries = contents(release.bundle)
        entries[name] = entries[name].replace(b"1", b"2")
        found = verify_bundle(resigned(tmp_path / "x.zip", entries, FORGER))
        assert any(says in line for line in found.differences), found.differences


def test_hostile_content_is_a_line_and_no_crash(release: Release, tmp_path: Path) -> None:
    bomb = json.loads(contents(release.bundle)[RECORD])
    for name, content in (
        (RECORD, b"[" * 100_000),
        (RECORD, b"{}"),
        (RECORD, json.dumps(bomb | {"schema_version": 99}).encode()),
        ("policy.yaml", b"jobs: [" * 5_000),
        ("policy.yaml", b"\xff\xfe"),
        ("environment.json", b"null"),
        (f"runs/{RUN}/outputs.json", b'{"rpi": {"Quantized": [{"chunk": "x"}]}}'),
        (f"runs/{RUN}/samples/rpi.reference.npz", b"PK\5\6" + bytes(18)),
        (f"runs/{RUN}/samples/rpi.reference.npz", b"no zip"),
    ):
        entries = contents(release.bundle) | {name: content}
        found = verify_bundle(resigned(tmp_path / "hostile.zip", entries, FORGER))
        assert found.differences or found.remarks, name
        assert all("\n" not in line for line in found.differences)
        if name != "environment.json":
            assert not found.intact, name


def test_a_network_whose_tensors_lie_elsewhere_opens_no_file(release: Release, tmp_path: Path) -> None:
    """Weights that claim to lie in a file of the verifier's machine: their size must not come from there."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4 * 5 * 16))
    entries = contents(release.bundle)
    (name,) = [n for n in entries if n.endswith(f"/networks/{run_json(entries)['model_digest']}.onnx")]
    model = onnx.ModelProto.FromString(entries[name])
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=str(secret))
    entries[name] = model.SerializeToString()
    found = verify_bundle(resigned(tmp_path / "elsewhere.zip", entries, FORGER))
    assert any("not the file that the run's record names" in line for line in found.differences)
    assert dict(found.unknown)["toy: rpi: Floating-Point learnable_memory_bytes"] == "the network is not in the bundle"


def test_an_older_run_without_samples_says_what_it_cannot_show(release: Release, tmp_path: Path) -> None:
    def older(record: dict[str, Any]) -> None:
        del record["targets"][0]["samples"]

    entries = edited(contents(release.bundle), older)
    entries = {name: content for name, content in entries.items() if "/samples/" not in name}
    found = verify_bundle(resigned(tmp_path / "older.zip", entries, FORGER))
    whys = dict(found.unknown)
    assert "older version" in whys["toy: rpi: Quantized accuracy_top1"]
    assert "kept no comparison" in whys["toy: rpi: Quantized reference_lsb"]
    assert not any("accuracy_top1" in line for line in found.differences)


def test_outputs_as_digests_only_leave_the_agreement_open(release: Release, tmp_path: Path) -> None:
    entries = {name: content for name, content in contents(release.bundle).items() if "/outputs/" not in name}
    found = verify_bundle(resigned(tmp_path / "digests.zip", entries, release.key))
    assert found.intact
    assert {why for _, why in found.unknown} == {"the outputs are in the bundle as digests only"}


def test_a_later_version_is_told(release: Release, tmp_path: Path) -> None:
    entries = contents(release.bundle)
    manifest = json.loads(entries[MANIFEST])
    for change, says in (({"version": 2}, "update quantrig"), ({"format": "x"}, "not that of a quantrig bundle")):
        content = json.dumps(manifest | change).encode()
        from harness.evidence.keys import sign

        changed = entries | {MANIFEST: content, SIGNATURE: sign(release.key, content)}
        found = verify_bundle(write(tmp_path / "later.zip", changed))
        assert any(says in line for line in found.touched)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "outputs.npz",
        f"runs/{RUN}/notes.txt",
        f"runs/{RUN}/networks/{'0' * 64}.onnx",
        f"runs/{RUN}/outputs/rpi/quantized/00009.npz",
        f"runs/{RUN}/functions/deep/own.py",
        "runs/another/run.json",
    ],
)
def test_what_the_signer_adds_is_named_and_refused(release: Release, tmp_path: Path, name: str) -> None:
    entries = contents(release.bundle) | {name: b"x"}
    found = verify_bundle(resigned(tmp_path / "more.zip", entries, release.key), release.key.public_key())
    assert found.touched == []
    (line,) = found.differences
    assert line.startswith(f"{name}: no part of a bundle")
    assert found.exit_code() is ExitCode.GATE_FAILED


def test_distances_are_those_of_the_outputs_of_both(release: Release, tmp_path: Path) -> None:
    """numpy reads board and reference out of the zip; then the distances are forged, or cannot be had."""
    entries = contents(release.bundle)
    part = f"runs/{RUN}"

    def arrays(name: str) -> Any:  # noqa: ANN401 - an array
        with np.load(io.BytesIO(entries[name])) as found:
            return found["arr_1"].astype(np.float64)

    board = np.concatenate([arrays(n) for n in sorted(entries) if n.startswith(f"{part}/outputs/rpi/quantized/")])
    right = arrays(f"{part}/samples/rpi.reference-outputs.npz")
    figure = stated(run_json(entries), "reference_lsb", "Quantized")
    assert figure["value"] == pytest.approx(np.abs(board - right).max() / (np.abs(right).max() / 127), rel=1e-12)
    assert figure["value"] > 0

    name = f"{part}/samples/rpi.reference.npz"
    with np.load(io.BytesIO(entries[name])) as kept:
        forged = dict(kept) | {"furthest": kept["furthest"] * 0.5}
    buffer = io.BytesIO()
    np.savez(buffer, **forged)
    found = verify_bundle(resigned(tmp_path / "forged.zip", entries | {name: buffer.getvalue()}, FORGER))
    assert any("the distances kept are not those of the outputs" in line for line in found.differences)

    for gone, why in (
        (f"{part}/samples/rpi.reference-outputs.npz", "the reference's outputs are not in the bundle"),
        (f"{part}/outputs/rpi/quantized/00001.npz", "the board's outputs are not in the bundle"),
    ):
        less = {key: content for key, content in entries.items() if key != gone}
        found = verify_bundle(resigned(tmp_path / "less.zip", less, release.key))
        assert found.intact, found.differences
        assert dict(found.kept)["toy: rpi: Quantized reference_lsb"] == f"from distances: {why}"


def test_rows_that_outputs_could_not_be_held_against_are_told(release: Release, tmp_path: Path) -> None:
    entries = {name: content for name, content in contents(release.bundle).items() if "/outputs/" not in name}
    found = verify_bundle(resigned(tmp_path / "digests.zip", entries, release.key))
    assert {name for name, _ in found.kept} == {
        "toy: rpi: Floating-Point accuracy_top1",
        "toy: rpi: Quantized accuracy_top1",
        "toy: rpi: Ratio accuracy_top1_delta",
        "toy: rpi: Quantized reference_lsb",
    }


def test_the_source_shown_is_the_source_that_judged(release: Release, tmp_path: Path) -> None:
    text = b"def f(outputs, labels):\n    return 1.0\n"
    name = f"runs/{RUN}/functions/own.py"

    def noted(record: dict[str, Any]) -> None:
        file = {"path": "own.py", "sha256": hashlib.sha256(text).hexdigest()}
        record["functions"] = [{"spec": "own:f", "files": [file]}]

    def lines(entries: dict[str, bytes]) -> list[str]:
        return verify_bundle(resigned(tmp_path / "sources.zip", entries, release.key)).differences

    entries = edited(contents(release.bundle), noted)
    assert lines(entries | {name: text}) == []
    assert lines(entries | {name: text + b"# better\n"}) == [f"{name}: not the file that the run's record names"]
    assert lines(entries) == [f"{name}: the source of own:f is missing"]
    assert lines(entries | {name: text, name.replace("own", "more"): text}) != []
