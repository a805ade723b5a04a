"""Sessions on disk: nothing is lost, they can be moved to another machine, and no file does harm."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize import Quantizer, session_file
from harness.quantize.calibration import Calibration
from harness.quantize.graph import read_model, sha256_of
from harness.quantize.observe import ChannelSums, TensorStats
from harness.quantize.session_file import load_session, save_session
from harness.quantize.tables import Row


def same_calibration(first: Calibration, second: Calibration) -> None:
    """Every field to the last bit, types included."""
    for name in ("digest", "environment", "layers", "samples", "rows", "kept_at"):
        assert getattr(first, name) == getattr(second, name), name
    assert list(first.tensors) == list(second.tensors)
    for name, stats in first.tensors.items():
        other = second.tensors[name]
        assert (stats.low, stats.high, stats.count) == (other.low, other.high, other.count)
        assert (stats.histogram is None, stats.msb is None) == (other.histogram is None, other.msb is None)
        if stats.histogram is not None and other.histogram is not None and stats.msb is not None and other.msb:
            assert (stats.histogram.exponent, stats.histogram.zeros) == (
                other.histogram.exponent,
                other.histogram.zeros,
            )
            same_array(stats.histogram.counts, other.histogram.counts)
            same_array(stats.msb.positive, other.msb.positive)
            same_array(stats.msb.negative, other.msb.negative)
            assert stats.msb.zeros == other.msb.zeros
    assert list(first.means) == list(second.means)
    for name, mean in first.means.items():
        same_array(mean, second.means[name])
    assert list(first.sums) == list(second.sums)
    for name, sums in first.sums.items():
        same_array(sums.classes, second.sums[name].classes)
        assert sums.count == second.sums[name].count
    assert len(first.kept) == len(second.kept)
    for sample, other_sample in zip(first.kept, second.kept, strict=True):
        assert list(sample) == list(other_sample)
        for name, value in sample.items():
            same_array(value, other_sample[name])


def same_array(first: NDArray[Any], second: NDArray[Any]) -> None:
    assert (first.dtype, first.shape) == (second.dtype, second.shape)
    assert first.tobytes() == second.tobytes()


@pytest.fixture(name="made", scope="module")
def _made() -> dict[str, Any]:
    """What takes seconds to make, for all tests of this module."""
    return {}


@pytest.fixture(name="whole")
def _whole(branched: Path, tmp_path: Path, images: Callable[..., Any], made: dict[str, Any]) -> Quantizer:
    """A session with everything in it, on networks of this test's own."""
    quantizer = Quantizer(branched, environment="fpga")
    if not made:
        first = Quantizer(branched, environment="fpga")
        first.calibrate([{"image": images(24)}], layers="all")
        ranking = first.sensitivity([{"image": images(6, seed=2)}], method="minmax")
        first.quantize(
            tmp_path / "q.onnx",
            method="minmax",
            exclude=["left"],
            overrides={"right": {"method": "percentile"}},
            recover=["bias-correction"],
            held_back=[{"image": images(6, seed=2)}],
            sqnr_target=float(ranking.attrs["int8_db"]) + 1,
        )
        made |= {"session": first, "int8": (tmp_path / "q.onnx").read_bytes()}
    first = made["session"]
    (tmp_path / "q.onnx").write_bytes(made["int8"])
    quantizer.calibration, quantizer.ranking, quantizer.options = first.calibration, first.ranking, first.options
    quantizer.quantized = replace(first.quantized, path=tmp_path / "q.onnx")
    quantizer.mixed = replace(first.mixed, quantized=quantizer.quantized)
    return quantizer


