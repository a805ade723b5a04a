"""`python -m benchmarks.fit_dpu`: fit the constants of the DPU's timing model anew, and print them with their errors.

Two steps, each deterministic:

1. The host. On a board with one core, the time of an image with one thread less its time with many threads is what the
   processor does while the core waits. Least squares of relative errors over those differences.
2. The core and its memory, with the host as found: the logarithm of modelled over published frame rates, single and
   multi-thread alike, with a loss that grows linearly beyond 5 % so that an odd row pulls no harder than a fair one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from benchmarks.dpu_rows import Rate, fitted_networks, rates, rates_afterwards
from harness.emulation.performance.dpu import DpuConfig
from harness.emulation.performance.dpu_layers import Work, works
from harness.emulation.performance.dpu_model import MODEL, DpuModel, Works
from harness.emulation.performance.dpu_timing import host_values
from harness.emulation.performance.layers import NetworkShape

#: Name → first guess, least, most; what physics allows: no unit works more than all the time, a core has two ports of
#: 16 bytes.
_CORE = {
    "array_efficiency": (0.95, 0.5, 1.0),
    "side_efficiency": (0.8, 0.2, 1.0),
    "port_bytes_per_cycle": (28.0, 4.0, 32.0),
    "launch_us": (8.0, 0.0, 50.0),
    "zcu102": (13.0, 1.0, 20.0),
    "zcu104": (15.0, 1.0, 20.0),
    "ultra96": (2.5, 0.5, 9.0),
}
_HOST = ("host_ms", "host_ns_per_pixel", "host_ns_per_value")
#: Relative error beyond which a row's pull stops growing.
_FAIR = 0.05


@dataclass(frozen=True)
class Errors:
    """How far modelled rates are from published ones, in percent of the published rate.

    Args:
        percent: signed, by row.
    """

    percent: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the absolute errors."""
        return statistics.fmean(abs(value) for value in self.percent)

    @property
    def median(self) -> float:
        """Of the absolute errors."""
        return statistics.median(abs(value) for value in self.percent)

    @property
    def worst(self) -> float:
        """The largest absolute error."""
        return max(abs(value) for value in self.percent)

    def __str__(self) -> str:
        return f"mean {self.mean:.1f} %, median {self.median:.1f} %, worst {self.worst:.0f} %, {len(self.percent)} rows"


_WORKS: dict[tuple[int, str], Works] = {}


def works_of(shape: NetworkShape, config: DpuConfig) -> Works:
    """The work of a network's layers on a core, found once."""
    key = id(shape), config.arch.name
    if key not in _WORKS:
        _WORKS[key] = Works.of([work for work in works(shape, config.arch).values() if isinstance(work, Work)])
    return _WORKS[key]


def modelled(rate: Rate, model: DpuModel) -> float:
    """The rate that the model gives: the same figures as `time_on_dpu`, without its lists of layers."""
    pixels, values = host_values(rate.shape, rate.config)
    work = works_of(rate.shape, rate.config)
    host_ms = model.image_ms(pixels, values)
    if rate.threads == "single":
        return 1e3 / (model.layers_ms(work, rate.config, 1) + host_ms)
    cores = rate.config.cores
    return model.frames_per_second(model.layers_ms(work, rate.config, cores), host_ms, cores)


def errors(found: Sequence[Rate], model: DpuModel) -> Errors:
    """Of a model on published rates."""
    return Errors(tuple(100 * (modelled(rate, model) / rate.fps - 1) for rate in found))


def fit(found: Sequence[Rate]) -> DpuModel:
    """The constants that explain these rates best."""
    host = _fit_host(found)
    seen = {rate.config.board.name for rate in found}
    names = [name for name in _CORE if name not in {"zcu102", "zcu104", "ultra96"} or name in seen]

    def misses(values: NDArray[np.float64]) -> NDArray[np.float64]:
        model = _with_core(host, dict(zip(names, values.tolist(), strict=True)))
        return np.array([np.log(modelled(rate, model) / rate.fps) for rate in found])

    start, least, most = zip(*(_CORE[name] for name in names), strict=True)
    best = least_squares(misses, start, bounds=(least, most), loss="soft_l1", f_scale=_FAIR, x_scale=start)
    return _with_core(host, dict(zip(names, best.x.tolist(), strict=True)))


