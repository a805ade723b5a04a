"""`harness.estimate` and `quantrig estimate`, as a user calls them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import harness
from harness.cli.estimate import render
from harness.cli.main import main
from harness.errors import UserError
from tests.e2e.whole_run import tiny_network
from tests.harness.emulation.performance.networks import node, weights, write


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


@pytest.fixture(name="quantrig")
def _quantrig(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command as its entry point runs it, in this process."""

    def run(*arguments: str, code: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", ["quantrig", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        if code:
            assert (out, err.count("\n")) == ("", 1), err
        return Done(out, err)

    return run


@pytest.fixture(name="tiny", scope="module")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("estimate") / "tiny.onnx"
    tiny_network(path)
    return path


def test_python(logonet: Path) -> None:
    found = harness.estimate(logonet, bitstream="zcu102_single")
    assert isinstance(found.layers, pd.DataFrame)
    assert found.cycles == pytest.approx(39_136_574, rel=0.01)
    assert found.fps == pytest.approx(5.6213, rel=0.01)
    assert found.layers["cycles"].sum() == pytest.approx(found.cycles)
    assert found.layers["seconds"].sum() == pytest.approx(found.seconds)
    row = found.layers.set_index("layer").loc["conv_2"]
    assert (row["type"], row["where"], row["bound"], row["group"]) == ("Conv", "HW", "compute", 2)
    # 109 x 109 x 128 outputs of 3 x 3 x 96 products, 144 of which the module does in a cycle
    assert row["utilization"] == pytest.approx(109 * 109 * 128 * 9 * 96 / (row["cycles"] * 144))
    assert row["fps"] == pytest.approx(220e6 / row["cycles"])
    assert found.memory_map is not None
    assert found.memory_map["InputData"].offset_bytes == 0
    assert "estimate" in found.remarks[0]


def test_a_dpu(logonet: Path) -> None:
    found = harness.estimate(logonet, dpu="B4096", clock_mhz=300, cores=1, board="zcu104")
    assert found.fps > 0
    assert found.clock_mhz == 300
    assert found.memory_map is None
    assert {"LUT", "DSP"} <= {share.name for share in found.resources}
    assert len(found.layers) == 14


def test_json_says_everything(tiny: Path, quantrig: Callable[..., Done]) -> None:
    said = json.loads(quantrig("estimate", str(tiny), "--bitstream", "zcu102_int8", "--json").stdout)
    found = harness.estimate(tiny, bitstream="zcu102_int8")
    assert said["kind"] == "modelled"
    assert (said["fps"], said["cycles"]) == (found.fps, found.cycles)
    assert [row["layer"] for row in said["layers"]] == list(found.layers["layer"])
    assert said["error"]["fitted"] == found.error.fitted
    assert [row["buffer"] for row in said["memory_map"]] == list(found.memory_map or ())
    assert {share["origin"] for share in said["resources"]} == {"published"}
    assert said["compile_log"][-1] == "Compiled"
    dpu = json.loads(quantrig("estimate", str(tiny), "--dpu", "B1152", "--board", "ultra96", "--json").stdout)
    assert dpu["memory_map"] is None
    assert dpu["fps"] > 0


def test_the_table_carries_the_error_of_the_model(tiny: Path, quantrig: Callable[..., Done]) -> None:
    shown = quantrig("estimate", str(tiny), "--bitstream", "zcu102_int8").stdout
    assert "modelled, not measured" in shown
    row = next(line for line in shown.splitlines() if line.startswith("conv1"))
    assert row.split()[1:3] == ["Conv", "HW"]
    flat = " ".join(shown.split())
    for words in ("250 MHz", "FPS", "(fitted)", "19.433 FPS: -2.7 %", "InputData", "LUT 170,779 (62.3 %)", "MathWorks"):
        assert words in flat, words
    custom = quantrig("estimate", str(tiny), "--conv-threads", "9", "--fc-threads", "2", "--clock-mhz", "100").stdout
    flat = " ".join(custom.split())  # a long path breaks its line anywhere
    assert "9/2 threads" in flat
    assert "interpolated" in flat


def test_the_log_alone(tiny: Path, quantrig: Callable[..., Done]) -> None:
    lines = quantrig("estimate", str(tiny), "--bitstream", "zcu102_single", "--log").stdout.splitlines()
    assert lines == list(harness.estimate(tiny, bitstream="zcu102_single").compile_log)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_shows_every_layer_and_whole_numbers(logonet: Path, width: int) -> None:
    found = harness.estimate(logonet, bitstream="zcu102_single")
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as shown:
        render(found, console)
    text = shown.get()
    assert max(len(line) for line in text.splitlines()) <= width
    if width >= 60:
        for cycles in found.layers["cycles"].dropna():
            assert f"{cycles:,.0f}" in text
        assert "InputData" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bitstream", "zcu999"), "known are zcu102_single, zcu102_int8, arria10soc_single"),
        ((), "which device?"),
        (("--bitstream", "zcu102_int8", "--dpu", "B4096"), "exclude each other"),
        (("--conv-threads", "4", "--cores", "2"), "exclude each other"),
        (("--conv-threads", "15"), "must be a square"),
        (("--clock-mhz", "300"), "which device?"),
        (("--bitstream", "zcu102_int8", "--board", "kv260"), "made for its own board"),
        (("--dpu", "B77"), "B4096"),
        (("--dpu", ""), "which device?"),
        (("--bitstream", ""), "known are zcu102_single"),
    ],
)
def test_one_line_says_what_is_wrong(
    tiny: Path, quantrig: Callable[..., Done], arguments: tuple[str, ...], words: str
) -> None:
    assert words in quantrig("estimate", str(tiny), *arguments, code=2).stderr