def test_nothing_is_lost(whole: Quantizer, tmp_path: Path, images: Callable[..., Any]) -> None:
    loaded = Quantizer.load(whole.save(tmp_path / "s.quantrig"))
    assert whole.calibration is not None
    assert loaded.calibration is not None
    same_calibration(whole.calibration, loaded.calibration)
    pd.testing.assert_frame_equal(loaded.ranges(), whole.ranges())
    assert loaded.histograms() == whole.histograms()
    assert loaded.quantized == whole.quantized
    assert loaded.quantized is not None
    assert loaded.quantized.steps  # what was tried, too
    assert loaded.mixed == whole.mixed
    assert loaded.mixed is not None
    assert loaded.mixed.float_layers
    assert loaded.options == whole.options
    assert loaded.ranking is not None
    assert whole.ranking is not None
    pd.testing.assert_frame_equal(loaded.ranking, whole.ranking)
    assert loaded.ranking.attrs == whole.ranking.attrs
    x = [{"image": images(8, seed=7)}]
    pd.testing.assert_frame_equal(loaded.layer_errors(x), whole.layer_errors(x))
    # Asked for again in the same words, the same network comes out.
    assert loaded.options is not None
    again = loaded.quantize(
        tmp_path / "again.onnx", held_back=[{"image": images(6, seed=2)}], **loaded.options.arguments()
    )
    assert whole.quantized is not None
    assert again.digest == whole.quantized.digest


def test_a_session_saved_again_is_the_same(whole: Quantizer, tmp_path: Path) -> None:
    first = whole.save(tmp_path / "s.quantrig")
    second = Quantizer.load(first).save(tmp_path / "t.quantrig")
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        assert one.namelist() == other.namelist()
        assert all(one.read(name) == other.read(name) for name in one.namelist())


def test_a_session_works_on_another_machine(
    whole: Quantizer, branched: Path, tmp_path: Path, images: Callable[..., Any]
) -> None:
    assert whole.quantized is not None
    x = [{"image": images(8, seed=7)}]
    errors = whole.layer_errors(x)
    session = whole.save(tmp_path / "s.quantrig")
    branched.unlink()
    whole.quantized.path.unlink()
    there = tmp_path / "there"
    there.mkdir()
    moved = session.rename(there / "s.quantrig")
    loaded = Quantizer.load(moved)
    assert sha256_of(loaded.model) == loaded.digest == whole.digest
    pd.testing.assert_frame_equal(loaded.layer_errors(x), errors)
    loaded.sensitivity([{"image": images(4)}], method="minmax", recover=[])
    folder = loaded.model.parent
    assert folder.is_dir()
    assert list(there.iterdir()) == [moved]  # nothing is left lying about
    del loaded
    assert not folder.exists()
    kept = Quantizer.load(moved, folder=there / "networks")
    assert kept.quantized is not None
    assert {path.name for path in (there / "networks").iterdir()} == {"branched.onnx", "q.onnx"}
    assert kept.quantized.path.parent == there / "networks"


def test_networks_are_found_beside_the_session(whole: Quantizer, branched: Path, tmp_path: Path) -> None:
    assert whole.quantized is not None
    there = tmp_path / "there"
    there.mkdir()
    session = whole.save(tmp_path / "s.quantrig").rename(there / "s.quantrig")
    branched.rename(there / branched.name)
    whole.quantized.path.rename(there / "q.onnx")
    loaded = Quantizer.load(session)
    assert loaded.model == there / branched.name
    assert loaded.int8_network().path == there / "q.onnx"


def test_a_changed_network_is_noticed(whole: Quantizer, branched: Path, tmp_path: Path) -> None:
    session = whole.save(tmp_path / "s.quantrig")
    model = read_model(branched)
    model.producer_name = "edited"
    onnx.save(model, branched)
    with pytest.raises(UserError, match=r"changed since the session was saved; .* or folder=… for the one in"):
        Quantizer.load(session)
    with pytest.raises(UserError, match="changed since the session was saved"):
        Quantizer.load(session, model=branched)
    kept = Quantizer.load(session, folder=tmp_path / "own")
    assert kept.digest == whole.digest
    with pytest.raises(UserError, match="is another network than the session's; choose another folder"):
        Quantizer.load(session, folder=branched.parent)


def test_an_int8_network_that_was_written_over_is_noticed(whole: Quantizer, tmp_path: Path) -> None:
    assert whole.quantized is not None
    session = whole.save(tmp_path / "s.quantrig")
    whole.quantized.path.write_bytes(whole.model.read_bytes())
    with pytest.raises(UserError, match="the int8 network is gone or was changed; quantize again"):
        whole.int8_network()
    assert Quantizer.load(session).int8_network().digest == whole.quantized.digest  # the session has it


