"""Each network of an FPGA target on its own design: which figures come from where, and one line for each mistake."""

from __future__ import annotations

import csv
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import harness
from harness.demo import JOB
from harness.errors import UserError
from harness.record.designs import DesignRecord, DesignRow
from harness.record.figure import Network, Source
from harness.runs.designs import FLOAT_ON_ARM, check_designs, designs_of
from harness.targets.lab import parse_lab
from harness.targets.target import Target

FACTS = Path(__file__).parents[4] / "shared" / "facts" / "fpga"
MODEL = JOB.parent / "digits.onnx"
BOTH = "bitstream: {float: zcu102_single, int8: zcu102_int8}"


def target(fields: str, board: str = "zcu102", environment: str = "fpga") -> Target:
    text = f"targets: {{a: {{board: {board}, environment: {environment}, via: emulated, {fields}}}}}"
    return parse_lab(text, Path("t.yaml")).targets["a"]


def designs(fields: str, board: str = "zcu102") -> tuple[DesignRecord, DesignRecord]:
    one = target(fields, board)
    check_designs([one])
    first, second = designs_of(one, MODEL, MODEL)
    assert (first.network, second.network) == (Network.FLOAT, Network.QUANTIZED)
    return first, second


def row(design: DesignRecord, metric: str) -> DesignRow:
    (found,) = [one for one in design.rows if one.metric == metric]
    return found


def test_each_bitstream_runs_its_network_with_its_own_threads_and_resources() -> None:
    single, int8 = designs(BOTH)
    assert (single.design, int8.design) == ("zcu102_single", "zcu102_int8")
    assert single.digest != int8.digest
    assert [row(single, m).value for m in ("clock_mhz", "conv_threads", "fc_threads")] == [220, 16, 4]
    assert [row(int8, m).value for m in ("conv_threads", "fc_threads")] == [64, 16]
    assert row(int8, "clock_mhz").source is Source.MODELLED  # fitted, not published
    for design in (single, int8):
        fps, p50 = row(design, "fps"), row(design, "latency_p50_ms")
        assert fps.source is p50.source is Source.MODELLED
        assert "fitted" in fps.note
        assert "error of the model" in p50.note
        assert "LogoNet" in fps.note
        assert "error of the model" in design.note
        assert fps.value is not None
        assert p50.value == pytest.approx(1e3 / fps.value)
        assert fps.value == pytest.approx(harness.estimate(MODEL, bitstream=design.design).fps)
        assert any("(HW)" in line for line in design.compile_log)
        assert any("InputData" in line for line in design.compile_log)


def test_resources_are_those_of_the_published_table() -> None:
    if not FACTS.exists():
        pytest.skip("the published tables are not beside the repository")
    with (FACTS / "resource_tables.csv").open(newline="", encoding="utf-8") as file:
        published = {line["bitstream"].partition(" ")[0]: line for line in csv.DictReader(file)}
    for design in designs(BOTH):
        line = published[design.design]
        for number, metric in enumerate(("lut_percent", "bram_percent", "dsp_percent"), start=1):
            assert row(design, metric).value == float(line[f"v{number}"])
            assert row(design, metric).source is Source.PUBLISHED


def test_a_dpu_has_no_float_network_and_no_threads() -> None:
    arm, dpu = designs("dpu: {arch: B4096, clock_mhz: 281, cores: 3}")
    assert {one.value for one in arm.rows} == {None}
    assert {one.note for one in arm.rows} == {FLOAT_ON_ARM}
    assert (arm.digest, arm.compile_log) == ("", ())
    assert row(dpu, "fps").source is Source.MODELLED
    assert row(dpu, "clock_mhz").value == 281
    assert row(dpu, "conv_threads").value is None
    # 3 x 642 DSP slices (PG338's B4096 with low usage has 4096/8 + 2 = 514, with high usage 642) of 2,520
    assert row(dpu, "dsp_percent").value == pytest.approx(100 * 3 * 642 / 2520)
    assert row(dpu, "dsp_percent").source is Source.MODELLED  # three times one core's: not as published
    assert {one.metric for one in arm.rows} == {one.metric for one in dpu.rows}


def test_one_core_is_as_published() -> None:
    _, dpu = designs("dpu: {arch: B4096, cores: 1}")
    assert row(dpu, "dsp_percent").source is Source.PUBLISHED


def test_an_entry_without_a_design_has_the_boards_usual_dpu_and_says_so() -> None:
    _, usual = designs("tags: []", "kv260")
    _, named = designs("dpu: {arch: B4096, clock_mhz: 300, cores: 1}", "kv260")
    assert usual.rows == named.rows
    assert usual.digest == named.digest
    assert usual.note.startswith("the board's usual DPU, since targets.yaml names no `dpu`")
    assert not named.note.startswith("the board's usual DPU")


def test_other_environments_have_no_designs() -> None:
    assert designs_of(target("tags: []", "jetson-orin-nano", "gpu"), MODEL, MODEL) == ()


def test_half_a_lab_entry_is_half_a_result() -> None:
    single, int8 = designs("bitstream: {int8: zcu102_int8}")
    assert row(single, "fps").value is None
    assert "names no bitstream for the float network" in row(single, "fps").note
    assert row(int8, "fps").value is not None


def test_what_no_model_covers_is_an_empty_row_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "net.onnx"
    broken.write_bytes(b"no network")
    _, int8 = designs_of(target(BOTH), MODEL, broken)
    assert row(int8, "fps").value is None
    assert str(broken) in row(int8, "fps").note
    axes: list[str | int | None] = ["batch", 3, "height", "width"]
    value, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", [value], [made])
    model = helper.make_model(graph)
    onnx.save(model, broken)
    _, int8 = designs_of(target(BOTH), MODEL, broken)
    assert row(int8, "fps").value is None
    assert "leaves sizes open (x: height, width)" in row(int8, "fps").note
    assert row(int8, "lut_percent").value == 62.31  # the bitstream fills the logic whatever it runs


@pytest.mark.parametrize(
    ("fields", "board", "message"),
    [
        ("bitstream: {float: zcu102_singel}", "zcu102", r"a: bitstream 'zcu102_singel' is unknown; known are zcu102_s"),
        ("bitstream: {float: zcu102_int8}", "zcu102", r"a: bitstream\.float: zcu102_int8 computes in int8, not in si"),
        ("bitstream: {int8: zcu102_single}", "zcu102", r"a: bitstream\.int8: zcu102_single computes in single, not"),
        ("bitstream: {int8: zcu102_int8}", "kv260", r"a: board 'kv260': bitstream zcu102_int8 is made for its own"),
        ("dpu: {arch: B4096, clock_mhz: 900}", "zcu102", r"a: DPU clock 900\.0 MHz is out of range"),
    ],
)
def test_a_design_that_cannot_be_is_refused_in_one_line(fields: str, board: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_designs([target(fields, board)])
    assert "\n" not in str(caught.value)


def test_a_real_board_may_name_any_bitstream() -> None:
    text = "targets: {a: {board: zcu102, via: {address: '127.0.0.1:5'}, bitstream: {int8: our_own}}}"
    check_designs(parse_lab(text, Path("t.yaml")).targets.values())
