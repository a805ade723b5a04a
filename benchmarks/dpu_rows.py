"""Published frame rates of a DPU, each with its network: what the timing model is fitted to and held against."""

from __future__ import annotations

import csv
import functools
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.dpu_networks import BUILT, BUILT_AFTERWARDS
from harness.emulation.performance.dpu import DpuConfig, dpu_config
from harness.emulation.performance.layers import NetworkShape
from harness.emulation.performance.reading import read_shape

SHARED = Path(__file__).parents[1].parent / "shared"
RATES = SHARED / "facts/fpga/dpu_fps.csv"
RATES_3_0 = SHARED / "facts/fpga/dpu_fps_accuracy_vai30.csv"
GRAPHS = SHARED / "data/layer_graphs"

#: Other rows of networks whose graph is at hand: the same layers, as name, input and GOPs say.
SAME_LAYERS: Mapping[str, str] = {
    "tf_inceptionv3_imagenet_299_299_11.45G": "cf_inceptionv3",
    "pt_inceptionv3_imagenet_299_299_11.4G": "cf_inceptionv3",
    "pt_vehicle-make-classification_CompCars_224_224_3.63G": "cf_resnet18",
    "pt_vehicle-color-classification_color_224_224_3.63G": "cf_resnet18",
    "tf_mobilenetv2_1.4_imagenet_224_224_1.16G": "tf_mobilenetv2",
    "tf2_mobilenetv1_imagenet_224_224_1.15G": "tf_mobilenetv1",
}
#: A row whose GOPs differ by more is of another network (tf_mobilenetv2_cityscapes: 1024 x 2048, not 224 x 224).
#: cf_fpn_cityscapes, whose graph ends before the last layers, differs by 4.4 %.
MOST_GOP_DIFFERENCE = 0.06
_BOARDS = {
    "ZCU102": "zcu102",
    "ZCU102-04(v1.4.0)": "zcu102",
    "ZCU104": "zcu104",
    "KV260": "kv260",
    "Ultra96": "ultra96",
}
#: Boards and DPUs of the tables of Vitis AI 3.0, whose file does not say.
_OF_3_0 = (("zcu102", 3, 281.0), ("zcu104", 2, 300.0), ("kv260", 1, 300.0))


@dataclass(frozen=True)
class Rate:
    """One published frame rate.

    Args:
        row: the network's name in the table.
        network: whose layers it has: a layer graph's name, or `row` for one built from its paper.
        shape: those layers.
        config: board and DPU.
        release: of Vitis AI.
        threads: single, or multi: enough to keep every core busy.
        fps: as published.
    """

    row: str
    network: str
    shape: NetworkShape
    config: DpuConfig
    release: Literal["1.4", "2.5", "3.0"]
    threads: Literal["single", "multi"]
    fps: float

    @property
    def has_graph(self) -> bool:
        """Its layers come from a layer graph, not from a paper."""
        return self.network not in BUILT


def available() -> bool:
    """The tables and graphs are beside the repository."""
    return all(path.exists() for path in (RATES, RATES_3_0, GRAPHS / "index.csv"))


@functools.cache
def graph_shapes() -> Mapping[str, NetworkShape]:
    """Every layer graph, by way of ONNX as a user would have it."""
    spec = importlib.util.spec_from_file_location("graph_onnx", SHARED / "tools/graph_onnx.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(SHARED / "tools/graph_onnx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shapes = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(GRAPHS.glob("*.json")):
            target = Path(folder) / f"{path.stem}.onnx"
            module.convert(str(path), str(target))
            shapes[path.stem] = read_shape(target)
    return shapes


@functools.cache
def rates() -> tuple[Rate, ...]:
    """Every published rate of a network whose layers are known, in the tables' order."""
    with (GRAPHS / "index.csv").open(encoding="utf-8", newline="") as file:
        graphs = {row["std_name_in_dpu_fps_csv"]: row["graph"] for row in csv.DictReader(file)} | dict(SAME_LAYERS)
    return _read(graphs, {name: build() for name, build in BUILT.items()})


@functools.cache
def rates_afterwards() -> tuple[Rate, ...]:
    """Rates of networks that were built when the model was finished: nothing was chosen by them."""
    return _read({}, {name: build() for name, build in BUILT_AFTERWARDS.items()})


def _read(graphs: Mapping[str, str], built: Mapping[str, NetworkShape]) -> tuple[Rate, ...]:
    found: list[Rate] = []
    with RATES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["board"] in _BOARDS:
                release: Literal["1.4", "2.5"] = "1.4" if row["mhz"] == "287" else "2.5"
                config = dpu_config(row["arch"], float(row["mhz"]), int(row["cores"]), _BOARDS[row["board"]])
                speeds = (row["fps_single_thread"], row["fps_multi_thread"])
                found += _rates(row["std_name"], row["gop_per_image"], config, release, speeds, graphs, built)
    with RATES_3_0.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for board, cores, clock_mhz in _OF_3_0:
                config = dpu_config("B4096", clock_mhz, cores, board)
                speeds = (row[f"{board}_st"], row[f"{board}_mt"])
                # The table says 62 for tf_mobilenetv2_1.0 and its name 602M: the name is right.
                gop = ".602" if row["name"].endswith("_602M") else row["gop"]
                found += _rates(row["name"], gop, config, "3.0", speeds, graphs, built)
    return tuple(found)


def _rates(
    row: str,
    gop: str,
    config: DpuConfig,
    release: Literal["1.4", "2.5", "3.0"],
    speeds: tuple[str, str],
    graphs: Mapping[str, str],
    built: Mapping[str, NetworkShape],
) -> list[Rate]:
    network = graphs.get(row, row)
    shape = graph_shapes()[network] if row in graphs else built.get(row)
    if shape is None or abs(shape.operations / 1e9 / float(gop) - 1) > MOST_GOP_DIFFERENCE:
        return []
    single, multi = speeds
    found: list[Rate] = []
    if single not in {"", "---"}:
        found.append(Rate(row, network, shape, config, release, "single", float(single)))
    if multi not in {"", "---"}:
        found.append(Rate(row, network, shape, config, release, "multi", float(multi)))
    return found


def fitted_networks() -> frozenset[str]:
    """Two of every three networks by name: the constants are fitted to these, the third, sixth, … are held out.

    Of the three ways to count this is the one that holds out neither the smallest network nor the largest.
    """
    names = sorted({rate.network for rate in rates()})
    return frozenset(name for number, name in enumerate(names, start=1) if number % 3)
