"""What a Raspberry Pi's firmware answers: recorded answers, and the verdict over a series of them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.mailbox import answer, question
from agents.boards.parse.vcgencmd import PMIC_RAILS, Reading, ThrottleWatch, parse_answer, parse_line
from tests.agents.boards.conftest import fact


def block(after: str) -> str:
    """The lines of the recording below the comment that contains `after`, up to the next comment."""
    text = fact("rpi_samples.txt").split(after)[1].partition("\n")[2]
    return text.partition("\n#")[0]


def test_the_whole_block_of_a_pi_5() -> None:
    reading = parse_answer(block("pmic_read_adc, Pi 5"))
    assert reading.amperes.keys() == PMIC_RAILS
    assert reading.volts.keys() == PMIC_RAILS | {"EXT5V", "BATT"}
    # 1.4288 A x 0.9065925 V, by hand.
    assert reading.power_mw["VDD_CORE"] == pytest.approx(1295.339364)
    assert reading.power_mw["3V3_SYS"] == pytest.approx(108.3282 * 3.309105)
    assert "EXT5V" not in reading.power_mw  # a voltage only
    assert reading.total_power_mw == pytest.approx(2947.977, abs=0.001)


def test_a_part_of_the_rails_has_no_total() -> None:
    reading = parse_answer(block("Real Pi 5 format"))
    assert set(reading.power_mw) == {"3V3_SYS", "VDD_CORE"}
    assert reading.power_mw["VDD_CORE"] == pytest.approx(0.81262990 * 0.88187950e3)
    assert reading.total_power_mw is None


def test_one_line_of_each_command() -> None:
    assert parse_line("throttled=0x50005") == Reading(throttled_bits=0x50005)
    assert parse_line("temp=48.8'C") == Reading(temperature_c=48.8)
    assert parse_line("frequency(48)=1500345728") == Reading(clocks_mhz={"arm": 1500.345728})
    assert parse_line("frequency(0)=2400012288") == Reading(clocks_mhz={"arm": 2400.012288})
    assert parse_line("frequency(1)=500000992") == Reading(clocks_mhz={"core": 500.000992})
    assert parse_line("frequency(22)=250000000") == Reading(clocks_mhz={"clock 22": 250.0})
    assert parse_line("volt=0.8765V") == Reading(volts={"measured": 0.8765})
    assert parse_line("     EXT5V_V volt(24)=4.77978000V") == Reading(volts={"EXT5V": 4.77978})
    assert parse_line('error=1 error_msg="Command not registered"') == Reading(refused=True)


def test_several_answers_on_a_line_and_the_documentations_loops() -> None:
    assert parse_line("throttled=0x4 temp=71.3'C frequency(48)=600000000") == Reading(
        throttled_bits=4, temperature_c=71.3, clocks_mhz={"arm": 600}
    )
    assert parse_line("v3d:\tfrequency(46)=500000992") == Reading(clocks_mhz={"v3d": 500.000992})
    assert parse_line("sdram_c:\tvolt=1.1000V") == Reading(volts={"sdram_c": 1.1})


@pytest.mark.parametrize(
    "line", ["", "throttled=", "throttled=5", "temp=hot", "VDD_CORE_A volt(7)=1.4V", "VDD_CORE_V current(7)=1A", "x"]
)
def test_what_is_no_answer(line: str) -> None:
    assert parse_line(line) is None


def test_the_bits_mean_what_the_documentation_says() -> None:
    """The table of the recording: bit, mask, meaning; one public script has bits 17 and 18 the wrong way round."""
    said = {1: "under-voltage", 2: "ARM frequency capped", 4: "throttled", 8: "soft temperature limit"}
    table = [line.split(None, 2) for line in block("get_throttled bit table").splitlines()]
    assert len(table) == 8
    for bit, mask, meaning in table:
        assert 1 << int(bit) == int(mask, 16)
        if int(bit) < 16:
            (reason,) = ThrottleWatch().reasons(int(mask, 16)) or [""]
            assert reason == said[int(mask, 16)]
            words = {"Undervoltage": "under-voltage", "capped": "capped", "throttled": "throttled", "Soft": "soft"}
            assert any(word in meaning and told in reason for word, told in words.items())


def test_only_bits_that_are_set_now_or_became_sticky_count() -> None:
    watch = ThrottleWatch()
    assert watch.reasons(0x50000) == []  # happened before anyone watched
    assert watch.reasons(0x50000) == []
    assert watch.reasons(0xD0000) == ["soft temperature limit since the last sample"]
    assert watch.reasons(0xD0000) == []  # told once
    assert watch.reasons(0xD0004) == ["throttled"]
    assert watch.reasons(None) is None
    assert watch.reasons(0xF0002) == ["ARM frequency capped"]  # now and newly sticky: told once


@given(st.lists(st.integers(0, 0xFFFFF), min_size=1))
def test_a_sticky_bit_is_told_at_most_once(series: list[int]) -> None:
    watch = ThrottleWatch()
    told = [reason for bits in series for reason in watch.reasons(bits) or [] if reason.endswith("last sample")]
    assert len(told) == len(set(told))
    first = series[0] >> 16
    assert len(told) <= 4 - first.bit_count()


@given(st.text(max_size=100) | st.text("throttled=0xA_V curentvolt(1)=.9V ", max_size=80))
def test_garbage_never_fails(text: str) -> None:
    parse_answer(text)


def test_the_message_to_the_device_node() -> None:
    """As raspberrypi/firmware's wiki draws a property message: sizes, the tag, the text, an end tag."""
    message = question("get_throttled")
    words = struct.unpack_from("=6I", message)
    assert words == (len(message), 0, 0x00030080, 1024, 0, 0)
    assert len(message) % 4 == 0
    assert bytes(message[24:38]) == b"get_throttled\0"
    assert message[-4:] == b"\0\0\0\0"
    came_back = bytearray(message)
    struct.pack_into("=I", came_back, 4, 0x80000000)
    came_back[24:40] = b"throttled=0x0\0\0\0"
    assert answer(came_back) == "throttled=0x0"
    struct.pack_into("=I", came_back, 20, 1)
    assert answer(came_back) == ""  # the firmware's own error number
    assert answer(message) == ""  # nobody answered it
    with pytest.raises(ValueError, match="at most 1024"):
        question("x" * 1024)