def test_large_networks_stay_where_they_are(
    whole: Quantizer, branched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert whole.quantized is not None
    monkeypatch.setattr(session_file, "MAX_NETWORK_BYTES", 1000)
    session = whole.save(tmp_path / "s.quantrig")
    with zipfile.ZipFile(session) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".onnx")]
    assert Quantizer.load(session).int8_network().digest == whole.quantized.digest
    whole.quantized.path.unlink()
    loaded = Quantizer.load(session)  # its calibration is as good as before
    with pytest.raises(UserError, match="the int8 network is gone or was changed; quantize again"):
        loaded.validate([])
    moved = branched.rename(tmp_path / "moved.onnx")
    with pytest.raises(UserError, match="no such network file, and none travels in the session file; say with model="):
        Quantizer.load(session)
    assert Quantizer.load(session, model=moved).calibration is not None


def test_the_state_of_a_recurrent_network_is_kept(tmp_path: Path, builder: Callable[..., Any]) -> None:
    net = builder(0)
    net.add("Add", ["x", "before"], "sum")
    net.add("Gemm", ["sum", net.weights("w", 3, 3)], "after")
    onnx.save(net.model({"x": [1, 3], "before": [1, 3]}, {"after": [1, 3]}), tmp_path / "net.onnx")
    quantizer = Quantizer(tmp_path / "net.onnx", state={"before": "after"})
    quantizer.calibrate([{"x": np.ones((1, 3), np.float32)}] * 5)
    loaded = Quantizer.load(quantizer.save(tmp_path / "s.quantrig"))
    assert loaded.state == {"before": "after"}
    assert loaded.calibration is not None
    assert quantizer.calibration is not None
    same_calibration(quantizer.calibration, loaded.calibration)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(st.sampled_from([np.float32]), st.integers(0, 50), elements=finite)
names = st.text(min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seen=st.dictionaries(names, st.tuples(arrays, st.booleans()), max_size=4),
    kept=st.lists(
        st.dictionaries(
            names,
            hnp.arrays(
                st.sampled_from([np.float32, np.int64, np.uint8, np.bool_, np.float16]),
                hnp.array_shapes(min_dims=0, min_side=0),
            ),
            max_size=2,
        ),
        max_size=3,
    ),
    rows=st.lists(st.tuples(names, names, names, st.floats(allow_nan=False), st.floats(allow_nan=False)), max_size=3),
)
def test_any_calibration_comes_back_to_the_bit(
    tmp_path: Path,
    seen: dict[str, tuple[NDArray[np.float32], bool]],
    kept: list[dict[str, NDArray[np.generic]]],
    rows: list[Row],
) -> None:
    calibration = Calibration(
        "0" * 64,
        "cpu",
        "all",
        7,
        {name: TensorStats.empty(histograms=with_them).seeing(values) for name, (values, with_them) in seen.items()},
        {name: values.astype(np.float64) for name, (values, _) in seen.items()},
        tuple(kept),
        tuple(rows),
        tuple(range(3, 3 + len(kept))),
        {
            name: ChannelSums(np.outer(np.eye(32)[3], values).astype(np.float64), 3)
            for name, (values, _) in seen.items()
        },
    )
    save_session(tmp_path / "s.quantrig", Path("/nowhere/net.onnx"), "0" * 64, "cpu", calibration)
    loaded = load_session(tmp_path / "s.quantrig").calibration
    assert loaded is not None
    same_calibration(calibration, loaded)


