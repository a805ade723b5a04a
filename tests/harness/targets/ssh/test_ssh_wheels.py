"""Which wheels fit a board: recorded answers of boards against files that exist, and against pip's own tags here."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from harness.errors import UserError
from harness.targets.ssh.report import BoardPython
from harness.targets.ssh.wheels import check_wheel, choose_wheels, missing_requirements, requirements_of


def python(
    version: tuple[int, int, int], glibc: tuple[int, int] | None, machine: str = "aarch64", bits: int = 64
) -> BoardPython:
    return BoardPython("/usr/bin/python3", version, machine, bits, glibc, usable=True, venv=True)


JETPACK_6 = python((3, 10, 12), (2, 35))  # Ubuntu 22.04; Kria's Ubuntu 22.04 says the same
BOOKWORM = python((3, 11, 2), (2, 36))  # Raspberry Pi OS 64-bit
PETALINUX = python((3, 12, 6), (2, 39))  # Yocto scarthgap
OLD = python((3, 10, 14), (2, 31))  # a Python built beside Ubuntu 20.04's own

#: File names in the public index (../shared/facts/qemu.md's table).
FILES = {
    "onnxruntime-1.23.2-cp310-cp310-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl": [JETPACK_6, OLD],
    "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_aarch64.whl": [BOOKWORM],
    "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_aarch64.whl": [PETALINUX],
    "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl": [],
    "protobuf-7.36.2-cp310-abi3-manylinux2014_aarch64.whl": [JETPACK_6, BOOKWORM, PETALINUX, OLD],
    "some-1.0-cp39-abi3-manylinux_2_34_aarch64.whl": [JETPACK_6, BOOKWORM, PETALINUX],
    "some-1.0-cp312-abi3-manylinux2014_aarch64.whl": [PETALINUX],
    "typing_extensions-4.16.0-py3-none-any.whl": [JETPACK_6, BOOKWORM, PETALINUX, OLD],
    "onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl": [JETPACK_6, OLD],
    "numpy-2.4.6-cp311-cp311-musllinux_1_2_aarch64.whl": [],
    "numpy-2.4.6-cp311-cp311-manylinux_2_31_armv7l.whl": [],
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("board", [JETPACK_6, BOOKWORM, PETALINUX, OLD], ids=["jp6", "bookworm", "petalinux", "old"])
def test_a_file_fits_the_boards_it_was_built_for(name: str, board: BoardPython) -> None:
    _, _, _, tags = parse_wheel_filename(name)
    assert bool(tags & choose_wheels("b", board).tags()) == (board in FILES[name])


def test_pip_is_asked_for_binary_wheels_of_the_board_best_first() -> None:
    arguments = choose_wheels("b", JETPACK_6).pip_arguments()
    assert arguments[:5] == ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.10"]
    asked = list(zip(arguments[5::2], arguments[6::2], strict=True))
    assert [word for option, word in asked if option == "--abi"] == ["cp310", "abi3", "none"]
    platforms = [word for option, word in asked if option == "--platform"]
    assert platforms[0] == "manylinux_2_35_aarch64"
    assert platforms.index("manylinux_2_28_aarch64") < platforms.index("manylinux2014_aarch64")
    assert len(platforms) == len(set(platforms)) == (35 - 17 + 1) + 2  # one a glibc, manylinux2014, linux


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tags of Linux")
def test_on_this_machine_the_choice_is_what_pip_would_take() -> None:
    import platform

    library, version = platform.libc_ver()
    if library != "glibc" or platform.machine() not in {"x86_64", "aarch64"}:
        pytest.skip("no glibc here")
    major, minor = map(int, version.split(".")[:2])
    here = python(sys.version_info[:3], (major, minor), platform.machine())
    assert choose_wheels("here", here).tags() == set(sys_tags())


@pytest.mark.parametrize(
    ("board", "words"),
    [
        (python((3, 11, 2), (2, 36), "armv7l", 32), "system is 32-bit (armv7l)"),
        (
            python((3, 11, 2), (2, 36), "aarch64", 32),
            "install the 64-bit system",
        ),  # 64-bit kernel, 32-bit Raspberry Pi OS
        (python((3, 11, 2), (2, 36), "riscv64"), "no wheels for riscv64"),
        (python((3, 11, 2), None), "not glibc"),
        (python((3, 11, 2), (2, 12), "x86_64"), "older than 2.17"),
    ],
)
def test_boards_without_wheels_are_told_what_would_do(board: BoardPython, words: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_wheels("bench", board)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def wheel(folder: Path, name: str, requires: list[str]) -> Path:
    project, version = name.split("-")[:2]
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        lines = [
            f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}",
            *(f"Requires-Dist: {r}" for r in requires),
        ]
        archive.writestr(f"{project}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\nA description\n")
    return path


def test_markers_are_judged_for_the_board_not_for_this_machine(tmp_path: Path) -> None:
    path = wheel(
        tmp_path,
        "net-1.0-py3-none-any.whl",
        [
            'old>=1; python_version < "3.11"', 'new; python_version >= "3.11"', 'arm; platform_machine == "aarch64"',
            'intel; platform_machine == "x86_64"', 'mac; sys_platform == "darwin"', "always[fast]>2",
            'runtime; extra == "onnxruntime"', 'tests; extra == "tests"',
        ],
    )  # fmt: skip
    names = [one.name for one in requirements_of(path, choose_wheels("b", JETPACK_6), ["onnxruntime"])]
    assert names == ["old", "arm", "always", "runtime"]
    assert [one.name for one in requirements_of(path, choose_wheels("b", BOOKWORM))] == ["new", "arm", "always"]


def test_what_no_file_brings_is_found(tmp_path: Path) -> None:
    files = [
        wheel(
            tmp_path, "net-1.0-py3-none-any.whl", ["Typing.Extensions", 'tomli>=2; python_version < "3.11"', "x[a]<3"]
        ),
        wheel(tmp_path, "typing_extensions-4.16.0-py3-none-any.whl", []),
    ]
    assert missing_requirements(files, choose_wheels("b", JETPACK_6)) == ["tomli>=2", "x[a]<3"]
    assert missing_requirements(files, choose_wheels("b", BOOKWORM)) == ["x[a]<3"]


def test_a_users_wheel_is_checked_before_anything_is_sent(tmp_path: Path) -> None:
    choice = choose_wheels("orin", JETPACK_6)
    good = wheel(tmp_path, "onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl", [])
    check_wheel("orin", good, choice)
    for name, words in (
        (
            "onnxruntime_gpu-1.18.0-cp38-cp38-linux_aarch64.whl",
            "is for cp38-cp38-linux_aarch64; the board has Python 3.10",
        ),
        ("renamed.whl", "not named as a wheel is"),
    ):
        with pytest.raises(UserError, match=words):
            check_wheel("orin", wheel(tmp_path, name, []) if "-" in name else _touch(tmp_path / name), choice)
    with pytest.raises(UserError, match="no file"):
        check_wheel("orin", tmp_path / "absent-1-py3-none-any.whl", choice)
    with pytest.raises(UserError, match="not a wheel"):
        requirements_of(_touch(tmp_path / "empty-1-py3-none-any.whl"), choice)


def _touch(path: Path) -> Path:
    path.touch()
    return path
