"""Resources of MathWorks' processors: the published percentages, and what is scaled is called so."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from harness.emulation.performance.processors import PROCESSORS, find_processor
from harness.emulation.performance.resources import processor_resources

TABLE = Path(__file__).parents[5] / "shared/facts/fpga/resource_tables.csv"
#: LUT, BRAM and DSP in percent, threads: MathWorks' documentation of dlquantizer; arria10soc_single: getBuildInfo.
PUBLISHED = {
    "zcu102_single": ((93.198, 63.925, 15.595), 16, 4),
    "zcu102_int8": ((62.31, 50.11, 32.103), 64, 16),
    "arria10soc_single": ((37.18, 100.0, 16.48), 16, 16),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_figures_come_as_they_are(name: str) -> None:
    percents, conv_threads, fc_threads = PUBLISHED[name]
    processor = PROCESSORS[name]
    found = processor_resources(processor)
    assert tuple(item.percent for item in found) == percents
    assert [item.name for item in found] == ["LUT", "BRAM", "DSP"]
    assert {item.origin for item in found} == {"published"}
    assert all(item.source for item in found)
    assert (processor.conv_threads, processor.fc_threads) == (conv_threads, fc_threads)
    for item in found:
        assert 100 * item.count / item.total == pytest.approx(item.percent, abs=0.06)


@pytest.mark.skipif(not TABLE.is_file(), reason="../shared/facts/fpga is not here")
def test_they_are_those_of_the_facts() -> None:
    with TABLE.open(encoding="utf-8") as file:
        rows = {row["bitstream"].split()[0]: row for row in csv.DictReader(file)}
    for name in ("zcu102_single", "zcu102_int8"):
        values = [float(rows[name][f"v{number}"]) for number in (1, 2, 3)]
        assert [item.percent for item in processor_resources(PROCESSORS[name])] == values
        assert rows[name]["threads_conv/fc"] == f"{PROCESSORS[name].conv_threads}/{PROCESSORS[name].fc_threads}"
    counts = [re.match(r"(\d+)/(\d+)", rows["arria10soc_single"][f"v{number}"]) for number in (1, 2, 3)]
    found = processor_resources(PROCESSORS["arria10soc_single"])
    assert [(item.count, item.total) for item in found] == [tuple(map(int, m.groups())) for m in counts if m]


def test_other_threads_are_interpolated_and_say_from_what() -> None:
    four_times = processor_resources(find_processor("zcu102_single", conv_threads=64, fc_threads=16))
    base = processor_resources(PROCESSORS["zcu102_single"])
    for scaled, one in zip(four_times, base, strict=True):
        assert scaled.origin == "interpolated"
        assert "zcu102_single (16/4 threads)" in scaled.source
        assert scaled.percent == pytest.approx(one.percent * (1 if one.name == "BRAM" else 4), abs=1e-3)
        assert "one published" not in one.source
    unchanged = processor_resources(find_processor("zcu102_single", clock_mhz=150))
    assert [item.percent for item in unchanged] == [item.percent for item in base]
    assert {item.origin for item in unchanged} == {"published"}


def test_scaled_multipliers_of_one_data_type_do_not_contradict_the_default_estimate() -> None:
    """MathWorks estimates 377 DSPs for 16/4 threads in single precision, apart from the table that is scaled here."""
    dsp = processor_resources(PROCESSORS["zcu102_single"])[2]
    assert dsp.count == pytest.approx(377, rel=0.05)
