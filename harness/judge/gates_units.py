"""Metrics that gates know and their units; values such as `20 ms`, `200 MB` or `1 pt` as numbers in those units."""

from __future__ import annotations

import re

from harness.record.figure import Network

#: What a reader may call a metric, and the metric.
ALIASES = {
    "memory": "peak_memory_bytes",
    "learnable_memory": "learnable_memory_bytes",
    "energy": "energy_mj",
    "energy_net": "energy_net_mj",
    "power": "power_w",
    "temperature": "temperature_c",
    "load": "load_ms",
    "lsb": "reference_lsb",
    "agreement": "top1_agreement",
    "sqnr": "sqnr_db",
}
#: How far a board's outputs are from the exact reference, in steps of the output's quantization.
LSB = "reference_lsb"
#: Metrics of every run, apart from the job's own.
KNOWN = (
    "fps",
    "speedup",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "latency_p999_ms",
    "latency_p90_bound_ms",
    "latency_p95_bound_ms",
    "latency_p99_bound_ms",
    "latency_p999_bound_ms",
    "latency_p95_speedup",
    "latency_p99_speedup",
    "warm_up_s",
    "load_ms",
    "peak_memory_bytes",
    "learnable_memory_bytes",
    "learnable_memory_ratio",
    "cpu_percent",
    "temperature_c",
    "power_w",
    "energy_mj",
    "energy_net_mj",
    "energy_ratio",
    "energy_net_ratio",
    "observer_cost_percent",
    "pairs_rejected",
    "top1_agreement",
    "sqnr_db",
    "cosine",
    "max_abs_diff",
    LSB,
    "clock_mhz",
    "conv_threads",
    "fc_threads",
    "lut_percent",
    "bram_percent",
    "dsp_percent",
)
#: `latency_p99`, `latency_p99.9` and, as the tables have it, `latency_p999`.
_PERCENTILE = re.compile(r"latency_p([1-9][0-9]?)\.?([0-9]{0,3})(?:_ms)?")
#: Rows that compare the networks have no network of their own.
_OF_THE_PAIR = frozenset({"top1_agreement", "sqnr_db", "cosine", "max_abs_diff", "pairs_rejected"})
_OF_THE_PAIR_ENDS = ("speedup", "_ratio", "_delta")
_TITLES = {LSB: "distance from the reference", "top1_agreement": "top-1 agreement", "speedup": "speed-up"}
_FRACTIONS = re.compile(r"accuracy_.*|.*_accuracy|accuracy|miou|map\d*(_voc)?|top1_agreement")
_UNIT_BY_END = {
    "_ms": "ms",
    "_bytes": "bytes",
    "_mj": "mJ",
    "_w": "W",
    "_percent": "percent",
    "_c": "°C",
    "_ratio": "x",
    "_db": "dB",
    "_mhz": "MHz",
    "_lsb": "LSB",
    "_s": "s",
}
_FACTORS: dict[str, dict[str, float]] = {
    "ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "s": {"ms": 1e-3, "s": 1.0, "min": 60.0},
    "pairs": {"pairs": 1.0},
    "bytes": {
        "B": 1.0,
        "bytes": 1.0,
        "kB": 1e3,
        "KB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
    },
    "mJ": {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3},
    "W": {"mW": 1e-3, "W": 1.0},
    "percent": {"%": 1.0, "percent": 1.0},
    "fraction": {"%": 0.01, "pt": 0.01, "points": 0.01},
    "x": {"x": 1.0, "X": 1.0, "×": 1.0},  # noqa: RUF001 - the sign a reader may copy from our tables
    "1/s": {"fps": 1.0, "FPS": 1.0, "1/s": 1.0, "/s": 1.0},
    "°C": {"C": 1.0, "°C": 1.0},
    "dB": {"dB": 1.0},
    "MHz": {"MHz": 1.0, "GHz": 1e3},
    "LSB": {"LSB": 1.0, "lsb": 1.0},
    "": {},
}
_VALUE = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*")


def metric_name(name: str) -> str:
    """The metric that a reader's word means: `latency_p99` is `latency_p99_ms`, `memory` is `peak_memory_bytes`."""
    if match := _PERCENTILE.fullmatch(name):
        return f"latency_p{match[1]}{match[2].rstrip('0')}_ms"
    return ALIASES.get(name, name)


def percentile_of(metric: str) -> float | None:
    """0.999 of `latency_p999_ms`; None for what is no percentile."""
    match = _PERCENTILE.fullmatch(metric)
    return float(f"{match[1]}.{match[2]}") / 100 if match else None


def bound_of(metric: str) -> str:
    """The row of the early-stopping bound on a percentile: `latency_p99_bound_ms` of `latency_p99_ms`."""
    return f"{metric.removesuffix('_ms')}_bound_ms"


def unit_of(metric: str) -> str:
    """The unit of a metric's figures; "" where it is its function's own affair."""
    if metric == "fps":
        return "1/s"
    if metric.endswith("speedup"):
        return "x"
    if metric == "pairs_rejected":
        return "pairs"
    if _FRACTIONS.fullmatch(metric.removesuffix("_delta")):
        return "fraction"
    return next((unit for end, unit in _UNIT_BY_END.items() if metric.endswith(end)), "")


def network_of(metric: str) -> Network:
    """Whose figure is meant where a gate does not say."""
    of_the_pair = metric in _OF_THE_PAIR or metric.endswith(_OF_THE_PAIR_ENDS)
    return Network.RATIO if of_the_pair else Network.QUANTIZED


def title_of(metric: str) -> str:
    """How a reader calls a metric beside a value with its unit: `latency_p99_ms` is "latency p99"."""
    if metric in _TITLES:
        return _TITLES[metric]
    rank = metric.removeprefix("accuracy_top")
    if rank != metric and rank.isdigit():
        return f"top-{rank} accuracy"
    known = metric in KNOWN or percentile_of(metric) is not None
    end = next((end for end in _UNIT_BY_END if metric.endswith(end)), "") if known else ""
    return metric.removesuffix(end if end != "_ratio" else "").replace("_", " ") if known else metric


def parse_value(value: object, unit: str, *, difference: bool = False) -> float:
    """A threshold as a number in `unit`.

    Args:
        value: a number (in `unit`), or text such as "20 ms".
        unit: of the metric.
        difference: a difference of fractions, where "%" could mean percent of the float network's figure.

    Raises:
        ValueError: one line with the remedy.
    """
    accepted = _FACTORS.get(unit, {})
    example = f"write {' or '.join(_examples(unit, difference=difference))}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no value; {example}")
    if not isinstance(value, str):
        return float(value)
    match = _VALUE.fullmatch(value)
    if match is None:
        raise ValueError(f"'{value}' is no number with a unit; {example}")
    number, word = float(match[1]), match[2]
    if not word:
        return number
    if difference and unit == "fraction" and word == "%":
        raise ValueError(f"'{value}': percent of what? {example}, which is percentage points")
    if word not in accepted:
        raise ValueError(f"'{value}': '{word}' is no unit of this metric; {example}")
    return number * accepted[word]


def _examples(unit: str, *, difference: bool) -> list[str]:
    if unit == "fraction":
        return ["1 pt", "0.01"] if difference else ["97 %", "0.97"]
    words = {"ms": "20 ms", "bytes": "200 MB", "mJ": "5 mJ", "W": "3 W", "percent": "50 %", "x": "1.2 x"}
    return [words[unit]] if unit in words else [f"a number{f' in {unit}' if unit else ''}"]
