"""Energy counters, pressure and trips of any Linux machine, from trees of files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.boards.energy import EnergyCounters
from agents.boards.generic import LinuxSampler
from agents.boards.pressure import Pressure
from agents.boards.thermal import ThermalZones
from tests.agents.boards.conftest import Tree

RAPL = "sys/class/powercap/intel-rapl:0"


def test_energy_becomes_power_also_across_the_end_of_a_counter(tree: Tree) -> None:
    tree.put(
        {
            f"{RAPL}/name": "package-0\n",
            f"{RAPL}/energy_uj": "262143000000\n",
            f"{RAPL}/max_energy_range_uj": "262143328850\n",
            "sys/class/powercap/intel-rapl:0:0/name": "core\n",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": "1000\n",
            "sys/class/powercap/intel-rapl:1/name": "psys\n",  # closed to us: no energy
        }
    )
    now_s = 100.0
    counters = EnergyCounters(tree.sources, lambda: now_s)
    tree.put({f"{RAPL}/energy_uj": "671150\n", "sys/class/powercap/intel-rapl:0:0/energy_uj": "501000\n"})
    now_s = 102.0
    # 328,850 µJ to the end of the range and 671,150 µJ beyond it: 1 J in 2 s.
    assert counters.power_mw() == {"package-0": pytest.approx(500), "package-0/core": pytest.approx(250)}
    assert counters.power_mw() == {}  # no time passed
    now_s = 103.0
    assert counters.power_mw() == {"package-0": 0, "package-0/core": 0}


def test_only_the_platforms_counter_is_a_total(tree: Tree) -> None:
    tree.put({f"{RAPL}/name": "package-0\n", f"{RAPL}/energy_uj": "0\n", f"{RAPL}/max_energy_range_uj": "9\n"})
    sampler = LinuxSampler(tree.sources)
    sample = sampler.sample()
    assert set(sample.power_mw) == {"package-0"}
    assert sample.total_power_mw is None
    tree.put({"sys/class/powercap/intel-rapl:1/name": "psys\n", "sys/class/powercap/intel-rapl:1/energy_uj": "0\n"})
    sample = LinuxSampler(tree.sources).sample()
    assert (sample.total_power_mw, sample.total_power_rail) == (0, "psys")


def test_pressure_is_the_share_of_the_time_since_the_sample_before(tree: Tree) -> None:
    line = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=999999999\n"
    tree.put({"proc/pressure/io": line.format(1000), "proc/pressure/cpu": line.format(5), "proc/pressure/memory": "?"})
    pressure = Pressure(tree.sources)
    tree.put({"proc/pressure/io": line.format(10**9), "proc/pressure/cpu": line.format(5)})
    assert pressure.percent() == {"io": 100, "cpu": 0}  # never more than all of the time
    assert pressure.percent() == {"io": 0, "cpu": 0}


@given(st.floats(-300, 300), st.floats(-300, 300), st.sampled_from(["passive", "hot", "critical", "active"]))
def test_a_zone_near_its_trip(tmp_path_factory: pytest.TempPathFactory, at_c: float, trip_c: float, kind: str) -> None:
    tree = Tree(tmp_path_factory.mktemp("zone"))
    zone = "sys/class/thermal/thermal_zone0"
    at_mc, trip_mc = round(at_c * 1000), round(trip_c * 1000)
    tree.put({f"{zone}/type": "soc", f"{zone}/temp": f"{at_mc}\n"})
    tree.put({f"{zone}/trip_point_3_type": kind, f"{zone}/trip_point_3_temp": f"{trip_mc}\n"})
    reasons = ThermalZones(tree.sources).near_trips()
    real = kind != "active" and trip_mc >= 45_000
    assert bool(reasons) == (real and at_mc > trip_mc - 3000)