def _fit_host(found: Sequence[Rate]) -> DpuModel:
    single = {(r.row, r.release, r.config): r for r in found if r.threads == "single" and r.config.cores == 1}
    multi = {(r.row, r.release, r.config): r for r in found if r.threads == "multi" and r.config.cores == 1}
    pairs = [(single[key], multi[key]) for key in single if key in multi]
    lines = []
    for one, many in pairs:
        waits_ms = 1e3 / one.fps - 1e3 / many.fps
        lines.append([x / waits_ms for x in (1, *host_values(one.shape, one.config))])
    fixed_ms, per_pixel_ms, per_value_ms = nnls(np.array(lines), np.ones(len(lines)))[0].tolist()
    return replace(MODEL, host_ms=fixed_ms, host_ns_per_pixel=1e6 * per_pixel_ms, host_ns_per_value=1e6 * per_value_ms)


def _with_core(host: DpuModel, values: dict[str, float]) -> DpuModel:
    """The model with these constants; a board without rows has the memory of the one most like it."""
    zcu102 = values.get("zcu102", values.get("zcu104", 0.0))
    zcu104 = values.get("zcu104", zcu102)
    # One core does not reach the limit of the KV260's memory, which is DDR4 of 64 bits as the ZCU104's; the Ultra96's
    # is LPDDR4 of 32 bits.
    memory = {"zcu102": zcu102, "zcu104": zcu104, "kv260": zcu104, "ultra96": values.get("ultra96", zcu102 / 2)}
    return replace(
        host,
        array_efficiency=values["array_efficiency"],
        side_efficiency=values["side_efficiency"],
        port_bytes_per_cycle=values["port_bytes_per_cycle"],
        launch_us=values["launch_us"],
        memory_gb_per_s=memory,
    )


def left_out(found: Sequence[Rate], key: Callable[[Rate], str]) -> dict[str, Errors]:
    """Errors on the rows of each group by a model that is fitted to all others."""
    groups = sorted({key(rate) for rate in found})
    return {
        group: errors(
            [rate for rate in found if key(rate) == group], fit([rate for rate in found if key(rate) != group])
        )
        for group in groups
    }


def together(groups: dict[str, Errors]) -> Errors:
    """The errors of several groups as one."""
    return Errors(tuple(value for group in groups.values() for value in group.percent))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_dpu", description=__doc__)
    parser.add_argument("--rows", action="store_true", help="print every row's error")
    parser.add_argument("--no-cross", action="store_true", help="leave the cross-validation out")
    arguments = parser.parse_args()
    every, names = rates(), fitted_networks()
    fitted = [rate for rate in every if rate.network in names]
    held = [rate for rate in every if rate.network not in names]
    model = fit(fitted)
    for name in ("array_efficiency", "side_efficiency", "port_bytes_per_cycle", "launch_us", *_HOST):
        print(f"{name} = {getattr(model, name):.4g}   (in the code: {getattr(MODEL, name):.4g})")
    memory = {board: float(f"{value:.4g}") for board, value in model.memory_gb_per_s.items()}
    print(f"memory_gb_per_s = {memory}   (in the code: {MODEL.memory_gb_per_s})")
    for title, chosen in (
        ("fitted", fitted),
        ("held out", held),
        ("held out, with a layer graph", [rate for rate in held if rate.has_graph]),
        ("held out, single thread", [rate for rate in held if rate.threads == "single"]),
        ("held out, multi-thread", [rate for rate in held if rate.threads == "multi"]),
        ("networks built when the model was finished", list(rates_afterwards())),
        ("all with a layer graph", [rate for rate in every if rate.has_graph]),
    ):
        print(f"{title}: {errors(chosen, model)}; as in the code: {errors(chosen, MODEL)}")
    if arguments.rows:
        for rate in (*every, *rates_afterwards()):
            print(
                f"{'fit' if rate.network in names else 'out'}  {rate.row:53} {rate.config!s:36} {rate.release} "
                f"{rate.threads:6} {rate.fps:8.1f} {modelled(rate, model):8.1f} "
                f"{errors([rate], model).percent[0]:+6.1f} %"
            )
    if not arguments.no_cross:
        for title, key in (("network", lambda r: r.network), ("board", lambda r: r.config.board.name)):
            groups = left_out(every, key)
            print(f"leaving one {title} out: {together(groups)}")
            for name, found in groups.items():
                print(f"  {name}: {found}")


if __name__ == "__main__":
    main()
