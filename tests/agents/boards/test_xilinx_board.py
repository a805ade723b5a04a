"""A Zynq UltraScale+ board from a tree of its files and stand-ins for the vendor's tools."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agents.boards import find_board
from agents.boards.base import Sampler
from agents.boards.xilinx import Xilinx
from tests.agents.boards.conftest import Tree, fact

Closing = Callable[[Sampler], Sampler]
#: Names as on a K26: the chip by its name, at any index.
FILES = {
    "proc/device-tree/model": "ZynqMP SMK-K26 Rev1\0",
    "sys/class/fpga_manager/fpga0/name": "Xilinx ZynqMP FPGA Manager\n",
    "sys/class/fpga_manager/fpga0/state": "operating\n",
    "sys/kernel/config/device-tree/overlays/kv260-benchmark-b4096/status": "applied\n",
    "sys/class/hwmon/hwmon4/name": "ina260_u14\n",
    "sys/class/hwmon/hwmon4/power1_input": "3100000\n",
    "sys/class/hwmon/hwmon4/in1_input": "5017\n",
    "sys/class/hwmon/hwmon4/curr1_input": "616\n",
    "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_raw": "38500\n",
    "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_offset": "-36058\n",
    "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_scale": "7.771514892\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1333333\n",
}


@pytest.fixture
def kv260(tree: Tree) -> Tree:
    tree.put(FILES)
    return tree


def recorded(after: str) -> str:
    return fact("xilinx_samples.txt").split(after)[1].partition("\n")[2].partition("\n#")[0]


def test_identity_names_the_dpu_and_asks_once(kv260: Tree) -> None:
    answer = recorded("id 46132895293 -- KV260").split("$ xdputil query\n")[1]
    kv260.put({"answer": answer, "apps": recorded("xmutil listapps")})
    kv260.tool("xdputil", f'[ "$1" = query ] && echo x >> "{kv260.root}/asked" && cat "{kv260.root}/answer"')
    kv260.tool("xmutil", f'[ "$1" = listapps ] && cat "{kv260.root}/apps"')
    board = find_board("kv260", kv260.sources)
    assert isinstance(board, Xilinx)
    expected = {
        "fpga_manager": "Xilinx ZynqMP FPGA Manager",
        "fpga_state": "operating",
        "application": "kv260-benchmark-b4096",
        "dpu_arch": "DPUCZDX8G_ISA1_B4096",
        "dpu_fingerprint": "0x101000016010407",
        "dpu_clock_mhz": "300",
        "dpu_cores": "1",
        "dpu_ip": "v4.0.0",
        "vart": "2.5.0",
    }
    assert board.identity().details == expected
    assert board.identity().details == expected
    assert (kv260.root / "asked").read_text() == "x\n"  # the query takes seconds
    kv260.put({"answer": answer.replace("016010407", "056010407")})
    kv260.put({"sys/kernel/config/device-tree/overlays/another/status": "applied\n"})
    assert board.identity().details["dpu_fingerprint"] == "0x101000056010407"
    sample = board.sampler().sample()
    assert (sample.clock_mhz, sample.clocks_mhz) == (300, {"cpu": pytest.approx(1333.333), "dpu": 300})


def test_an_older_tool_and_a_query_that_aborts(kv260: Tree) -> None:
    kv260.tool("xdputil", "echo F0307 fingerprint check failure. >&2; kill -ABRT $$")
    board = Xilinx("kv260", kv260.sources)
    assert "dpu_fingerprint" not in board.details()
    shown = "device_core_id=0 device= 0 core = 0 fingerprint = 0x101000016010407 batch = 1 full_cu_name=DPUCZDX8G:DPU_1"
    kv260.tool("show_dpu", f'echo "{shown}"')
    assert board.details()["dpu_fingerprint"] == "0x101000016010407"
    assert "dpu_arch" not in board.details()


def test_sensors_of_the_kernel(kv260: Tree, closing: Closing) -> None:
    kv260.tool("xlnx_platformstats", "exit 1")
    sample = closing(Xilinx("kv260", kv260.sources).sampler()).sample()
    assert sample.power_mw == {"ina260_u14/power1": 3100}
    assert (sample.total_power_mw, sample.total_power_rail) == (3100, "ina260_u14/power1")
    # (38500 - 36058) x 7.771514892 / 1000
    assert sample.temperature_c == {"temp0_ps_temp": pytest.approx(18.978, abs=0.001)}
    assert sample.clock_mhz == pytest.approx(1333.333)
    assert sample.throttled is None


def test_the_many_monitors_of_a_zcu102_have_no_total(tree: Tree, closing: Closing) -> None:
    for number, name in enumerate(("ina226_u76", "ina226_u77")):
        tree.put({f"sys/class/hwmon/hwmon{number}/name": name, f"sys/class/hwmon/hwmon{number}/power1_input": "500000"})
    sample = closing(Xilinx("zcu102", tree.sources).sampler()).sample()
    assert sample.power_mw == {"ina226_u76/power1": 500, "ina226_u77/power1": 500}
    assert sample.total_power_mw is None


def test_platformstats_where_the_kernel_shows_no_power(tree: Tree, closing: Closing) -> None:
    tree.put({"printed": recorded("sudo xmutil xlnx_platformstats")})
    # The older spelling: the newer one only says that it is unknown.
    tree.tool("xmutil", f'if [ "$1" = platformstats ]; then cat "{tree.root}/printed"; else echo "Unknown option"; fi')
    sample = closing(Xilinx("kv260", tree.sources).sampler()).sample()
    assert (sample.total_power_mw, sample.total_power_rail) == (3100, "SOM total power")
