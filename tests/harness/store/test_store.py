from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect, text

from harness.errors import UserError
from harness.record.figure import Figure, Network, Source
from harness.record.networks import Loading, QuantizedRecord, Shipment
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord, SteadyClock, TelemetryRecord
from harness.store import Store, open_store, store_url
from harness.store.tables import Base


def make_run(store: Store, run_id: str = "20260101-000000-x-0000", started: str = "2026-01-01T00:00:00+00:00") -> str:
    store.create_run(
        run_id, job_name="x", started=started, out=Path("out"), model_digest="0" * 64, request={"targets": ["a"]}
    )
    return run_id


def pending(name: str = "a") -> TargetRecord:
    return TargetRecord(name, "generic", "cpu", "local", Source.MEASURED, "pending")


def block(pair: int = 0, network: Network = Network.FLOAT, latency_ns: tuple[int, ...] = (5, 6, 7)) -> BlockRecord:
    return BlockRecord(network, pair, latency_ns, 1.5, 0.25, 1, 0.2, 2**33)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "q.db"))


def test_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    open_store(str(tmp_path / "migrated.db"))
    created = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    Base.metadata.create_all(created)

    def shape(url: str) -> dict[str, list[tuple[str, str, bool]]]:
        found = inspect(create_engine(url))
        return {
            table: sorted((c["name"], str(c["type"]), bool(c["nullable"])) for c in found.get_columns(table))
            for table in found.get_table_names()
            if table != "alembic_version"
        }

    assert shape(f"sqlite:///{tmp_path / 'migrated.db'}") == shape(str(created.url))


def test_a_database_of_a_newer_version_is_refused_in_one_line(tmp_path: Path) -> None:
    open_store(str(tmp_path / "q.db")).close()
    engine = create_engine(f"sqlite:///{tmp_path / 'q.db'}")
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(UserError, match="newer quantrig") as caught:
        open_store(str(tmp_path / "q.db"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense://x", "/proc/nothing/q.db"])
def test_an_unusable_place_is_one_line_with_a_remedy(url: str) -> None:
    with pytest.raises(UserError, match="--store") as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.write_bytes(b"this is not SQLite at all, but long enough to look like a header" * 20)
    with pytest.raises(UserError, match="not a database"):
        open_store(str(path))


def test_where_results_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTRIG_STORE", str(tmp_path / "env.db"))
    assert store_url() == f"sqlite:///{tmp_path / 'env.db'}"
    assert store_url("postgresql://lab/quantrig") == "postgresql://lab/quantrig"
    monkeypatch.delenv("QUANTRIG_STORE")
    assert store_url().startswith("sqlite:///")


def test_a_target_comes_back_equal(store: Store) -> None:
    run_id = make_run(store)
    record = TargetRecord(
        "a", "zcu102", "fpga", "emulated", Source.EMULATED, "done",
        description={"board": "zcu102", "cpu_features": ["avx2"]},
        quantized=QuantizedRecord("fpga", "a" * 64, "mse", 5, (("conv", "why"),), ("note",), ("X",), 123),
        shipments=(Shipment(Network.FLOAT, "b" * 64, 10, 0, True),),
        loadings=(Loading(Network.QUANTIZED, 1.0, 2.0, 3.0, None, False, "ort", "1", ("CPU",), 3, 0.5, True, 9.0),),
        telemetry=(TelemetryRecord(1.0, {"cpu": 50.5}, {}, None, None, None, 1500.0, 12.0),),
        notes=("one", "two"),
    )  # fmt: skip
    store.save_target(run_id, pending())
    store.save_target(run_id, record)
    assert store.targets(run_id) == [record]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=2**63), min_size=1, max_size=200))
def test_every_raw_sample_of_a_block_survives(tmp_path_factory: pytest.TempPathFactory, samples: list[int]) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store") / "q.db"))
    run_id = make_run(store)
    store.save_target(run_id, pending())
    store.add_block(run_id, "a", block(latency_ns=tuple(samples)))
    assert store.blocks(run_id, "a") == [block(latency_ns=tuple(samples))]
    store.close()


def test_what_is_known_of_a_block_comes_back(store: Store) -> None:
    run_id = make_run(store)
    store.save_target(run_id, replace(pending(), steady_clocks={Network.FLOAT: SteadyClock("cpu", 1498.5)}))
    told = replace(
        block(), disturbed=("clock at 600 MHz", "under-voltage"), watched=False, clock="perf_counter: CLOCK_MONOTONIC",
        clock_resolution_ns=1.0, clock_tick_ns=30.0,
    )  # fmt: skip
    store.add_block(run_id, "a", told)
    store.add_block(run_id, "a", replace(block(1), watched=True))
    assert store.blocks(run_id, "a") == [told, replace(block(1), watched=True)]
    assert store.targets(run_id)[0].steady_clocks == {Network.FLOAT: SteadyClock("cpu", 1498.5)}


