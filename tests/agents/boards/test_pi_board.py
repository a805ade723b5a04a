"""A Raspberry Pi from a tree of its files and a stand-in for vcgencmd."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agents.boards import find_board
from agents.boards.base import Sampler
from agents.boards.raspberry_pi import RaspberryPi, RaspberryPiSampler
from tests.agents.boards.conftest import Tree

Closing = Callable[[Sampler], Sampler]
FILES = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/meminfo": "MemTotal: 8252928 kB\nMemAvailable: 4126464 kB\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "active\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "50000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    "throttled": "throttled=0x50000\n",
}
#: Twelve rails of 1 V and 0.1 A.
RAILS = (
    *("3V7_WL_SW", "3V3_SYS", "1V8_SYS", "DDR_VDD2", "DDR_VDDQ", "1V1_SYS"),
    *("0V8_SW", "VDD_CORE", "3V3_DAC", "3V3_ADC", "0V8_AON", "HDMI"),
)
ADC = "".join(
    f"  {rail}_A current({number})=0.10000000A\n  {rail}_V volt({number + 12})=1.00000000V\n"
    for number, rail in enumerate(RAILS)
)


def vcgencmd(tree: Tree, adc: str) -> None:
    """Answers as the firmware of a Pi does; what it does not know it says on stdout, with status 0."""
    tree.tool(
        "vcgencmd",
        f"""
        echo "$@" >> "{tree.root}/asked"
        case "$*" in
        get_throttled) cat "{tree.root}/throttled";;
        "measure_clock arm") echo "frequency(0)=1500019456";;
        pmic_read_adc) cat <<END
{adc}
END
        ;;
        version) printf 'Aug 20 2024 11:02:51\\nCopyright (c) 2012 Broadcom\\nversion 28ab76fc (release) (start)\\n';;
        *) echo 'error=1 error_msg="Command not registered"';;
        esac""",
    )


@pytest.fixture
def pi(tree: Tree) -> Tree:
    tree.put(FILES)
    vcgencmd(tree, ADC)
    return tree


def test_identity(pi: Tree) -> None:
    path = pi.root / "proc/device-tree/chosen/power/max_current"
    path.parent.mkdir(parents=True)
    path.write_bytes((5000).to_bytes(4, "big"))
    board = find_board("raspberry-pi-5", pi.sources)
    assert isinstance(board, RaspberryPi)
    assert board.identity().model == "Raspberry Pi 5 Model B Rev 1.0"
    assert board.details() == {
        "firmware": "28ab76fc",
        "throttled_since_boot": "under-voltage, throttled",
        "supply_ma": "5000",
    }


def test_a_sample_of_a_pi_5(pi: Tree, closing: Closing) -> None:
    sample = closing(RaspberryPiSampler(pi.sources)).sample()
    assert sample.clock_mhz == pytest.approx(1500.019456)  # measured, not the 2400 MHz that were asked for
    assert sample.clocks_mhz == {"cpu": 2400, "arm": pytest.approx(1500.019456)}
    assert sample.temperature_c == {"cpu-thermal": 48.312}
    assert sample.power_mw == {rail: pytest.approx(100) for rail in RAILS}
    assert sample.total_power_mw == pytest.approx(1200)
    assert sample.total_power_rail == "PMIC rails (without 5V: USB, HAT, fan)"
    assert sample.throttled is False  # what sticks happened before


def test_throttling_while_it_is_watched(pi: Tree, closing: Closing) -> None:
    sampler = closing(RaspberryPiSampler(pi.sources))

    def reasons(files: dict[str, str]) -> list[str]:
        pi.put(files)
        sample = sampler.sample()
        assert sample.throttled is bool(sample.throttled_by)
        return list(sample.throttled_by)

    assert reasons({"throttled": "throttled=0xd0000"}) == ["soft temperature limit since the last sample"]
    assert reasons({}) == []
    assert reasons({"throttled": "throttled=0xd0008"}) == ["soft temperature limit"]
    hot = {"throttled": "throttled=0xd0000", "sys/class/thermal/thermal_zone0/temp": "107500\n"}
    assert reasons(hot) == ["cpu-thermal at 107.5 °C, its critical trip is 110 °C"]


def test_a_pi_4_is_not_asked_again_for_what_it_does_not_know(pi: Tree, closing: Closing) -> None:
    vcgencmd(pi, 'error=1 error_msg="Command not registered"')
    sampler = closing(RaspberryPiSampler(pi.sources))
    (pi.root / "asked").unlink()
    sample = sampler.sample()
    assert (pi.root / "asked").read_text().splitlines() == ["get_throttled", "measure_clock arm"]
    assert sample.power_mw == {}
    assert sample.total_power_mw is None
    assert sample.throttled is False


def test_without_the_firmware_the_kernels_files_tell(tree: Tree, closing: Closing) -> None:
    tree.put(FILES)
    # Not a device node: what it is asked, it does not answer.
    tree.put({"dev/vcio": ""})
    sample = closing(RaspberryPiSampler(tree.sources)).sample()
    assert sample.temperature_c == {"cpu-thermal": 48.312}
    assert sample.clock_mhz == 2400
    assert sample.throttled is False  # of the zone's trip alone
    assert RaspberryPi("raspberry-pi-5", tree.sources).details() == {}
