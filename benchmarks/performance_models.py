"""How far the performance models are from published figures: rows they were fitted to apart from rows they were not."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from benchmarks import dpu_rows, fit_dpu
from benchmarks.figures import Effort, Goal, Result, Row
from examples.logonet.build import build
from harness.emulation.performance.dpu_model import MODEL
from harness.emulation.performance.mathworks import time_on_processor
from harness.emulation.performance.processors import find_processor
from harness.emulation.performance.reading import read_shape

MEAN, MEDIAN = Goal("ours", most=12), Goal("ours", most=6)
CYCLES = dpu_rows.SHARED / "facts/fpga/logonet_zcu102_single_cycles.csv"
#: Published rate of LogoNet on zcu102_int8 (MathWorks, `dlquantizer`).
INT8_FPS = 19.433


def run(effort: Effort) -> Result:
    """Errors in percent; `--quick` leaves the cross-validation out."""
    rows = list(_mathworks())
    if not dpu_rows.available():
        return Result(tuple(rows), ("the DPU's timing model: ../shared/facts and layer_graphs are not here",))
    every, names = dpu_rows.rates(), dpu_rows.fitted_networks()
    held = [rate for rate in every if rate.network not in names]
    rows += _errors("rows fitted to", fit_dpu.errors([rate for rate in every if rate.network in names], MODEL))
    rows += _errors("rows held out", fit_dpu.errors(held, MODEL), promised=True)
    with_graph = [rate for rate in held if rate.has_graph]
    rows += _errors("rows held out, networks of the layer graphs", fit_dpu.errors(with_graph, MODEL), promised=True)
    afterwards = fit_dpu.errors(dpu_rows.rates_afterwards(), MODEL)
    rows += _errors("networks built when the model was finished", afterwards, promised=True)
    if not effort.is_quick:
        networks = fit_dpu.together(fit_dpu.left_out(every, lambda rate: rate.network))
        rows += _errors("each network by a fit without it", networks)
        boards = fit_dpu.together(fit_dpu.left_out(every, lambda rate: rate.config.board.name))
        rows += _errors("each board by a fit without it", boards)
    return Result(tuple(rows))


def _errors(which: str, found: fit_dpu.Errors, *, promised: bool = False) -> list[Row]:
    title = f"DPU timing model, {which} ({len(found.percent)})"
    return [
        Row(f"{title}: mean error", "%", (found.mean,), goal=MEAN if promised else None),
        Row(f"{title}: median error", "%", (found.median,), goal=MEDIAN if promised else None),
        Row(f"{title}: largest error", "%", (found.worst,)),
    ]


def _mathworks() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        shape = read_shape(build(Path(folder) / "logonet.onnx"))
    single = time_on_processor(shape, find_processor("zcu102_single"))
    int8 = time_on_processor(shape, find_processor("zcu102_int8"))
    rows = [
        Row(
            "MathWorks model, LogoNet on zcu102_int8: rate, off the published one (used to choose the clock)",
            "%",
            (100 * abs(int8.fps / INT8_FPS - 1),),
            goal=Goal("ours", most=5),
        )
    ]
    if CYCLES.exists():
        with CYCLES.open(encoding="utf-8", newline="") as file:
            published = {row["layer"]: float(row["cycles"]) for row in csv.DictReader(file)}
        rows += _cycles(published, {layer.name: layer.cycles for layer in single.layers}, single.cycles)
    return rows


def _cycles(published: dict[str, float], layers: dict[str, float | None], network: float | None) -> list[Row]:
    title = "MathWorks model, LogoNet on zcu102_single"
    off = {name: 100 * abs((layers[name] or 0.0) / cycles - 1) for name, cycles in published.items() if name in layers}
    sums = {name: error for name, error in off.items() if name.startswith(("conv", "fc"))}
    goal = Goal("ours", most=1)
    total = published["NETWORK"]
    return [
        Row(f"{title}: cycles of the network, fitted", "%", (100 * abs((network or 0.0) / total - 1),), goal=goal),
        Row(f"{title}: largest error of conv and fc layers, fitted", "%", (max(sums.values()),), goal=goal),
        Row(f"{title}: largest error of any layer, fitted", "%", (max(off.values()),)),
    ]
