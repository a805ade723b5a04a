from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable

import pytest

from harness.errors import Refused
from harness.runs.interrupt import Interrupted
from harness.runs.locks import board_alone, board_now, machine_alone, machine_shared

HOLDER = """
import sys, threading
from harness.runs import locks
with getattr(locks, sys.argv[1])(sys.argv[2], threading.Event()):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(kind: str, name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def is_free(take: Callable[[], None]) -> bool:
    """Whether `take` succeeds before the stop that follows at once."""
    try:
        take()
    except Interrupted:
        return False
    return True


def try_alone(name: str) -> bool:
    stopped = threading.Event()
    stopped.set()

    def take() -> None:
        with machine_alone(name, stopped):
            pass

    return is_free(take)


def try_shared(name: str) -> bool:
    stopped = threading.Event()
    stopped.set()

    def take() -> None:
        with machine_shared(name, stopped):
            pass

    return is_free(take)


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def test_untimed_work_shares_a_machine_and_keeps_timed_work_out(name: str) -> None:
    holder = hold("machine_shared", name)
    assert try_shared(name)
    assert not try_alone(name)
    end(holder)
    assert try_alone(name)


def test_timed_work_has_the_machine_to_itself_across_processes(name: str) -> None:
    holder = hold("machine_alone", name)
    assert not try_shared(name)
    assert not try_alone(name)
    assert try_alone(name + "another machine")
    end(holder)
    assert try_shared(name)


def test_threads_of_one_process_exclude_each_other_too(name: str) -> None:
    with machine_alone(name, threading.Event()):
        assert not try_alone(name)
    with machine_shared(name, threading.Event()):
        assert try_shared(name)
        assert not try_alone(name)


def test_a_killed_holder_frees_its_lock(name: str) -> None:
    holder = hold("machine_alone", name)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert try_alone(name)
    holder.communicate()


def test_a_waiting_timed_section_goes_before_new_untimed_work(name: str) -> None:
    order: list[str] = []
    waiting = threading.Event()
    holder = hold("machine_shared", name)

    def timed() -> None:
        with machine_alone(name, threading.Event(), waiting.set):
            order.append("timed")

    def untimed() -> None:
        with machine_shared(name, threading.Event()):
            order.append("untimed")

    first = threading.Thread(target=timed)
    first.start()
    assert waiting.wait(60)
    second = threading.Thread(target=untimed)
    second.start()
    assert order == []
    end(holder)
    first.join(60)
    second.join(60)
    assert order == ["timed", "untimed"]


def test_one_board_serves_one_run(name: str) -> None:
    holder = hold("board_alone", name)
    told: list[bool] = []
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Interrupted), board_alone(name, stopped, lambda: told.append(True)):
        pass
    assert told == [True]
    end(holder)


NAMED = """
import sys, threading
from harness.runs.locks import board_alone
with board_alone(sys.argv[1], threading.Event(), purpose="run r-7"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_does_not_wait_is_told_who_has_the_board() -> None:
    key = f"board {uuid.uuid4()}"
    with board_now("pi", key, "a first look"):
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", NAMED, key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(Refused, match=rf"^pi: in use by run r-7 \(pid {holder.pid}\)$"),
        board_now("pi", key, "a second"),
    ):
        pass
    end(holder)
    with board_now("pi", key, "a third"):
        pass