def test_the_first_format_is_still_read(whole: Quantizer, tmp_path: Path) -> None:
    """As the first release wrote it: arrays in one nested file, no other results, the first samples kept."""
    session = whole.save(tmp_path / "s.quantrig")
    with zipfile.ZipFile(session) as archive:
        content = json.loads(archive.read("session.json"))
        loaded = {
            name.removeprefix("arrays/").removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)))
            for name in archive.namelist()
            if name.startswith("arrays/") and not name.startswith("arrays/sums")
        }
    old = {name: content[name] for name in ("model", "digest", "environment", "calibration")} | {"version": 1}
    del old["calibration"]["kept_at"]
    del old["calibration"]["sums"]
    buffer = io.BytesIO()
    np.savez(buffer, **loaded)
    with zipfile.ZipFile(tmp_path / "old.quantrig", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("session.json", json.dumps(old))
        archive.writestr("arrays.npz", buffer.getvalue())
    found = Quantizer.load(tmp_path / "old.quantrig").calibration
    assert found is not None
    assert whole.calibration is not None
    count = len(whole.calibration.kept)
    same_calibration(replace(whole.calibration, sums={}, kept_at=tuple(range(count))), found)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half of one"])
def test_what_is_no_session_is_a_user_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.quantrig"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a quantizer session"):
        Quantizer.load(path)
    with pytest.raises(UserError, match="no such session"):
        Quantizer.load(tmp_path / "none.quantrig")


def test_damage_anywhere_is_one_line_or_harmless(whole: Quantizer, tmp_path: Path) -> None:
    good = whole.save(tmp_path / "s.quantrig").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "bad.quantrig"
    for cut in (1, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:-cut])
        with pytest.raises(UserError, match="not a quantizer session, or damaged"):
            Quantizer.load(path)
    harmless = 0
    for _ in range(150):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 3):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bad)
        with contextlib.suppress(UserError):
            load_session(path)
            harmless += 1
    assert harmless < 30  # these hit bytes that mean nothing: dates, attributes


def rewritten(source: Path, out: Path, change: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, change.get(name, archive.read(name)))
        for name in change.keys() - set(archive.namelist()):
            other.writestr(name, change[name])
    return out


def test_crafted_sessions_do_no_harm(whole: Quantizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = whole.save(tmp_path / "s.quantrig")
    with zipfile.ZipFile(session) as archive:
        content = json.loads(archive.read("session.json"))
        counts = next(name for name in archive.namelist() if name.startswith("arrays/counts"))

    def refused(change: dict[str, bytes], match: str = "not a quantizer session, or damaged") -> None:
        with pytest.raises(UserError, match=match):
            Quantizer.load(rewritten(session, tmp_path / "crafted.quantrig", change))

    def header(shape: str, descr: str = "<i8") -> bytes:
        text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"

    refused({counts: header("(1099511627776,)")})  # 8 TB, says the header
    refused({counts: header("(4294967296, 4294967296, 4294967296)")})  # its product overflows 64 bits
    refused({counts: header("(-5,)")})
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"any": "object"}], object), allow_pickle=True)
    refused({counts: buffer.getvalue()})  # a pickle would be run by reading it
    buffer = io.BytesIO()
    np.save(buffer, np.full(2048, -1, np.int64))
    refused({counts: buffer.getvalue()})
    refused({"networks/float.onnx": b"another network"})
    refused(
        {"session.json": json.dumps(content | {"version": 99, "new": 1}).encode()}, "later version .*update quantrig"
    )
    refused({"session.json": b"[" * 100_000})
    monkeypatch.setattr(session_file, "_MAX_ARRAY_BYTES", 20_000_000)
    bomb = io.BytesIO()
    np.save(bomb, np.zeros(4_000_000, np.int64))
    refused({"arrays/bomb.npy": bomb.getvalue()})
    monkeypatch.setattr(session_file, "_MAX_JSON_BYTES", 1000)
    refused({})


def test_an_interrupted_save_leaves_the_old_session(whole: Quantizer, tmp_path: Path) -> None:
    session = whole.save(tmp_path / "s.quantrig")
    before = session.read_bytes()
    whole.options = "not options"  # type: ignore[assignment]  # so that writing fails on the way
    with pytest.raises(ValueError, match="Options"):
        whole.save(session)
    assert session.read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(UserError, match="cannot be written"):
        Quantizer(whole.model).save(tmp_path / "no" / "such" / "folder.quantrig")
