"""Every recorded line of tegrastats, against the values that a reader takes off it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agents.boards.parse.tegrastats import TegrastatsLine, parse_tegrastats
from agents.boards.tegra import telemetry_of, total_power
from tests.agents.boards.conftest import fact

#: Read off by eye, in the file's order: RAM used and total; loads of the cores; GPU load and clock (MHz); number of
#: zones, one of them; number of rails, total power and its rail.
XAVIER = "GPU+CPU+SOC+CV+VDDRQ+SYS5V"
ORIN = "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
OFF = None
LINES: list[tuple[Any, ...]] = [
    (613, 3964, [2, 1, 0, 0], 0, None, 6, ("CPU", 40.5), 3, 900, "POM_5V_IN"),
    (1179, 3983, [1, 4, 0, 0], 0, 76, 8, ("Tdiode", 42.75), 3, 2532, "VDD_IN"),
    (1345, 7829, [2, OFF, OFF, OFF, OFF, OFF], 0, 114, 9, ("AO", 35.5), 6, 2003, "VDD_IN"),
    (1903, 15692, [1, 1, 2, 0, 0, 0, 0, 0], 0, None, 8, ("GPU", 32), 6, 3113, XAVIER),
    (14700, 15692, [0] * 8, 0, None, 8, ("thermal", 30.8), 6, 7632, XAVIER),
    (20642, 62817, [23, 10, 4, 14, 30, 18, 10, 10, 33, 7, 5, 27], 12, 1300, 4, ("cpu", 52.968), 3, 13907, ORIN),
    (18207, 62841, [14, 5, 8, 14, 46, 47, 2, 10, 4, 5, 6, 10], 0, None, 5, ("tj", 52.562), 3, 8726, ORIN),
    (18202, 62841, [16, 6, 4, 4, 4, 33, 0, 40, 3, 46, 6, 2], 0, None, 5, ("soc1", 49.531), 3, 8626, ORIN),
    (4208, 125773, [1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 3, 0, 0, 1], None, None, 4, ("tj", 34.5), 3, None, None),
    (4280, 125773, [0, 0, 0, 0, 1, 0, 1, 0, 0, 17, 1, 9, 0, 1], None, None, 4, ("soc012", 36.062), 3, None, None),
    (4321, 62801, [0] * 12, 0, None, 7, ("SOC1", 41.25), 4, 6755, ORIN),
    (5246, 7771, [47, 23, 32, 22, 31, 96], 0, 1109, 6, ("thermal", 31.35), 3, 6140, "VDD_IN"),
    (3168, 6851, [23, 17, 16, 13, 23, 10], 0, 114, 6, ("CPU", 46.5), 3, 2763, "VDD_IN"),
    (1923, 3964, [5, 4, 3, 6], 0, 76, 6, ("AO", 45), 3, 1750, "POM_5V_IN"),
    (1689, 3825, [3, OFF, OFF, 0, 1, 1], 0, None, 6, ("MCPU", 50.5), 0, None, None),
    (1689, 3825, [2, OFF, OFF, 1, 1, 0], 0, None, 6, ("thermal", 50.3), 0, None, None),
    (1436, 7852, [11, OFF, OFF, 5, 3, 7], 0, 216, 8, ("Tdiode", 36), 6, 2057, "VDD_IN"),
    (1710, 7854, [0, OFF, OFF, 0, 0, 0], 0, 140, 8, ("Tdiode", 29.25), 6, 1183, "VDD_IN"),
    (2927, 3963, [92, 96, 95, 96], 99, None, 7, ("iwlwifi", 57), 3, 8055, "POM_5V_IN"),
    (2437, 3964, [31, 27, 100, 100], 0, None, 7, ("thermal", 35.25), 0, None, None),
    (2690, 6854, [3, 7, 1, 0, OFF, OFF], 0, 510, 5, ("AO", 37.5), 3, 5079, "VDD_IN"),
    (1343, 7620, [0] * 6, 0, 305, 6, ("gpu", 49.625), 3, 5251, "VDD_IN"),
    (6712, 7620, [38, 2, 1, 0, 1, 0], 99, 612, 6, ("soc2", 55.093), 3, 16321, "VDD_IN"),
    (1273, 7620, [0, 0, 1, 0, 0, 0], 0, None, 6, ("soc0", 44.843), 3, 4968, "VDD_IN"),
    (15451, 15656, [13, 32, 75, 22, 68, 7, 3, 36], 43, None, 9, ("cv1", 53.562), 3, 8438, "VDD_IN"),
    (15031, 15656, [80, 80, 100, 76, 87, 67, 70, 76], 50, None, 9, ("cv1", 54), 3, 10187, "VDD_IN"),
    (2390, 7486, [6, 4, 1, 13, 3, 5], 0, None, 6, ("soc1", 46.156), 3, 3848, "VDD_IN"),
]


def recorded() -> list[str]:
    return [line for line in fact("tegrastats_samples.txt").splitlines() if line and not line.startswith("#")]


def parsed(line: str) -> TegrastatsLine:
    found = parse_tegrastats(line)
    assert found is not None
    return found


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_recorded_line_says_what_a_reader_reads(number: int) -> None:
    used, total, cores, gpu, gpu_mhz, zones, (zone, degrees), rails, total_mw, rail = LINES[number]
    line = recorded()[number]
    sample = telemetry_of(parsed(line), 1.0)
    assert (sample.ram_used_mb, sample.ram_total_mb) == (used, total)
    assert list(sample.cpu_percent) == cores
    assert (sample.gpu_percent, sample.clock_mhz) == (gpu, gpu_mhz)
    assert (len(sample.temperature_c), sample.temperature_c[zone]) == (zones, degrees)
    assert (len(sample.power_mw), sample.total_power_mw, sample.total_power_rail) == (rails, total_mw, rail)
    assert sample.throttled is None


def test_every_recorded_line_has_its_values_above() -> None:
    assert len(recorded()) == len(LINES)


@pytest.mark.parametrize("number", range(len(LINES)))
def test_zones_and_rails_are_those_that_a_search_finds(number: int) -> None:
    """Another way to read them: search for the two shapes anywhere in the line, with the words before RAM cut off."""
    line = recorded()[number]
    found = parsed(line)
    zones = re.findall(r"(\w+)@(-?[\d.]+)C\b", line)
    assert found.temperature_c == {name: float(value) for name, value in zones if float(value) > -256}
    rails = re.findall(r"([A-Z]\w+) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+mW)?(?= |$)", line)
    assert found.power_mw == {name: float(value) for name, value in rails if name != "NC"}


@pytest.mark.parametrize(
    ("number", "swap", "iram", "emc", "units"),
    [
        (0, (0, 1982), (None, None), (0, ()), {}),
        (1, (None, None), (0, 252), (7, (408,)), {}),
        (4, (898, 8192), (None, None), (0, ()), {}),
        (6, (86, 31420), (None, None), (3, (2133,)), {"NVENC": (79, (166,), False), "NVDEC": (None, (), True)}),
        (8, (0, 2048), (None, None), (0, (665,)), {"NVENC0_FREQ": (None, (0,), False), "VIC": (None, (), True)}),
        (10, (19, 31400), (None, None), (0, (2133,)), {"VIC_FREQ": (None, (729,), False)}),
        (13, (191, 1982), (0, 252), (0, (1600,)), {}),
    ],
)
def test_the_other_fields(
    number: int, swap: tuple[Any, Any], iram: tuple[Any, Any], emc: tuple[Any, Any], units: dict[str, Any]
) -> None:
    line = parsed(recorded()[number])
    assert (line.swap_used_mb, line.swap_total_mb) == swap
    assert (line.iram_used_kb, line.iram_total_kb) == iram
    assert line.memory_controller is not None
    assert (line.memory_controller.percent, line.memory_controller.clocks_mhz) == emc
    for name, (percent, clocks, off) in units.items():
        load = line.units[name]
        assert (load.percent, load.clocks_mhz, load.off) == (percent, clocks, off)


def test_gpu_clocks_of_several_clusters() -> None:
    line = parsed(recorded()[8])
    assert line.gpu is not None
    assert (line.gpu.percent, line.gpu.clocks_mhz) == (None, (0, 0, 0))
    assert telemetry_of(line, 0.0).clock_mhz is None  # switched off, not 0 MHz
    assert telemetry_of(parsed("RAM 1/2MB GR3D_FREQ 5%@[1300,0]"), 0.0).clock_mhz == 1300


def test_a_sensor_that_is_off_a_rail_to_nothing_and_a_reading_below_zero() -> None:
    line = parsed("CV0@-256C CPU@-12.5C GPU@nanC NC 0mW/0mW VDD_IN -40mW/12mW")
    assert line.temperature_c == {"CPU": -12.5}
    assert line.power_mw == {"VDD_IN": -40}


def test_the_form_of_jetpack_2() -> None:
    line = parsed(
        "RAM 1027/3983MB (lfb 12x4MB) cpu [12%,off,3%,0%]@1734 EMC 7%@408 AVP 0%@12 VDE 0 GR3D 31%@76 EDP limit 0"
    )
    assert [(core.percent, core.clocks_mhz, core.off) for core in line.cpu] == [
        (12, (1734,), False), (None, (), True), (3, (1734,), False), (0, (1734,), False),
    ]  # fmt: skip
    assert line.gpu is not None
    assert (line.gpu.percent, line.gpu.clocks_mhz) == (31, (76,))
    assert line.power_mw == {}


@pytest.mark.parametrize(
    "cut",
    [
        "RAM 613/39",
        "SWAP 0/19",
        "CPU [2%@102,1%@1",
        "GR3D_FREQ 9",
        "EMC_FREQ 13",
        "VDD_IN 276",
        "cpu@5",
        "VDD_IN",
        "RAM",
    ],
)
def test_a_cut_field_is_not_taken_for_another(cut: str) -> None:
    line = parsed(f"tj@40C {cut}")
    assert line.temperature_c == {"tj": 40}
    assert line.ram_used_mb is line.swap_used_mb is None
    assert line.gpu is line.memory_controller is None
    assert line.cpu == ()
    assert line.power_mw == {}


def test_blanks_between_the_cores_do_not_matter() -> None:
    line = parsed("CPU [6%@729, off, 4%@883] GR3D_FREQ 5%@[305, 612]")
    assert [core.percent for core in line.cpu] == [6, None, 4]
    assert line.gpu is not None
    assert line.gpu.clocks_mhz == (305, 612)


def test_totals_are_claimed_only_where_they_are_documented() -> None:
    assert total_power({"VDD_IN": 5.0, "VDD_SOC": 2.0}) == (5.0, "VDD_IN")
    assert total_power({"VDD_GPU": 1.0, "VDD_CPU_SOC_MSS": 2.0, "VIN_SYS_5V0": 3.0}) == (None, None)
    assert total_power({"VDD_GPU_SOC": 1.0, "VIN_SYS_5V0": 3.0}) == (None, None)  # a part is missing
    # The DDR rail is fed from VIN_SYS_5V0 and counted there.
    four = {"VDD_GPU_SOC": 1.0, "VDD_CPU_CV": 2.0, "VIN_SYS_5V0": 3.0, "VDDQ_VDD2_1V8AO": 0.5}
    assert total_power(four) == (6.0, ORIN)
