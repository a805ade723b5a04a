"""xdputil, show_dpu, platformstats and hwmon recordings against what a reader takes off them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.parse import hwmon
from agents.boards.parse.platformstats import parse_platformstats
from agents.boards.parse.xdputil import Dpu, parse_show_dpu, parse_xdputil
from tests.agents.boards.conftest import fact


def block(after: str) -> str:
    """The recording below the comment that contains `after`, up to the next comment."""
    text = fact("xilinx_samples.txt").split(after)[1].partition("\n")[2]
    return text.partition("\n#")[0]


B4096 = "DPUCZDX8G_ISA1_B4096"
UNIT = "DPUCZDX8G:DPUCZDX8G_1"


@pytest.mark.parametrize(
    ("after", "core", "ip_version", "vart"),
    [
        ("id 46132895293 -- KV260", Dpu(B4096, "0x101000016010407", 300, UNIT), "v4.0.0", "2.5.0"),
        ("id 45403625989 -- KV260", Dpu(B4096, "0x101000056010407", 300, UNIT), "v4.1.0", "3.0.0"),
        # Log lines stand before the JSON, and the second unit is no DPU.
        ("id 16408575567", Dpu("DPUCZDX8G_ISA1_B3136", "0x101000016010406", 300, UNIT), "v4.0.0", ""),
        ("id 10308911920", Dpu("DPUCZDX8G_ISA0_B2304_MAX_BG2", "0x1000020f6014405", 200, UNIT), "v3.3.0", ""),
    ],
)
def test_a_recorded_query(after: str, core: Dpu, ip_version: str, vart: str) -> None:
    query = parse_xdputil(block(after))
    assert query is not None
    assert query.cores == (core,)
    assert (query.ip_version, query.vart_version) == (ip_version, vart)
    assert query.target_version == ("v1.4.1" if "10308911920" in after else "")


def test_show_dpu() -> None:
    query = parse_show_dpu(block("id 46132895293 -- KV260"))
    assert query is not None
    assert query.cores == (Dpu("", "0x101000016010407", None, UNIT),)
    assert parse_show_dpu("device_core_id=0 device= 0 core = 0 fingerprint = 0x0 batch = 1") is None


@pytest.mark.parametrize(
    "text", ["", "{", "{}", '{"kernels": 3}', "[]", '{"kernels": [3, {"fingerprint": 7}]} x', "{" * 5000]
)
def test_an_answer_without_cores(text: str) -> None:
    query = parse_xdputil(text)
    assert query is None or query.cores == ()


def test_platformstats() -> None:
    stats = parse_platformstats(block("sudo xmutil xlnx_platformstats"))
    assert stats.cpu_percent == {0: 0, 1: 0, 2: 0, 3: 0.980392}
    assert (stats.memory_kb["MemTotal"], stats.memory_kb["MemAvailable"]) == (3995884, 3563064)
    assert stats.memory_kb["CmaFree"] == 805716
    assert stats.power_mw == {"SOM total power": 3100}
    assert stats.current_ma == {"SOM total current": 616}
    assert stats.voltage_mv["SOM total voltage"] == 5017
    assert stats.voltage_mv["Voltage measurement for six DDR I/O PLLs, VCC_PSDDR_PLL"] == 1799
    assert stats.temperature_c == {"LPD": 30, "FPD (REMOTE)": 28, "PL": 27}
    assert stats.cpu_mhz == dict.fromkeys(range(4), 1333.333008)


def test_hwmon_files_find_their_chip_by_name() -> None:
    """The form of the recording, with the units it states: microwatts, milliamperes, millivolts."""
    lines = [
        "/sys/class/hwmon/hwmon2/name -> ina260_u14",
        "/sys/class/hwmon/hwmon2/power1_input -> 3100000",
        "/sys/class/hwmon/hwmon2/curr1_input: 616",
        "/sys/class/hwmon/hwmon2/in1_input=5017",
        "/sys/class/hwmon/hwmon0/name ina226_u76",
        "/sys/class/hwmon/hwmon0/in1_input 850",
        "/sys/class/hwmon/hwmon0/curr1_input 2000",
        "/sys/class/hwmon/hwmon3/temp1_input:48312",
        "/sys/class/hwmon/hwmon3/temp1_label:PL",
    ]
    parsed = [hwmon.parse_line(line) for line in lines]
    assert None not in parsed
    temperatures, powers = hwmon.rails_of(line for line in parsed if line is not None)
    assert temperatures == {"hwmon3/PL": pytest.approx(48.312)}
    assert powers == {"ina260_u14/power1": 3100, "ina226_u76/power1": pytest.approx(1700)}


def test_the_table_of_sensors() -> None:
    """As `sensors` of lm-sensors 3.6 prints it."""
    text = """ina260_u14-i2c-1-40
Adapter: Cadence I2C at ff030000
in1:           5.02 V
curr1:       616.00 mA
power1:        3.10 W

ams-isa-0000
Adapter: ISA adapter
PS temp:      +30.5°C  (crit = +100.0°C)
"""
    lines = [hwmon.parse_line(line) for line in text.splitlines() if line and not hwmon.is_adapter(line)]
    assert None not in lines
    temperatures, powers = hwmon.rails_of(line for line in lines if line is not None)
    assert temperatures == {"ams/PS temp": 30.5}
    assert powers == {"ina260_u14/power1": pytest.approx(3100)}


@given(st.text(max_size=200))
def test_garbage_never_fails(text: str) -> None:
    parse_platformstats(text)
    parse_show_dpu(text)
    parse_xdputil(text)
    parse_xdputil("{" + text)
    line = hwmon.parse_line(text)
    hwmon.rails_of([] if line is None else [line])
