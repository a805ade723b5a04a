"""tegrastats by its grammar: lines composed at random, cut anywhere, and plain garbage."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.boards.parse.tegrastats import parse_tegrastats
from agents.boards.tegra import telemetry_of

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{1,12}", fullmatch=True).filter(
    lambda name: (
        name.lower() not in ("ram", "swap", "iram", "cpu", "nc", "gr3d", "emc", "off")
        and not name.lower().endswith("_freq")
    )
)
COUNTS = st.integers(0, 200_000)


@dataclass
class Written:
    """A line and what it was written from."""

    words: list[str] = field(default_factory=list)
    ram: tuple[int, int] | None = None
    cores: list[int | None] = field(default_factory=list)
    gpu: int | None = None
    zones: dict[str, float] = field(default_factory=dict)
    rails: dict[str, int] = field(default_factory=dict)


@st.composite
def lines(draw: st.DrawFn) -> Written:
    """The fields in any order: nothing in the format promises one."""
    written = Written()
    groups: list[list[str]] = []
    if draw(st.booleans()):
        written.ram = (draw(COUNTS), draw(COUNTS))
        groups.append([f"RAM {written.ram[0]}/{written.ram[1]}MB", f"(lfb {draw(COUNTS)}x4MB)"])
    if draw(st.booleans()):
        groups.append([f"SWAP {draw(COUNTS)}/{draw(COUNTS)}MB (cached {draw(COUNTS)}MB)"])
    if draw(st.booleans()):
        groups.append([f"IRAM {draw(COUNTS)}/252kB(lfb 252kB)"])
    if draw(st.booleans()):
        written.cores = draw(st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=16))
        clock = draw(st.sampled_from(["", "@729", "@2201"]))
        inside = ",".join("off" if load is None else f"{load}%{clock}" for load in written.cores)
        groups.append([f"CPU [{inside}]"])
    if draw(st.booleans()):
        written.gpu = draw(st.integers(0, 100))
        groups.append(
            [f"GR3D_FREQ {written.gpu}%" + draw(st.sampled_from(["", "@612", "@[305]", "@[0,0]", "@[1,2,3]"]))]
        )
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        value = draw(st.integers(-40_000, 125_000)) / 1000
        written.zones[name] = value
        groups.append([f"{name}@{value:g}C" + draw(st.sampled_from(["", f"/{value:g}C"]))])
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        now, mean = draw(COUNTS), draw(COUNTS)
        written.rails[name] = now
        groups.append(
            [
                draw(
                    st.sampled_from(
                        [f"{name} {now}/{mean}", f"{name} {now}mW/{mean}mW", f"{name} {now}mW/{mean}mW/7mW"]
                    )
                )
            ]
        )
    groups += draw(
        st.lists(st.sampled_from([["NVENC off"], ["VIC_FREQ 729"], ["APE 174"], ["MTS fg 1% bg 9%"], ["NC 0mW/0mW"]]))
    )
    written.words = [word for group in draw(st.permutations(groups)) for word in group]
    return written


@given(lines(), st.sampled_from(["", "07-25-2026 09:08:28 "]))
def test_what_was_written_is_read(written: Written, date: str) -> None:
    found = parse_tegrastats(date + " ".join(written.words))
    if not (written.ram or written.cores or written.zones or written.rails):
        assert found is None
        return
    assert found is not None
    sample = telemetry_of(found, 0.0)
    assert (sample.ram_used_mb, sample.ram_total_mb) == (written.ram or (None, None))
    assert list(sample.cpu_percent) == written.cores
    assert sample.gpu_percent == written.gpu
    assert sample.temperature_c == {name: float(f"{value:g}") for name, value in written.zones.items()}
    assert sample.power_mw == written.rails


@given(lines(), st.data())
def test_a_line_cut_between_two_words_says_a_part_of_the_whole(written: Written, data: st.DataObject) -> None:
    words = " ".join(written.words).split(" ")
    whole = parse_tegrastats(" ".join(words))
    part = parse_tegrastats(" ".join(words[: data.draw(st.integers(0, len(words)))]))
    if part is None:
        return
    assert whole is not None
    assert part.temperature_c.items() <= whole.temperature_c.items()
    assert part.power_mw.items() <= whole.power_mw.items()
    assert part.cpu in ((), whole.cpu)
    assert part.ram_used_mb in (None, whole.ram_used_mb)


@settings(max_examples=300)
@given(st.text(max_size=200) | st.text("[]@%C/,()0123456789.-mWoff RAMCPU_", max_size=200))
def test_garbage_never_fails_and_never_becomes_an_impossible_value(text: str) -> None:
    found = parse_tegrastats(text)
    if found is None:
        return
    sample = telemetry_of(found, 0.0)
    sample.to_json()  # allow_nan=False: would fail on what is no number
    assert all(load is None or 0 <= load <= 100 for load in (*sample.cpu_percent, sample.gpu_percent))
    assert all(value > -256 for value in sample.temperature_c.values())
