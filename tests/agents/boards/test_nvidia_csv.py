"""nvidia-smi's CSV, in the forms of its options, and the reasons of nvml.h."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.parse.nvidia_smi import CLOCK_REASONS, REJECTED, parse_header, parse_row, throttle_reasons
from agents.boards.smi_telemetry import telemetry_of
from tests.agents.boards.conftest import fact

HEADER = (
    "timestamp, index, utilization.gpu [%], temperature.gpu, power.draw [W], clocks.current.sm [MHz], "
    "clocks_event_reasons.active"
)
ROW = "2026/11/21 18:00:00.123, 0, 97 %, 61, 287.51 W, 1755 MHz, 0x0000000000000004"


def test_a_row_with_units() -> None:
    names = parse_header(HEADER)
    assert names is not None
    reading = parse_row(ROW, names)
    assert reading is not None
    sample = telemetry_of(reading, 0.0)
    assert (sample.gpu_percent, sample.clock_mhz) == (97, 1755)
    assert sample.temperature_c == {"gpu0": 61}
    assert sample.total_power_mw == pytest.approx(287510)
    assert sample.total_power_rail == "gpu0"
    assert sample.throttled is False  # the power cap alone does not spoil a block
    assert sample.ram_used_mb is None


def test_without_units_and_with_what_the_gpu_does_not_support() -> None:
    names = parse_header("utilization.gpu, temperature.gpu, power.draw.instant, clocks_throttle_reasons.active")
    assert names is not None
    reading = parse_row("[N/A], 43, [Not Supported], 0x0000000000000028", names)
    assert reading is not None
    sample = telemetry_of(reading, 0.0)
    assert sample.gpu_percent is sample.total_power_mw is None
    assert sample.total_power_rail is None
    assert sample.temperature_c == {"gpu0": 43}
    assert list(sample.throttled_by) == ["hardware slowdown", "software thermal slowdown"]


def test_single_reasons() -> None:
    names = parse_header("temperature.gpu, clocks_throttle_reasons.hw_slowdown, clocks_throttle_reasons.sw_power_cap")
    assert names is not None
    for said, expected in (("Active", ["hardware slowdown"]), ("Not Active", [])):
        reading = parse_row(f"43, {said}, Active", names)
        assert reading is not None
        assert throttle_reasons(reading.reasons or 0) == expected
    unknown = parse_row("43, [N/A], [N/A]", names)
    assert unknown is not None
    assert telemetry_of(unknown, 0.0).throttled is None


def test_the_reasons_are_those_of_the_header() -> None:
    """The bits and the set that rejects a block stand in the facts, taken from nvml.h."""
    facts = fact("nvml_fields.txt")
    said = facts.split("reasons (bitmask): ")[1].splitlines()[0]
    bits = {int(part.split()[1]): part.split()[0] for part in said.split(", ")}
    assert bits.keys() == CLOCK_REASONS.keys()
    for bit, name in bits.items():
        letters = "".join(letter for letter in CLOCK_REASONS[bit].lower() if letter.isalpha())
        short = name.lower().replace("sw", "software", 1) if name.startswith("Sw") else name.lower()
        assert letters == (short.replace("hw", "hardware", 1) if name.startswith("Hw") else short)
    assert "reject-block set: 8|32|64|128 always" in facts
    assert REJECTED == 8 + 32 + 64 + 128


@pytest.mark.parametrize("line", ["", "a,b", "No devices were found", 'Field "x" is not a valid field to query.'])
def test_what_is_no_header(line: str) -> None:
    assert parse_header(line) is None


@given(st.text(max_size=200), st.text("0123456789.,%W [N/A]x", max_size=100))
def test_garbage_never_fails(header: str, row: str) -> None:
    names = parse_header(header) or parse_header(HEADER) or ()
    for text in (row, header, f"0, 0, {row}, 0, 0, 0, 0"):
        reading = parse_row(text, names)
        if reading is not None:
            telemetry_of(reading, 0.0).to_json()
