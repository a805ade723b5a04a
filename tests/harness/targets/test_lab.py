"""targets.yaml as the contract writes it, how targets are chosen and reached, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.targets.boards import BOARDS
from harness.targets.lab import find_lab, load_lab, parse_lab
from harness.targets.power.values import Power
from harness.targets.target import Bitstream, Console, Dpu, Ssh, Via

CONTRACT = """\
targets:
  jetson-emulated: {board: jetson-orin-nano, environment: gpu,  via: emulated}
  rpi-qemu:        {board: raspberry-pi-4,   environment: cpu,  via: qemu}
  zcu102-emulated: {board: zcu102, environment: fpga, via: emulated,
                    bitstream: {float: zcu102_single, int8: zcu102_int8}}
  this-machine:    {board: generic, environment: cpu, via: local}
  rpi5-lab:
    board: raspberry-pi-5
    environment: cpu
    via: {address: rpi5.lab:50443, tls: lab}
    ssh: {host: rpi5.lab, user: pi, key: ~/.ssh/lab}
    console: {url: "rfc2217://consoles.lab:4001", baud: 115200}
    power: {cycle: "pdu-cli cycle 7"}
    tags: [dotprod]
"""


def via_of(text: str, base: Path = Path("/lab")) -> Via:
    return parse_lab(f"targets:\n  a: {{board: generic, via: {text}}}", base / "targets.yaml").targets["a"].via


def test_the_file_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "targets.yaml"
    path.write_text(CONTRACT)
    lab = load_lab(path)
    assert list(lab.targets) == ["jetson-emulated", "rpi-qemu", "zcu102-emulated", "this-machine", "rpi5-lab"]
    assert {name: target.timed for name, target in lab.targets.items()} == {
        "jetson-emulated": False,
        "rpi-qemu": False,
        "zcu102-emulated": False,
        "this-machine": True,
        "rpi5-lab": True,
    }
    assert lab.targets["zcu102-emulated"].bitstream == Bitstream("zcu102_single", "zcu102_int8")
    board = lab.targets["rpi5-lab"]
    assert board.via == Via("address", "rpi5.lab:50443", tmp_path / "config/quantrig/tls/lab")
    assert board.ssh == Ssh("rpi5.lab", "pi", tmp_path / "home/.ssh/lab", 22)
    assert board.console == Console("rfc2217://consoles.lab:4001", 115200)
    assert board.power == Power(cycle="pdu-cli cycle 7")
    assert (board.tags, board.base, board.environment) == (("dotprod",), tmp_path, "cpu")


@pytest.mark.parametrize(
    ("text", "dpu"),
    [
        ("{arch: B4096, clock_mhz: 281, cores: 3}", Dpu("B4096", 281.0, 3)),
        ("{arch: B1600, clock_mhz: 287.5}", Dpu("B1600", 287.5, None)),
        ("{arch: B512}", Dpu("B512", None, None)),
    ],
)
def test_a_dpu_has_an_architecture_and_what_else_is_known(text: str, dpu: Dpu) -> None:
    lab = parse_lab(f"targets: {{a: {{board: zcu102, via: emulated, dpu: {text}}}}}", Path("t.yaml"))
    assert lab.targets["a"].dpu == dpu


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_a_usual_environment(name: str) -> None:
    target = parse_lab(f"targets: {{a: {{board: {name}, via: emulated}}}}", Path("t.yaml")).targets["a"]
    usual = {"jetson": "gpu", "nvidia": "gpu", "raspberry": "cpu", "generic": "cpu"}
    assert target.environment == usual.get(name.partition("-")[0], "fpga")


def test_certificates_beside_the_lab_file_come_before_those_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    address = "{address: 'h.lab:1', tls: %s}"
    assert via_of(address % "lab", tmp_path).tls == tmp_path / "config/quantrig/tls/lab"
    (tmp_path / "lab").mkdir()
    assert via_of(address % "lab", tmp_path).tls == tmp_path / "lab"
    assert via_of(address % "keys/lab", tmp_path).tls == tmp_path / "keys/lab"
    assert via_of(address % "/etc/lab", tmp_path).tls == Path("/etc/lab")


@pytest.mark.parametrize("address", ["127.0.0.1:5", "127.8.9.1:5", "localhost:5", "[::1]:5", "unix:/run/a.sock"])
def test_only_this_machine_may_go_without_certificates(address: str) -> None:
    assert via_of(f"{{address: '{address}'}}") == Via("address", address)


@pytest.mark.parametrize("address", ["h.lab:5", "192.168.1.7:5", "[fe80::1]:5", "0.0.0.0:5", "localhost.evil.org:5"])
def test_others_need_them(address: str) -> None:
    with pytest.raises(UserError, match=r"targets.yaml:2: a: .* is beyond this machine"):
        via_of(f"{{address: '{address}'}}")


def test_select_keeps_order_drops_repeats_and_suggests() -> None:
    lab = parse_lab(CONTRACT, Path("targets.yaml"))
    assert [t.name for t in lab.select(["rpi5-lab", "this-machine", "rpi5-lab"])] == ["rpi5-lab", "this-machine"]
    assert [t.name for t in lab.select(None)] == list(lab.targets)
    with pytest.raises(UserError, match=r"no target 'rpi5-lb'; did you mean 'rpi5-lab'\?"):
        lab.select(["rpi5-lb"])


def test_where_the_lab_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, job = tmp_path / "here", tmp_path / "job/job.yaml"
    here.mkdir()
    job.parent.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(UserError, match=r"no targets\.yaml here nor in"):
        find_lab(None, job)
    (job.parent / "targets.yaml").touch()
    assert find_lab(None, job) == job.parent / "targets.yaml"
    (here / "targets.yaml").touch()
    assert find_lab(None, job).resolve() == here / "targets.yaml"
    assert find_lab(Path("given.yaml"), job) == Path("given.yaml")


def test_a_lab_whose_targets_are_all_commented_out_is_empty() -> None:
    assert parse_lab("targets:\n  # a: {}\n", Path("t.yaml")).targets == {}


HEAD = "targets:\n  a:\n    board: generic\n"
ZCU = "targets:\n  a:\n    board: zcu102\n    via: emulated\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "targets:\n  a: {board: jetson-orin-nan, via: local}",
            "t.yaml:2: targets.a.board: unknown board 'jetson-orin-nan'; d",
        ),
        (HEAD + "    via: locl", "t.yaml:4: targets.a.via: unknown way 'locl'; did you mean 'local'?"),
        (HEAD + "    via: jtag", "t.yaml:4: targets.a.via: unknown way 'jtag'; a channel is written {channel: jtag}"),
        (HEAD + "    via: 'h:1'", "t.yaml:4: targets.a.via: unknown way 'h:1'; an agent's address is written"),
        (
            HEAD + "    via:\n      adress: x",
            "t.yaml:5: unknown field 'adress' in targets.a.via; did you mean 'address'?",
        ),
        (HEAD + "    via: {address: nonsense}", "t.yaml:4: a: 'nonsense' is not an address"),
        (HEAD + "    via: {address: 'h:99999', tls: x}", "t.yaml:4: a: 'h:99999' is not an address"),
        (HEAD + "    via: {tls: x}", "t.yaml:4: targets.a.via: field 'address' is missing"),
        (HEAD, "t.yaml:2: targets.a: field 'via' is missing"),
        (
            HEAD + "    via: local\n    enviroment: gpu",
            "t.yaml:5: unknown field 'enviroment' in targets.a; did you mean",
        ),
        (HEAD + "    via: local\n    environment: gpux", "t.yaml:5: targets.a.environment should be 'gpu'"),
        (ZCU + "    dpu: {arch: B4095}", "t.yaml:5: targets.a.dpu.arch should be 'B512', 'B800'"),
        (ZCU + "    dpu: {clock_mhz: 281}", "t.yaml:5: targets.a.dpu: field 'arch' is missing"),
        (ZCU + "    dpu: {arch: B4096, cores: 0}", "t.yaml:5: targets.a.dpu.cores should be greater"),
        (ZCU + "    dpu: {arch: B4096, clock: 281}", "t.yaml:5: unknown field 'clock' in targets.a.dpu; did you mean"),
        (
            ZCU + "    bitstream: {int8: zcu102_int8}\n    dpu: {arch: B4096}",
            "t.yaml:6: a: `dpu` and `bitstream` exclude each other",
        ),
        (HEAD + "    via: emulated\n    dpu: {arch: B4096}", "t.yaml:5: a: `dpu` belongs to environment fpga, not cpu"),
        (HEAD + "    via: local\n    threads: 0", "t.yaml:5: targets.a.threads should be greater"),
        (
            HEAD + "    via: local\n    bitstream: {flot: x}",
            "t.yaml:5: unknown field 'flot' in targets.a.bitstream; did you",
        ),
        (
            "targets:\n  Rpi_5: {board: generic, via: local}",
            "t.yaml:2: target name 'Rpi_5' may hold a-z, 0-9 and - only",
        ),
        ("tragets: {}", "t.yaml:1: unknown field 'tragets'; did you mean 'targets'?"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_lab(text, Path("t.yaml"))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_an_installed_package_adds_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "odd_boards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-boards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantrig.agent.boards]\nodd-one = odd_boards:Odd\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "targets: {a: {board: odd-one, environment: cpu, via: local}}"
    assert parse_lab(text, Path("t.yaml")).targets["a"].board == "odd-one"
    with pytest.raises(UserError, match=r"t.yaml:1: a: field 'environment' is missing; a odd-one has no usual one"):
        parse_lab(text.replace("environment: cpu, ", ""), Path("t.yaml"))


def test_the_reference_page_loads_and_names_every_field_and_board() -> None:
    page = (Path(__file__).parents[3] / "docs/lab-file.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    assert "rpi5-lab" in parse_lab(example, Path("t.yaml")).targets
    with pytest.raises(UserError) as caught:
        parse_lab("targets: {a: {board: generic, via: local, zzzzzz: 1}}", Path("t.yaml"))
    fields = str(caught.value).partition("known: ")[2].split(", ")
    assert len(fields) > 8
    assert [name for name in [*fields, *BOARDS] if f"`{name}`" not in page] == []
