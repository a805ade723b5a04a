"""What boards say of themselves: recorded answers, hostile ones, and this machine's own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.targets.ssh.report import choose_python, parse_report, probe_script
from harness.targets.target import Ssh, Target, Via


def interpreter(version: list[int], path: str = "/usr/bin/python3", **more: object) -> str:
    facts = {
        "executable": path, "version": version, "implementation": "cpython", "bits": 64, "machine": "aarch64",
        "libc": "glibc 2.35", "abiflags": "", "free_threaded": False, "venv": False,
    }  # fmt: skip
    return "python=" + json.dumps(facts | more)


JETPACK_6 = f"""Welcome to Ubuntu 22.04.5 LTS (GNU/Linux 5.15.148-tegra aarch64)
machine=aarch64
kernel=5.15.148-tegra
uid=1000
home=/home/lab
clock=1795284687
os=Ubuntu 22.04.5 LTS
tegra=# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64
systemd=249
user_systemd=yes
group=video
group=i2c
group=wheel; rm -rf /
{interpreter([3, 10, 12], "/usr/bin/python3.10")}
python=
{interpreter([3, 10, 12], "/usr/bin/python3.10")}
"""
JETPACK_5 = JETPACK_6.replace("22.04.5", "20.04.6").replace("3, 10, 12", "3, 8, 10").replace("R36", "R35")


def bench(**ssh: str) -> Target:
    login = Ssh("orin.lab", **ssh)  # type: ignore[arg-type]
    return Target("orin", "jetson-orin-nano", "gpu", Via("address", "127.0.0.1:1"), Path(), ssh=login)


def test_a_recorded_jetson() -> None:
    report = parse_report(JETPACK_6)
    assert (report.machine, report.uid, report.home, report.systemd) == ("aarch64", 1000, "/home/lab", 249)
    assert report.user_systemd
    assert not report.sudo
    assert report.groups == ("video", "i2c")  # never what it makes up
    (one,) = report.pythons
    assert (one.version, one.glibc, one.bits, one.venv) == ((3, 10, 12), (2, 35), 64, False)
    assert choose_python(bench(), report) == one


def test_jetpack_5_is_told_in_one_plain_sentence() -> None:
    with pytest.raises(UserError) as caught:
        choose_python(bench(), parse_report(JETPACK_5))
    said = str(caught.value)
    assert said.startswith(
        "orin: the board has Python 3.8, the agent needs 3.10 or newer (JetPack 5 and older have 3.8"
    )
    assert "`python` in `ssh`" in said
    assert "\n" not in said


def test_the_distributions_own_python_comes_first_then_newer_ones() -> None:
    text = JETPACK_5 + interpreter([3, 12, 1], "/opt/python/bin/python3.12") + "\n"
    assert choose_python(bench(), parse_report(text)).executable == "/opt/python/bin/python3.12"
    text = JETPACK_6 + interpreter([3, 13, 0], "/usr/local/bin/python3.13") + "\n"
    assert choose_python(bench(), parse_report(text)).executable == "/usr/bin/python3.10"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no Python 3 on the board"),
        (interpreter([3, 13, 0], free_threaded=True), "no ordinary CPython"),
        (interpreter([3, 11, 0], implementation="pypy"), "no ordinary CPython"),
        (interpreter([3, 9, 2]), "needs 3.10 or newer"),
        (interpreter([2, 7, 18]), "has Python 2.7"),
    ],
)
def test_no_python_that_will_do(line: str, words: str) -> None:
    head = "\n".join(one for one in JETPACK_6.splitlines() if not one.startswith("python"))
    with pytest.raises(UserError, match=words):
        choose_python(bench(), parse_report(f"{head}\n{line}"))


def test_a_named_python_that_is_not_there_is_named() -> None:
    head = "\n".join(one for one in JETPACK_6.splitlines() if not one.startswith("python"))
    with pytest.raises(UserError, match=r"/opt/py/bin/python is no Python on the board"):
        choose_python(bench(python="/opt/py/bin/python"), parse_report(head))


@given(st.text() | st.text(alphabet="machinehomuid=/0\n{}[]\"',:python ", max_size=300))
def test_no_answer_breaks_the_parser(text: str) -> None:
    for whole in (text, JETPACK_6 + text, f"{JETPACK_6}python={text}"):
        try:
            parse_report(whole)
        except ValueError:
            continue


def test_the_script_tells_this_machine_as_python_does() -> None:
    done = subprocess.run(["sh", "-s"], input=probe_script(sys.executable), capture_output=True, text=True, check=True)
    report = parse_report(done.stdout)
    assert report.machine == platform.machine()
    assert report.uid == os.geteuid()
    (one,) = report.pythons
    assert one.version == sys.version_info[:3]
    assert one.executable == os.path.realpath(sys.executable)
    assert one.venv
    if platform.libc_ver()[0] == "glibc":
        assert one.glibc == tuple(map(int, platform.libc_ver()[1].split(".")))


def test_a_python_named_like_a_command_is_quoted() -> None:
    script = probe_script("python3; touch /tmp/quantrig-was-here")
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True)
    assert not parse_report(done.stdout).pythons
    assert not Path("/tmp/quantrig-was-here").exists()


def test_another_shell_than_posix_is_noticed() -> None:
    with pytest.raises(ValueError, match="POSIX"):
        parse_report("Unknown command: -s\n")