def test_a_database_of_an_older_version_keeps_its_blocks(tmp_path: Path) -> None:
    """As version 1 wrote it: no `details`, no nights."""
    path = tmp_path / "old.db"
    store = open_store(str(path))
    run_id = make_run(store)
    store.save_target(run_id, pending())
    store.add_block(run_id, "a", block(7))
    store.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("alter table blocks drop column details"))
        for table in ("nights", "surroundings", "alarms"):
            connection.execute(text(f"drop table {table}"))
        connection.execute(text("update alembic_version set version_num = '0001'"))
    assert open_store(str(path)).blocks(run_id, "a") == [block(7)]


def test_one_block_cannot_be_noted_twice(store: Store) -> None:
    run_id = make_run(store)
    store.save_target(run_id, pending())
    store.add_block(run_id, "a", block())
    with pytest.raises(UserError):
        store.add_block(run_id, "a", block())
    store.drop_blocks(run_id, "a", [0])
    store.add_block(run_id, "a", block())
    assert len(store.blocks(run_id, "a")) == 1


def test_outputs_are_replaced_not_doubled(store: Store) -> None:
    run_id = make_run(store)
    store.save_target(run_id, pending())
    store.add_outputs(run_id, "a", Network.FLOAT, 3, "old", "1" * 64)
    store.add_outputs(run_id, "a", Network.FLOAT, 3, "new", "2" * 64)
    assert store.outputs(run_id, "a", Network.FLOAT) == {3: ("new", "2" * 64)}
    assert store.outputs(run_id, "a", Network.QUANTIZED) == {}


def test_figures_are_replaced_as_a_whole(store: Store) -> None:
    run_id = make_run(store)
    figure = Figure("a", "generic", "cpu", Network.RATIO, "d", "speedup", None, "x", Source.MEASURED)
    store.save_figures(run_id, [figure, figure])
    store.save_figures(run_id, [figure])
    with store._engine.connect() as connection:
        rows = connection.execute(text("select value, n, note from figures")).all()
    assert rows == [(None, None, "")]


def test_runs_are_found_by_a_beginning_and_listed_newest_first(store: Store) -> None:
    make_run(store, "20260101-000000-x-0001", "2026-01-01T00:00:00+00:00")
    make_run(store, "20260102-000000-x-0002", "2026-01-02T00:00:00+00:00")
    assert [run.run_id[-1] for run in store.runs()] == ["2", "1"]
    assert store.run("20260102").run_id == "20260102-000000-x-0002"
    with pytest.raises(UserError, match="more than one run"):
        store.run("2026")
    with pytest.raises(UserError, match="no run"):
        store.run("%")


def test_many_threads_write_at_once(store: Store) -> None:
    run_id = make_run(store)
    names = [f"t{i}" for i in range(6)]
    for name in names:
        store.save_target(run_id, pending(name))
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for pair in range(20):
                store.add_block(run_id, name, block(pair))
        except BaseException as error:  # noqa: BLE001 (a thread's failure must reach the test)
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(len(store.blocks(run_id, name)) == 20 for name in names)


def test_what_was_noted_survives_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    store = open_store(str(path))
    run_id = make_run(store)
    store.save_target(run_id, pending())
    program = (
        "import sys\n"
        "from harness.store import open_store\n"
        "from harness.record.timing import BlockRecord\n"
        "from harness.record.figure import Network\n"
        "store = open_store(sys.argv[1])\n"
        "for pair in range(10**6):\n"
        "    store.add_block(sys.argv[2], 'a', BlockRecord(Network.FLOAT, pair, (1,), 1.0, 1.0, 1, 0.1, 1))\n"
        "    print(pair, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path), run_id], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [int(next(process.stdout)) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    seen += [int(line) for line in process.stdout]
    process.wait()
    kept = {one.pair for one in store.blocks(run_id, "a")}
    assert set(seen) <= kept


def test_two_processes_may_meet_a_new_database_at_once(tmp_path: Path) -> None:
    program = "import sys; from harness.store import open_store; print(len(open_store(sys.argv[1]).runs()))"
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        started = [
            subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        assert [process.communicate()[0] for process in started] == ["0\n"] * 4
