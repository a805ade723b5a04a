"""The parts of `via: qemu` that need neither an emulator nor a network."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from harness.errors import UserError
from harness.targets.boards import BOARDS
from harness.targets.qemu import tree
from harness.targets.qemu.binary import Qemu, find_qemu
from harness.targets.qemu.debian import Package, fetch_packages, ubuntu_sources
from harness.targets.qemu.processors import processor_of
from harness.targets.qemu.provision import unprovision
from harness.targets.qemu.rootfs import make_root, place_agent
from harness.targets.qemu.tree import FORMAT, Manifest, PackageTaken, Tree, WheelTaken, current_tree, keep, newest_tree
from harness.targets.qemu.user_mode import check_ready
from harness.targets.qemu.wheels import agent_requirements, installed_versions, platform_arguments
from harness.targets.target import Target

MakeTarget = Callable[..., Target]
ROOT = Path(__file__).parents[3]
QEMU = Qemu(Path("/usr/bin/qemu-aarch64-static"), "7.2.22")


def manifest(sha256: str = "a" * 64, requirements: tuple[str, ...] | None = None) -> Manifest:
    return Manifest(
        format=FORMAT,
        python="3.11",
        glibc=(2, 36),
        requirements=tuple(agent_requirements()) if requirements is None else requirements,
        pins=(),
        packages=(PackageTaken(name="libc6", version="2.36-9", sha256=sha256),),
        wheels=(WheelTaken(file="onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_aarch64.whl", sha256="b" * 64),),
        built_s=1.0,
    )


def kept(sha256: str = "a" * 64) -> Tree:
    partial = tree.home() / "trees" / "partial"
    (partial / "usr" / "bin").mkdir(parents=True)
    (partial / "lib").mkdir()
    return keep(partial, manifest(sha256))


def test_every_board_has_a_processor_or_a_sentence() -> None:
    without = {"jetson-xavier-nx", "jetson-agx-xavier", "jetson-thor", "nvidia-gpu"}
    for board in without:
        with pytest.raises(
            UserError, match=f"bench: QEMU has no processor like that of {board}; write `via: emulated`"
        ):
            processor_of("bench", board)
    for board in set(BOARDS) - without:
        processor = processor_of("bench", board)
        # dot products came with Armv8.2, and of ours only the Cortex-A76 has them
        assert ("asimddp" in processor.features) == (processor.name == "cortex-a76")
    assert processor_of("bench", "raspberry-pi-4").name == "cortex-a72"
    assert processor_of("bench", "raspberry-pi-5").name == "cortex-a76"


def test_cpuinfo_is_read_as_the_agent_reads_a_boards() -> None:
    text = processor_of("bench", "raspberry-pi-5").cpuinfo(3, "QEMU 7.2.22, user mode")
    blocks = [
        dict(line.split("\t: ", 1) for line in block.splitlines() if "\t: " in line) for block in text.split("\n\n")
    ]
    assert [block.get("processor") for block in blocks] == ["0", "1", "2", None]
    assert blocks[2]["model name"] == "Cortex-A76 (QEMU 7.2.22, user mode)"
    assert "asimddp" in blocks[2]["Features"].split()


def test_no_emulator_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"rpi: .*apt-get install --no-install-recommends qemu-user-static"):
        find_qemu("rpi")
    pretender = tmp_path / "qemu-aarch64-static"
    pretender.write_text("#!/bin/sh\nexit 3\n")
    pretender.chmod(0o755)
    with pytest.raises(UserError, match="does not say which QEMU it is"):
        find_qemu("rpi")
    pretender.write_text("#!/bin/sh\necho 'qemu-aarch64 version 10.0.2 (Debian 1:10.0.2)'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert find_qemu("rpi") == Qemu(pretender, "10.0.2")


def test_no_apt_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is not here"):
        fetch_packages("rpi", tmp_path / "apt", None, lambda *_: None)


@pytest.mark.skipif(not Path("/usr/bin/apt-get").exists(), reason="needs apt-get")
def test_sources_without_arm64_are_one_line(tmp_path: Path) -> None:
    sources = tmp_path / "empty.list"
    sources.write_text(f"deb [trusted=yes] file://{tmp_path}/nothing bookworm main\n")
    with pytest.raises(
        UserError, match=r"rpi: this machine's package sources have no Python for arm64 .*--apt-sources"
    ):
        fetch_packages("rpi", tmp_path / "apt", sources, lambda *_: None)


def test_ubuntus_ports_are_signed_and_for_arm64_only() -> None:
    lines = ubuntu_sources("noble").splitlines()
    assert [line.split()[-2] for line in lines] == ["noble", "noble-updates", "noble-security"]
    for line in lines:
        assert line.startswith("deb [arch=arm64 signed-by=/usr/share/keyrings/")
        assert line.endswith(" main")


def test_an_archives_name_is_that_of_apt() -> None:
    assert Package.file_name("zlib1g", "1:1.2.13.dfsg-1", "arm64") == "zlib1g_1%3a1.2.13.dfsg-1_arm64.deb"


def test_requirements_are_those_of_the_agents_project() -> None:
    project = tomllib.loads((ROOT / "agents" / "pyproject.toml").read_text())["project"]
    written = project["dependencies"] + project["optional-dependencies"]["onnxruntime"]
    assert {str(Requirement(one)) for one in agent_requirements()} == {str(Requirement(one)) for one in written}


def test_pins_are_this_environments_and_close_over_what_they_need() -> None:
    pins = dict(line.split("==") for line in installed_versions(agent_requirements()))
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    there = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in listed.stdout.splitlines() if "==" in line}  # fmt: skip  # noqa: E501
    assert {"onnxruntime", "numpy", "protobuf", "grpcio", "flatbuffers"} <= set(pins)
    assert {name: there[name] for name in pins} == pins


def test_wheels_newer_than_the_boards_glibc_are_not_asked_for() -> None:
    words = platform_arguments("3.11", (2, 28))
    platforms = [words[i + 1] for i, word in enumerate(words) if word == "--platform"]
    assert platforms[0] == "manylinux_2_28_aarch64"
    assert platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert max(Version(name.removeprefix("manylinux_").removesuffix("_aarch64").replace("_", ".")) for name in platforms[:-1]) == Version("2.28")  # fmt: skip  # noqa: E501
    assert words[words.index("--abi") + 1] == "cp311"


def test_identity_is_of_the_content_alone() -> None:
    one = manifest()
    assert one.identity == one.model_copy(update={"built_s": 9.0}).identity
    assert one.identity != manifest("c" * 64).identity
    assert one.onnxruntime == "1.31.1"


def test_without_a_tree_the_command_is_named(make_target: MakeTarget) -> None:
    with pytest.raises(UserError, match="`quantrig targets provision rpi` makes it"):
        current_tree("rpi")
    kept()
    assert current_tree("rpi").manifest == manifest()
    tree.newest_tree().path.joinpath("tree.json").write_text(  # type: ignore[union-attr]
        manifest(requirements=("grpcio>=99",)).model_dump_json()
    )
    with pytest.raises(UserError, match="another version of the agent; `quantrig targets provision rpi`"):
        current_tree("rpi")
    with pytest.raises(UserError, match=r"QEMU has no processor like that of jetson-thor|qemu-user-static"):
        check_ready(make_target("qemu", name="thor", board="jetson-thor"))


def test_a_damaged_tree_is_none() -> None:
    made = kept()
    (made.path / "tree.json").write_text('{"format": 1')
    assert newest_tree() is None
    (made.path / "tree.json").write_text(manifest().model_copy(update={"format": FORMAT + 1}).model_dump_json())
    assert newest_tree() is None


def test_a_tree_in_use_outlives_its_successor() -> None:
    old = kept()
    with old.in_use():
        new = kept("d" * 64)
        assert newest_tree() == new
        assert old.path.is_dir()
        with pytest.raises(UserError, match="an agent runs in its ARM system"), new.in_use():
            unprovision("rpi")
    third = kept("e" * 64)
    assert [path.name for path in (tree.home() / "trees").iterdir()] == [third.manifest.identity]


def test_unprovision_leaves_nothing() -> None:
    assert not unprovision("rpi")
    made = kept()
    locked = made.path / "usr" / "share"
    locked.mkdir()
    (locked / "file").touch()
    locked.chmod(0o500)
    assert unprovision("rpi")
    assert not tree.home().exists()


def test_the_agents_copy_is_made_once_by_content() -> None:
    made = kept()
    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(lambda _: place_agent(made), range(16)))
    (place,) = places
    assert list(made.path.glob("agents/*")) == [place]
    assert not list(place.rglob("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", "import agents.config, importlib.metadata as m; print(agents.__file__);"
         "print(*(p.value for p in m.entry_points(group='quantrig.agent.runtimes')))"],
        env={"PYTHONPATH": str(place)}, capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    where, found = done.stdout.splitlines()
    assert where == str(place / "agents" / "__init__.py")
    assert "agents.runtimes.onnxruntime_cpu:OnnxRuntimeCpu" in found.split()


def test_two_boards_set_up_at_once_do_not_disturb_each_other() -> None:
    made = kept()
    processor = processor_of("rpi", "raspberry-pi-4")
    with ThreadPoolExecutor(8) as pool:
        scripts = set(pool.map(lambda _: make_root(made, QEMU, processor, "raspberry-pi-4"), range(16)))
    (script,) = scripts
    assert os.access(script, os.X_OK)
    root = script.parents[1]
    assert sorted(path.name for path in root.iterdir()) == ["bin", "lib", "proc", "usr"]
    assert (root / "usr").resolve() == made.path / "usr"
    assert "-cpu cortex-a72" in script.read_text()


def test_times_of_an_emulator_are_nobodys(make_target: MakeTarget) -> None:
    assert not make_target("qemu", board="raspberry-pi-4").timed
