"""What int8 costs each network under each environment's rules, emulated on this machine.

    python -m benchmarks.quantizer_accuracy --networks squeezenet,mobilenet --environments cpu,fpga

Each network is calibrated, quantized with method auto (its choices scored on a held-back part of the calibration
samples) and compared with the float one on the other samples. Agreement and SQNR are taken before a final softmax.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich
from rich.table import Table

from benchmarks import quantizer_networks
from benchmarks.figures import Effort, Goal, Result, Row
from benchmarks.quantizer_evaluation import Comparison, Evaluator
from benchmarks.quantizer_slices import batches, cut
from harness.quantize import QuantizedModel, Quantizer

ENVIRONMENTS = ("cpu", "gpu", "fpga", "host")
#: Points of label top-1 that may be lost at best estimate, and that may ever be proven lost; None: no promise.
MAY_LOSE = {"cpu": (1.0, 1.0), "gpu": (1.0, 1.0), "fpga": (None, 2.0), "host": (None, None)}
#: Points of mAP or mIoU that may be lost at best estimate.
OTHERS_MAY_LOSE = {"cpu": 1.0, "gpu": 1.0, "fpga": 1.0, "host": None}
#: (network, environment) → least agreement with the float network, least SQNR in dB.
AIMS = {
    ("mobilenet", "cpu"): (0.90, 21.0),
    ("mobilenet", "gpu"): (0.90, 21.0),
    ("mobilenet", "fpga"): (0.80, 13.0),
    ("squeezenet", "cpu"): (0.97, 33.0),
    ("squeezenet", "gpu"): (0.94, 28.0),
    ("squeezenet", "fpga"): (0.90, 27.0),
}
#: CPU seconds that MobileNet may take for fpga.
MOST_CPU_S = {("mobilenet", "fpga"): 120.0}


@dataclass(frozen=True)
class Outcome:
    """One network under one environment's rules.

    Args:
        network: its name.
        environment: whose rules.
        calibrate_cpu_s: CPU seconds of this process for the calibration.
        quantize_cpu_s: the same for the choice of scales, the recovery and the writing.
        comparison: with float, on the evaluation samples.
        model: what the quantizer says of its result.
    """

    network: str
    environment: str
    calibrate_cpu_s: float
    quantize_cpu_s: float
    comparison: Comparison
    model: QuantizedModel

    @property
    def cpu_s(self) -> float:
        """CPU seconds from the float network to the int8 file."""
        return self.calibrate_cpu_s + self.quantize_cpu_s

    @property
    def verdict(self) -> str:
        """What the promise about lost points came to; "" without one."""
        proven_most = MAY_LOSE[self.environment][1]
        proven = self.comparison.proven_lost_points
        if proven_most is not None and proven is not None and proven > proven_most:
            return f"proven worse by {proven_most:g}"
        if self.may_lose is not None and self.comparison.lost_points > self.may_lose:
            return f"lost > {self.may_lose:g}"
        return "" if proven_most is None else "ok"

    @property
    def may_lose(self) -> float | None:
        """Points that may be lost at best estimate; None without a promise."""
        if self.comparison.b is None:
            return OTHERS_MAY_LOSE[self.environment]
        return MAY_LOSE[self.environment][0]


def measure(evaluator: Evaluator, environment: str, out: Path) -> Outcome:
    """Calibrate, quantize and compare one network; `out` is the int8 file."""
    network = evaluator.network
    ranged, held_back = cut(network.calibration)
    started = time.process_time()
    quantizer = Quantizer(network.model, environment)
    quantizer.calibrate(batches(ranged))
    calibrated = time.process_time()
    model = quantizer.quantize(out, held_back=list(batches(held_back)))
    quantized = time.process_time()
    comparison = evaluator.compare(model.path, model.disabled_optimizers)
    return Outcome(network.name, environment, calibrated - started, quantized - calibrated, comparison, model)


def outcomes(
    networks: Iterable[str], environments: Sequence[str], limit: int | None, keep: Path | None = None
) -> Iterator[Outcome]:
    """Every network under every environment, one after the other.

    Args:
        networks: of `quantizer_networks.NAMES`.
        environments: of `ENVIRONMENTS`.
        limit: at most so many evaluation samples.
        keep: folder for the int8 files; None: they are thrown away.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for name in networks:
            evaluator = Evaluator(quantizer_networks.load(name), limit)
            for environment in environments:
                yield measure(evaluator, environment, Path(keep or temporary, f"{name}.{environment}.onnx"))


def run(effort: Effort) -> Result:
    """All networks and environments; a try-out takes the small ones and a few samples."""
    if reason := quantizer_networks.missing():
        return Result((), (f"accuracy of the int8 networks: {reason}",))
    networks = ("resnet8", "kws") if effort.is_quick else quantizer_networks.NAMES
    found = []
    for outcome in outcomes(networks, ENVIRONMENTS, 100 if effort.is_quick else None):
        found.append(outcome)
        print(f"  {told(outcome)}", flush=True)
    return Result(tuple(rows(found)))


