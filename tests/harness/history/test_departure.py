"""A loss on the same samples is suspected the night it comes, from the second night on; noise is not."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli.nightly import _tell
from harness.errors import ExitCode
from harness.history.analysis import look, series_of
from harness.history.changes import Story
from harness.history.night import conclude
from harness.history.publish import publish_night
from harness.record.figure import Network, Source
from harness.record.networks import SamplesRecord
from harness.record.target import TargetRecord
from harness.report.text import MINUS
from harness.store import Store, open_store
from harness.store.nights import Night, Nights
from tests.harness.history.made_nights import accuracy, latency, make_night, make_plan_file

N = 400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "store.db"))
    yield opened
    opened.close()


def night(store: Store, number: int, wrong: set[int], folder: Path, prefix: str = "s", network: str = "a") -> Night:
    """A night on which these of N samples came out wrong, and what each contributed is kept below `folder`."""
    rows = {"digits": [accuracy("pi", 1 - len(wrong) / N, N)]}
    made = make_night(store, number, rows, lambda _: {"code.int8 network": network * 64}, out=folder / f"{number}")
    keep(store, made, wrong, prefix)
    return made


def keep(store: Store, made: Night, wrong: set[int], prefix: str) -> None:
    """The file as docs/metrics.md describes it, written without the product's help."""
    run = made.details["entries"][0]["run_id"]
    rank = np.array([int(i in wrong) for i in range(N)])
    arrays: dict[str, Any] = {"ids": np.array([f"{prefix}{i}" for i in range(N)]), "accuracy_top1/rank": rank}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = store.run(run).out / "samples" / "pi.Quantized.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    one = SamplesRecord(Network.QUANTIZED, "samples/pi.Quantized.npz", digest, ("accuracy_top1",))
    store.save_target(
        run, replace(TargetRecord("pi", "generic", "cpu", "local", Source.MEASURED, "done"), samples=(one,))
    )


def seen(store: Store, made: list[Night]) -> Story:
    nights = Nights(store)
    return next(one for one in look(series_of(nights, made), nights).stories if one.series.unit == "fraction")


def test_a_loss_on_the_same_samples_is_told_on_its_first_night(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = set(range(20)), set(range(1, 104))
    made = [night(store, 0, few, tmp_path), night(store, 1, many, tmp_path, network="b")]
    story = seen(store, made)
    assert story.found.suspected is None  # the search for steps cannot know
    assert story.sure is not None
    assert story.suspected == pytest.approx(-83 / N)
    assert story.sure.how == "on the same 400 samples 84 lost, 1 won"
    plan = make_plan_file(tmp_path / "plan")
    tonight = conclude(plan, Nights(store), made[-1])
    assert tonight.code is ExitCode.GOOD  # suspected is not found: a gate fails the first bad night
    publish_night(plan, Nights(store), tonight)
    _tell(tonight, verbose=False, undecided=False)
    told = capsys.readouterr().out.splitlines()
    expected = (
        f"digits / pi / Quantized accuracy_top1: suspected step of {MINUS}20.8 pt (worse), 95.00 % → 74.25 %, on the "
        "last night alone: on the same 400 samples 84 lost, 1 won; code changed here: int8 network aaaaaaaaaaaa → "
        "bbbbbbbbbbbb; the next night tells whether it stays"
    )
    assert told == [expected, f"the night's page: {tonight.folder / 'index.html'}"]
    page = (tonight.folder / "index.html").read_text()
    assert expected in page
    assert "Nothing new in 1 series; 1 suspected on this night alone, 1 for the worse." in page
    (kept,) = json.loads((tonight.folder / "night.json").read_text())["suspected"]
    assert (kept["worse"], kept["how"]) == (True, story.sure.how)


@pytest.mark.parametrize(
    ("wrongs", "why"),
    [
        ((set(range(20)), set(range(21))), "one sample of 400: the interval holds zero"),
        ((set(range(20)), set(range(100, 122))), "others went wrong, as many came right"),
        ((set(range(90)), set(range(20)), set(range(60))), "it lay further away the nights before"),
    ],
)
def test_what_may_be_chance_is_not_told(store: Store, tmp_path: Path, wrongs: tuple[set[int], ...], why: str) -> None:
    made = [night(store, i, wrong, tmp_path) for i, wrong in enumerate(wrongs)]
    assert seen(store, made).sure is None, why


def test_other_samples_are_another_question(store: Store, tmp_path: Path) -> None:
    made = [
        night(store, 0, set(range(20)), tmp_path, "a"),
        night(store, 1, set(range(99)), tmp_path, "b"),
    ]
    assert seen(store, made).sure is None
    first = made[0].details["entries"][0]["run_id"]
    (store.run(first).out / "samples" / "pi.Quantized.npz").write_bytes(b"of a later run")
    told = seen(store, made).sure
    assert told is not None  # nobody knows which samples those were: what is left is that the figure moved
    assert told.how == "counted, not measured, with one night before it"


def test_without_kept_samples_a_counted_figure_that_never_moved_is_told_when_it_does(store: Store) -> None:
    values = [0.95, 0.95, 0.95, 0.9475, 0.95, 0.95, 0.95]
    made = [make_night(store, i, {"digits": [accuracy("pi", v, N)]}, lambda _: {}) for i, v in enumerate(values)]
    assert seen(store, made[:3]).sure is None
    told = seen(store, made[:4]).sure
    assert told is not None
    assert told.how == "counted, not measured, and the same for 3 nights"
    for count in (5, 6, 7):  # its return is what was expected
        assert seen(store, made[:count]).sure is None


def test_where_the_machine_changed_too_it_is_said_so(store: Store) -> None:
    made = []
    for number, value in enumerate([0.95, 0.95, 0.95, 0.74]):
        around = {"machine.os": f"Linux 6.{number // 3}"}
        made.append(make_night(store, number, {"digits": [accuracy("pi", value, N)]}, {"pi": around}.__getitem__))
    told = seen(store, made).sure
    assert told is not None
    assert [str(one) for one in told.causes] == ["os Linux 6.0 → Linux 6.1"]


def test_what_is_measured_never_departs_this_way(store: Store) -> None:
    made = [
        make_night(store, i, {"digits": [latency("pi", ms, 0.001)]}, lambda _: {}) for i, ms in enumerate([1, 1, 2])
    ]
    nights = Nights(store)
    assert [one.sure for one in look(series_of(nights, made), nights).stories] == [None]
