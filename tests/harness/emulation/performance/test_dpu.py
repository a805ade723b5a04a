"""A DPU as a user orders it, and what it takes of its device."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from harness.emulation.performance.dpu import DPU_ARCHS, dpu_config
from harness.emulation.performance.dpu_resources import DspUsage, dpu_resources
from harness.errors import UserError

TABLE = Path(__file__).parents[5] / "shared/facts/fpga/dpu_resources.csv"


def test_sizes_multiply_as_their_names_say() -> None:
    assert list(DPU_ARCHS) == ["B512", "B800", "B1024", "B1152", "B1600", "B2304", "B3136", "B4096"]
    for name, arch in DPU_ARCHS.items():
        assert 2 * arch.pixels * arch.input_channels * arch.output_channels == int(name[1:]) == arch.peak_ops_per_cycle


@pytest.mark.parametrize(
    ("board", "arch", "clock_mhz", "cores"),
    [
        ("zcu102", "B4096", 281, 3),
        ("ZCU104", "B4096", 300, 2),
        ("kv260", "B4096", 300, 1),
        ("Ultra96", "B1600", 287, 1),
    ],
)
def test_a_board_has_a_usual_dpu(board: str, arch: str, clock_mhz: float, cores: int) -> None:
    config = dpu_config(board=board)
    assert (config.arch.name, config.clock_mhz, config.cores) == (arch, clock_mhz, cores)
    assert config.peak_ops_per_second == int(arch[1:]) * clock_mhz * 1e6
    assert dpu_config(arch, clock_mhz, cores, board) == config


def test_names_as_people_write_them() -> None:
    assert dpu_config("B4096F", 300, 1, "KV260").arch.name == "B4096"
    assert dpu_config("dpuczdx8g_b512").arch.name == "B512"
    assert str(dpu_config("b1024", 200, 2, "ultra96-")) == "2 x B1024 at 200 MHz on Ultra96"
    assert dpu_config(memory_gb_per_s=4.5).memory_gb_per_s == 4.5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"arch": "B5000"}, "choose one of B512, .*B4096"),
        ({"arch": "DPUCVDX8G-192AIE"}, "of another making.*does not explain at all.*B4096"),
        ({"board": "vck190"}, "another DPU.*does not explain at all.*zcu102, zcu104, kv260, ultra96"),
        ({"board": "pynq"}, "choose one of zcu102, zcu104, kv260, ultra96"),
        ({"clock_mhz": 0}, "out of range; give 1 to 400 .zcu102 usually has 281"),
        ({"clock_mhz": float("nan")}, "out of range"),
        ({"clock_mhz": 667}, "out of range"),
        ({"cores": 0}, "1 to 4 cores, not 0"),
        ({"cores": 5}, "1 to 4 cores, not 5"),
        ({"memory_gb_per_s": -1}, "memory bandwidth -1 GB/s"),
    ],
)
def test_what_is_no_dpu_is_the_users_error_in_one_line(given: dict[str, str | float | int], says: str) -> None:
    with pytest.raises(UserError) as caught:
        dpu_config(**given)  # type: ignore[arg-type]
    assert re.search(says, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arch", DPU_ARCHS)
def test_dsps_of_low_usage_follow_the_closed_form(arch: str) -> None:
    low = dpu_resources(dpu_config(arch, cores=1), "low").use("DSP")
    assert low.count == int(arch[1:]) / 8 + 2
    assert low.origin == "published"


@pytest.mark.skipif(not TABLE.exists(), reason="../shared/facts is not here")
def test_one_core_is_the_published_table() -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        usage: DspUsage = "high" if row["dsp_usage"] == "high" else "low"
        found = dpu_resources(dpu_config(row["arch"], cores=1), usage)
        assert [use.count for use in found.uses] == [float(row[n]) for n in ("lut", "register", "bram", "dsp")]
        assert {use.source for use in found.uses} == {row["source"]}
        assert {use.origin for use in found.uses} == {"published"}


def test_several_cores_are_scaled_and_say_so() -> None:
    found = dpu_resources(dpu_config(board="zcu102"))
    assert {use.origin for use in found.uses} == {"scaled"}
    assert found.use("DSP").count == 3 * 642
    assert found.use("DSP").share == 3 * 642 / 2520
    assert found.use("LUT").share == 3 * 40865 / 274080
    assert any("3 times one" in note for note in found.notes)
    assert any("14790 LUT, 22.5 block RAMs and 144 DSP" in note for note in found.notes)


def test_what_does_not_fit_says_where_the_rest_lies() -> None:
    found = dpu_resources(dpu_config(board="kv260"))
    share = found.use("BRAM").share
    assert share is not None
    assert share > 1
    assert any("UltraRAM" in note for note in found.notes)
    assert dpu_resources(dpu_config(board="ultra96")).use("LUT").share is None