def told(outcome: Outcome) -> str:
    """One line, as soon as it is known."""
    result = outcome.comparison
    agreement = "" if result.agreement is None else f" agreement {result.agreement:.3f}"
    return (
        f"{outcome.network} {outcome.environment}:{agreement} {result.sqnr_db:.2f} dB, lost "
        f"{result.lost_points:+.2f} of {result.n}, {outcome.cpu_s:.1f} CPU s"
    )


def rows(found: Sequence[Outcome]) -> Iterator[Row]:
    """What is published: the loss of each, the aims of the issue, and the largest loss that is proven."""
    for outcome in found:
        yield _loss_row(outcome)
        yield from _aim_rows(outcome)
    for environment in dict.fromkeys(outcome.environment for outcome in found):
        most = MAY_LOSE[environment][1]
        proven = [
            (value, outcome.network)
            for outcome in found
            if outcome.environment == environment and (value := outcome.comparison.proven_lost_points) is not None
        ]
        if most is not None and proven:
            value, name = max(proven)
            yield Row(
                f"{environment}: largest loss of label top-1 that is proven (Tango's paired 95 % interval)",
                "points",
                (value,),
                goal=Goal("ours", most=most),
                note=f"{name}, of {len(proven)} classifiers",
            )


def _loss_row(outcome: Outcome) -> Row:
    result = outcome.comparison
    most = outcome.may_lose
    what = "label top-1" if result.b is not None else {"fastestdet": "mAP@0.5", "deeplab": "mIoU"}[outcome.network]
    facts = [f"{100 * result.float_score:.1f} → {100 * result.int8_score:.1f}"]
    if result.b is not None:
        facts.append(f"b {result.b}, c {result.c}, n {result.n}")
    if result.agreement is not None:
        facts.append(f"agreement {result.agreement:.3f}")
    facts.append(f"{result.sqnr_db:.1f} dB")
    return Row(
        f"{outcome.network}, {outcome.environment}: {what} lost",
        "points",
        (result.lost_points,),
        goal=None if most is None else Goal("ours", most=most),
        note=", ".join(facts),
    )


def _aim_rows(outcome: Outcome) -> Iterator[Row]:
    key = (outcome.network, outcome.environment)
    where = f"{outcome.network}, {outcome.environment}"
    if key in AIMS and outcome.comparison.agreement is not None:
        agreement, decibel = AIMS[key]
        yield Row(f"{where}: top-1 agreement", "", (outcome.comparison.agreement,), goal=Goal("ours", least=agreement))
        yield Row(f"{where}: SQNR on logits", "dB", (outcome.comparison.sqnr_db,), goal=Goal("ours", least=decibel))
    if key in MOST_CPU_S:
        yield Row(f"{where}: CPU of calibrate and quantize", "s", (outcome.cpu_s,), goal=Goal("ours", most=120.0))


def table(found: Iterable[Outcome]) -> Table:
    """For the terminal."""
    shown = Table("network", "rules", "agreement", "dB", "float", "int8", "b", "c", "n", "lost", "proven", "verdict")
    for column in ("calibrate s", "quantize s", "method", "float layers"):
        shown.add_column(column)
    for outcome in found:
        result, proven = outcome.comparison, outcome.comparison.proven_lost_points
        shown.add_row(
            outcome.network,
            outcome.environment,
            "" if result.agreement is None else f"{result.agreement:.3f}",
            f"{result.sqnr_db:.1f}",
            f"{100 * result.float_score:.1f}",
            f"{100 * result.int8_score:.1f}",
            *("" if count is None else str(count) for count in (result.b, result.c)),
            str(result.n),
            f"{result.lost_points:+.2f}",
            "" if proven is None else f"{proven:+.2f}",
            outcome.verdict,
            f"{outcome.calibrate_cpu_s:.1f}",
            f"{outcome.quantize_cpu_s:.1f}",
            outcome.model.method,
            str(len(outcome.model.kept_float)),
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizer_accuracy", description=__doc__)
    parser.add_argument("--networks", default=",".join(quantizer_networks.NAMES), help="names, comma between")
    parser.add_argument("--environments", default=",".join(ENVIRONMENTS), help="names, comma between")
    parser.add_argument("--quick", action="store_true", help="100 evaluation samples at most")
    parser.add_argument("--notes", action="store_true", help="print what the quantizer says of each network too")
    parser.add_argument("--keep", type=Path, help="folder to leave the int8 files in")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file as well")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    found = []
    limit = 100 if arguments.quick else None
    for outcome in outcomes(arguments.networks.split(","), arguments.environments.split(","), limit, arguments.keep):
        found.append(outcome)
        print(told(outcome), flush=True)
        if arguments.notes:
            print(*(f"  {note}" for note in outcome.model.notes), sep="\n")
    rich.get_console().width = max(rich.get_console().width, 160)
    rich.print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
