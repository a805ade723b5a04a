"""`quantrig-agent telemetry --replay FILE`, as a process and as the function beneath it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.kinds import FAMILY_OF
from agents.boards.replay import MAX_LINE, replay
from harness.targets.boards import BOARDS
from tests.agents.boards.conftest import ROOT, fact

ORIN_NANO = (
    "08-12-2026 15:28:04 RAM 2390/7486MB (lfb 4x4MB) CPU [6%@729,4%@729,off,13%@883] GR3D_FREQ 0% "
    "cpu@45.687C/45.687C tj@46.843C/46.843C VDD_IN 3848mW/3848mW/3848mW VDD_SOC 1174mW/1174mW/1174mW"
)
PI_ROUNDS = (
    "throttled=0x50000\ntemp=48.8'C\nfrequency(48)=1500345728\n\nthrottled=0x50004\ntemp=81.2'C\nthrottled=0x70000\n"
)
#: As nvidia-smi's manual describes --format=csv.
GPU = "timestamp, utilization.gpu [%], power.draw [W]\n2026/11/21 18:00:00.123, 97 %, 287.51 W\n"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agents", "telemetry", *arguments],
        capture_output=True, check=False, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip


def samples_of(text: str, family: str = "generic") -> tuple[list[dict[str, Any]], list[int]]:
    """The samples, and the numbers of the lines that could not be read."""
    unreadable: list[int] = []
    found = replay(text.splitlines(keepends=True), family, lambda number, _: unreadable.append(number))
    return [json.loads(sample.to_json()) for sample in found], unreadable


def test_one_object_a_line_and_unreadable_lines_by_their_number(tmp_path: Path) -> None:
    file = tmp_path / "orin.txt"
    file.write_text(f"\ufeff# a comment\n\n{ORIN_NANO}\nsudo: tegrastats: command not found\x1b[31m\n{ORIN_NANO}\n")
    done = command("--board", "jetson-orin-nano", "--replay", str(file), "--json")
    assert done.returncode == 0
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert first == second
    assert (first["ram_used_mb"], first["ram_total_mb"]) == (2390, 7486)
    assert first["cpu_percent"] == [6, 4, None, 13]
    assert first["gpu_percent"] == 0
    assert first["temperature_c"] == {"cpu": 45.687, "tj": 46.843}
    assert first["power_mw"] == {"VDD_IN": 3848, "VDD_SOC": 1174}
    assert (first["total_power_mw"], first["total_power_rail"], first["throttled"]) == (3848, "VDD_IN", None)
    assert done.stderr.count("\n") == 1
    assert f"{file}:4: " in done.stderr
    assert "\x1b" not in done.stderr


def test_the_whole_recording_without_naming_a_board(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text(fact("tegrastats_samples.txt"))
    done = command("--replay", str(file), "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 27


def test_what_nvpmodel_says_before_tegrastats_is_no_rail_of_another_board() -> None:
    samples, unreadable = samples_of(f"NV Power Mode: 25W\n{ORIN_NANO}\nNV Power Mode: MAXN\n{ORIN_NANO}\n")
    assert [sample["power_mw"] for sample in samples] == [{"VDD_IN": 3848, "VDD_SOC": 1174}] * 2
    assert unreadable == []


def test_a_reader_that_has_enough_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text(f"{ORIN_NANO}\n" * 20_000)
    done = subprocess.run(
        f"'{sys.executable}' -m agents telemetry --json --replay '{file}' | head -n 1",
        shell=True, capture_output=True, check=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert json.loads(done.stdout)["ram_used_mb"] == 2390
    assert done.stderr == ""


def test_for_people() -> None:
    (sample,) = replay([ORIN_NANO], "jetson", lambda *_: None)
    assert sample.to_text() == (
        "RAM 2390/7486 MB  CPU 6% 4% off 13%  GPU 0%  cpu 45.7 °C  tj 46.8 °C  VDD_IN 3848 mW  VDD_SOC 1174 mW  "
        "total 3848 mW (VDD_IN)"
    )


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "No such file"),
        ("", [], "no line in it is a reading of any board"),
        ("hello\n", [], "name one with --board"),
        (PI_ROUNDS, ["--board", "jetson-nano"], "no line in it is a reading of board jetson-nano"),
    ],
)
def test_nothing_to_replay_is_bad_input(tmp_path: Path, text: str | None, arguments: list[str], message: str) -> None:
    file = tmp_path / "recorded.txt"
    if text is not None:
        file.write_text(text)
    done = command(*arguments, "--replay", str(file), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_answers_of_a_pi_are_one_sample_until_something_is_told_again() -> None:
    samples, unreadable = samples_of(PI_ROUNDS)
    assert unreadable == []
    assert [sample["throttled"] for sample in samples] == [False, True, True]
    assert [sample["throttled_by"] for sample in samples] == [
        [], ["throttled"], ["ARM frequency capped since the last sample"],
    ]  # fmt: skip
    assert samples[0]["temperature_c"] == {"soc": 48.8}
    assert samples[0]["clocks_mhz"] == {"arm": 1500.345728}
    assert samples[2]["temperature_c"] == {}
    assert samples[0]["ram_used_mb"] is samples[0]["total_power_mw"] is None


def test_the_recorded_answers_of_a_pi() -> None:
    samples, unreadable = samples_of(fact("rpi_samples.txt"), "raspberry-pi")
    assert unreadable == list(range(3, 11))  # the documentation's table of bits
    assert [sample["throttled"] for sample in samples] == [True, False, False, None, None, None]
    (total,) = [sample["total_power_mw"] for sample in samples if sample["total_power_mw"] is not None]
    assert total == pytest.approx(2947.977, abs=0.001)


def test_platformstats_and_a_query_of_the_dpu() -> None:
    text = fact("xilinx_samples.txt").split("# source: id 1429590996")[1].partition("\n")[2].partition("\n#")[0]
    query = '{"kernels":[{"DPU Arch":"B","DPU Frequency (MHz)":300,"fingerprint":"0x1"}]}\n'
    samples, unreadable = samples_of(query + text + "\n" + text, "xilinx")
    assert unreadable == []
    assert len(samples) == 2
    for sample in samples:
        assert sample["ram_total_mb"] == 3995884 / 1024
        assert sample["ram_used_mb"] == (3995884 - 3563064) / 1024
        assert sample["cpu_percent"] == [0, 0, 0, 0.980392]
        assert sample["temperature_c"] == {"LPD": 30, "FPD (REMOTE)": 28, "PL": 27}
        assert (sample["total_power_mw"], sample["total_power_rail"]) == (3100, "SOM total power")
        assert sample["clocks_mhz"] == {"cpu": pytest.approx(1333.333008), "dpu": 300}


def test_two_readings_of_sensors() -> None:
    one = "ina260_u14-i2c-1-40\nAdapter: Cadence I2C\npower1:  {} W\nams-isa-0000\nPL temp: +27.0°C\n\n"
    samples, unreadable = samples_of(one.format("3.10") + one.format("4.25"))
    assert unreadable == []
    assert [sample["total_power_mw"] for sample in samples] == [pytest.approx(3100), pytest.approx(4250)]
    assert samples[1]["total_power_rail"] == "ina260_u14/power1"
    assert samples[1]["temperature_c"] == {"ams/PL temp": 27}


def test_files_of_hwmon_again_and_again() -> None:
    text = "/sys/class/hwmon/hwmon2/name:ina260_u14\n" + "".join(
        f"/sys/class/hwmon/hwmon2/power1_input:{microwatts}\n" for microwatts in (3_100_000, 4_250_000)
    )
    samples, unreadable = samples_of(text)
    assert unreadable == []
    assert [sample["power_mw"] for sample in samples] == [{"ina260_u14/power1": 3100}, {"ina260_u14/power1": 4250}]


def test_csv_of_nvidia_smi() -> None:
    ((sample,), unreadable) = samples_of(GPU)
    assert unreadable == []
    assert (sample["gpu_percent"], sample["total_power_mw"]) == (97, pytest.approx(287510))
    assert sample["throttled"] is None


def test_a_line_without_end_is_named_not_read() -> None:
    samples, unreadable = samples_of("RAM 1/2MB " + "x" * MAX_LINE + "\nRAM 1/2MB CPU [0%]\n", "jetson")
    assert (len(samples), unreadable) == (1, [1])


@given(st.lists(st.sampled_from([*PI_ROUNDS.splitlines(), *GPU.splitlines(), ORIN_NANO, "{", "}", "x"]) | st.text()))
def test_any_file_is_read_to_its_end(lines: list[str]) -> None:
    for family in ("generic", "jetson", "raspberry-pi", "xilinx", "nvidia"):
        samples, unreadable = samples_of("\n".join(lines), family)
        assert len(samples) + len(unreadable) <= len("\n".join(lines).splitlines())


def test_the_agents_families_are_the_hosts() -> None:
    assert {name: kind.family for name, kind in BOARDS.items()} == FAMILY_OF
