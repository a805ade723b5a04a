"""Steps with their causes, machine changes, shared causes, and alarms that are raised once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from harness.errors import ExitCode, UserError
from harness.history.alarms import update_alarms
from harness.history.analysis import look, series_of
from harness.history.night import conclude
from harness.history.publish import night_json, publish_night
from harness.history.series import Key
from harness.store import Store, open_store
from harness.store.nights import Night, Nights
from tests.harness.history.made_nights import PLAN, accuracy, latency, make_night, make_plan_file, noise

BOARDS = ("orin", "pi5")
#: Truth: a runtime changes on pi5 and costs 6 %, later a new int8 network costs 4 % and accuracy on both.
MACHINE_AT, CODE_AT, NIGHTS = 10, 20, 24


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "store.db"))
    yield opened
    opened.close()


def surroundings(night: int, board: str) -> dict[str, str]:
    newer = board == "pi5" and night >= MACHINE_AT
    return {
        "machine.os": f"Linux of {board}",
        "runtime.onnxruntime": "1.23.0" if newer else "1.22.0",
        "code.int8 network": ("b" if night >= CODE_AT else "a") * 64,
    }


def fill(store: Store, first: int, stop: int) -> list[Night]:
    made = {board: noise(index + 20, NIGHTS) for index, board in enumerate(BOARDS)}
    nights = []
    for night in range(first, stop):
        rows = []
        for board in BOARDS:
            values, errors = made[board]
            level = 0.06 * (board == "pi5" and night >= MACHINE_AT) + 0.04 * (night >= CODE_AT)
            rows.append(latency(board, 3.2 * math.exp(level + values[night]), errors[night]))
            rows.append(accuracy(board, 0.965 if night >= CODE_AT else 0.9725))
        nights.append(make_night(store, night, {"digits": rows}, partial(surroundings, night)))
    return nights


def test_causes_are_told_apart_and_shared_ones_named(store: Store) -> None:
    made = fill(store, 0, NIGHTS)
    insight = look(series_of(Nights(store), made))
    by_place = {(one.key.target, one.key.metric, one.first.night): one for one in insight.changes}
    machine = by_place["pi5", "latency_p50_ms", made[MACHINE_AT].night_id]
    assert machine.of_machine
    assert not machine.mixed
    assert machine.attribution == "the machine changed here: onnxruntime 1.22.0 → 1.23.0"
    assert machine.change == pytest.approx(math.expm1(0.06), abs=0.012)
    assert machine.worse
    for board in BOARDS:
        for metric in ("latency_p50_ms", "accuracy_top1"):
            code = by_place[board, metric, made[CODE_AT].night_id]
            assert not code.of_machine
            assert code.attribution.startswith("code changed here: int8 network")
            assert code.worse
    assert len(insight.changes) == 5
    (together,) = insight.shared
    assert together.night == made[CODE_AT].night_id
    assert "4 series of boards orin, pi5 and job digits stepped together: they share int8 network" in together.sentence
    (moved,) = insight.machine
    assert (moved.target, moved.stepped, moved.quiet) == (
        "pi5", (Key("digits", "pi5", "Quantized", "latency_p50_ms"),), 1,
    )  # fmt: skip


def test_an_alarm_is_raised_once_and_keeps_its_state(store: Store) -> None:
    nights = Nights(store)
    made = fill(store, 0, NIGHTS - 1)

    def told(seen: list[Night], number: int) -> dict[str, str]:
        insight = look(series_of(nights, seen))
        found = update_alarms(nights, PLAN, seen[-1].night_id, f"2026-10-{number:02d}", insight.stories)
        return {f"{one.change.key.target} {one.change.key.metric}": one.alarm.state for one in found
                if one.change.first.night == made[CODE_AT].night_id}  # fmt: skip

    assert not told(made[: CODE_AT + 1], 1)  # one night is no step
    first = told(made[: CODE_AT + 2], 2)
    assert set(first.values()) == {"new"}
    assert set(told(made[: CODE_AT + 2], 2).values()) == {"new"}  # the same night again: nothing is lost
    assert set(told(made[: CODE_AT + 3], 3).values()) == {"seen"}
    alarm = next(one for one in nights.alarms(PLAN) if one.metric == "accuracy_top1" and one.target == "orin")
    nights.update_alarm(alarm.number, state="acknowledged")
    states = told(made, 4)
    assert states["orin accuracy_top1"] == "acknowledged"
    assert states["pi5 accuracy_top1"] == "seen"
    assert len(nights.alarms(PLAN)) == len({(a.target, a.metric, a.first_run_id) for a in nights.alarms(PLAN)}) == 5


def test_an_alarm_whose_step_vanishes_is_withdrawn_and_never_raised_again(store: Store) -> None:
    nights = Nights(store)
    values = [0.9725] * 12 + [0.965] * 2 + [0.9725] * 12
    made = [make_night(store, i, {"digits": [accuracy("orin", v)]}, lambda _: {}) for i, v in enumerate(values)]
    seen = look(series_of(nights, made[:14]))
    (one,) = update_alarms(nights, PLAN, made[13].night_id, "now", seen.stories)
    assert one.alarm.state == "new"
    flat = look(series_of(nights, made[:12]))
    update_alarms(nights, PLAN, "x", "now", flat.stories)  # its run is out of sight: nothing is taken back
    assert [alarm.state for alarm in nights.alarms(PLAN)] == ["new"]
    # the first two nights on the new level turn out to be a slip of the store: the figures are replaced
    for night in made[12:14]:
        store.save_figures(night.details["entries"][0]["run_id"], [accuracy("orin", 0.9725)])
    update_alarms(nights, PLAN, made[14].night_id, "now", look(series_of(nights, made[:15])).stories)
    assert [alarm.state for alarm in nights.alarms(PLAN)] == ["withdrawn"]


def test_exit_codes_and_the_page_of_a_night(store: Store, tmp_path: Path) -> None:
    nights = Nights(store)
    plan = make_plan_file(tmp_path / "plan")
    made = fill(store, 0, MACHINE_AT + 2)
    tonight = conclude(plan, nights, made[-1])
    assert [one.change.key.target for one in tonight.new] == ["pi5"]
    assert tonight.code is ExitCode.GOOD  # the machine's own step fails no night by default
    strict = make_plan_file(tmp_path / "strict", "fail_on: [machine]\n")
    assert conclude(strict, nights, made[-1]).code is ExitCode.GATE_FAILED
    made += fill(store, MACHINE_AT + 2, CODE_AT + 2)
    tonight = conclude(plan, nights, made[-1])
    assert tonight.code is ExitCode.GATE_FAILED
    assert len(tonight.new) == 4
    publish_night(plan, nights, tonight)
    page = (tonight.folder / "index.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<title") == page.count('role="img"') + 1  # every drawing has its name, and so has the page
    assert "they share int8 network" in page
    assert "4 new changes, 4 for the worse." in page
    assert (plan.out / "index.html").read_text().count("<tr>") == 1 + len(made)
    content = night_json(tonight)
    assert {one["state"] for one in content["changes"]} == {"new", "seen"}


def test_an_alarm_that_is_not_there_is_said_so(store: Store) -> None:
    with pytest.raises(UserError, match="no alarm has the number 7"):
        Nights(store).update_alarm(7, state="seen")
