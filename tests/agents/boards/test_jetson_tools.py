"""nvpmodel, jetson_clocks and nv_tegra_release against recorded output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.parse.jetson_tools import (
    PowerMode,
    jetpack_of,
    parse_jetson_clocks,
    parse_nvpmodel,
    parse_power_models,
    parse_release,
)
from tests.agents.boards.conftest import fact


def block(after: str) -> str:
    """The recording below the comment that contains `after`, up to the next comment."""
    text = fact("jetson_power_clock_samples.txt").split(after)[1].partition("\n")[2]
    return text.partition("\n#")[0]


@pytest.mark.parametrize(
    ("after", "mode"),
    [
        ("id 15977264721", PowerMode("MODE_15W_6CORE", 2)),  # --verbose
        ("id 62065844145", PowerMode("MODE_15W_6CORE", 2)),
        ("id 60282601653", PowerMode("MODE_40W", 3)),
        ("id 8818311156 (Orin NX", PowerMode("MAXN_SUPER", 2)),
        ("tests/nvpmodel EMULATOR", PowerMode("MAXN", 0)),  # a warning stands before
    ],
)
def test_a_recorded_power_mode(after: str, mode: PowerMode) -> None:
    assert parse_nvpmodel(block(after)) == mode


def test_the_modes_of_a_board() -> None:
    assert parse_power_models(block("id 68579880183 (Orin Nano Super")) == {0: "15W", 1: "25W", 2: "MAXN_SUPER"}


def test_clocks_of_a_tx2() -> None:
    shown = parse_jetson_clocks(block("show_tx2()"))
    assert shown is not None
    assert (shown.family, shown.machine, shown.mode) == ("tegra186", "quill", "MAXP_CORE_ARM")
    core = shown.units["cpu0"]
    assert (core.minimum_mhz, core.maximum_mhz, core.current_mhz) == (345.6, 2035.2, 2035.2)
    assert (core.governor, core.online, core.idle) == ("schedutil", True, True)
    assert [name for name, clock in shown.units.items() if not clock.online] == ["cpu1", "cpu2"]
    assert shown.units["GPU"].maximum_mhz == 1134.75
    assert shown.units["EMC"].current_mhz == 1600
    assert shown.locked is False


def test_clocks_of_an_orin_nx_and_of_jetpack_7() -> None:
    orin = parse_jetson_clocks(block("id 8818311156 -- Orin NX engineering kit"))
    assert orin is not None
    assert orin.machine == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert len(orin.units) == 8
    assert orin.units["cpu5"].current_mhz == 883.2
    assert (orin.mode, orin.locked) == ("MAXN_SUPER", False)
    nano = parse_jetson_clocks(block("id 68579880183 -- Orin Nano Super"))
    assert nano is not None
    assert nano.units["cpu5"].online  # the token is gone there: all that are listed are on
    assert nano.units["GPU"].maximum_mhz == 918
    assert (nano.mode, nano.locked) == ("25W", False)


def test_locked_clocks() -> None:
    shown = parse_jetson_clocks(block("clocks LOCKED"))
    assert shown is not None
    assert shown.locked is True
    assert shown.units["cpu1"].idle is False


def test_without_root_nothing_is_shown() -> None:
    assert parse_jetson_clocks(block("stderr without root")) is None


def test_releases() -> None:
    line = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37"
    assert parse_release(line) == "36.4.3"
    assert parse_release("# R32 (release), REVISION: 7.1, GCID: 29818004") == "32.7.1"
    assert parse_release("Ubuntu") is None
    # The pairs that the recordings state.
    pairs = {"36.4.4": "6.2.1", "38.4.0": "7.1", "39.2": "7.2", "36.4.3": "6.2", "35.4.1": "5.1.2", "32.7.1": "4.6.1"}
    assert {l4t: jetpack_of(l4t) for l4t in pairs} == pairs
    assert jetpack_of("99.1") is None


@given(st.text(max_size=200) | st.text("cpu0: Online=1 GPU MinFreq=9 NV Power Mode: 2\n", max_size=100))
def test_garbage_never_fails(text: str) -> None:
    parse_nvpmodel(text)
    parse_power_models(text)
    parse_jetson_clocks(text)
    jetpack_of(parse_release(text) or text)