def test_what_is_no_network_is_refused(tmp_path: Path, quantrig: Callable[..., Done]) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    for name in ("absent.onnx", "text.onnx"):
        assert name in quantrig("estimate", str(tmp_path / name), "--bitstream", "zcu102_int8", code=2).stderr


@pytest.mark.parametrize("device", [{"bitstream": "zcu102_int8"}, {"dpu": "B4096"}])
def test_what_a_device_has_no_window_for_is_no_time(tmp_path: Path, device: dict[str, Any]) -> None:
    volume = write(
        tmp_path / "3d.onnx", [node("Conv", ["x", "w"], "c")], [weights("w", 8, 3, 3, 3, 3)], (1, 3, 9, 9, 9), ["c"]
    )
    with pytest.raises(UserError, match="3 axes"):
        harness.estimate(volume, **device)
    computed = write(tmp_path / "w.onnx", [node("Conv", ["x", "x"], "c")], [], (3, 3, 1, 1), ["c"])
    with pytest.raises(UserError, match="weights are computed"):
        harness.estimate(computed, **device)


@pytest.mark.parametrize("device", [{"bitstream": "zcu102_int8"}, {"dpu": "B4096"}])
def test_open_sizes_are_said_beside_the_figures(tmp_path: Path, device: dict[str, Any]) -> None:
    path = write(tmp_path / "open.onnx", [node("Relu", ["x"], "r")], [], ("batch", 3, "height", "width"), ["r"])
    assert "x: height, width" in harness.estimate(path, **device).remarks[0]


def test_rows_of_the_fit_are_not_called_rows_beside_it(tiny: Path, quantrig: Callable[..., Done]) -> None:
    shown = " ".join(quantrig("estimate", str(tiny), "--bitstream", "zcu102_single").stdout.split())
    assert "median 0.7 % on 11 published rows of its fit, each left out of it in turn." in shown
    shown = " ".join(quantrig("estimate", str(tiny), "--dpu", "B4096").stdout.split())
    assert "median 5.0 % on 64 published rows that it was not fitted to." in shown


def test_threads_do_not_go_with_a_dpu(tiny: Path) -> None:
    bad: dict[str, Any] = {"dpu": "B4096", "fc_threads": 4}
    with pytest.raises(UserError, match="exclude"):
        harness.estimate(tiny, **bad)
