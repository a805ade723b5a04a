"""`python -m benchmarks [NAME …] [--quick]`: take the figures, print them, and put them into docs/."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
from pathlib import Path

from benchmarks import document, machine
from benchmarks.figures import Effort, Result

QUANTIZER = ("calibration", "quantizer_accuracy", "quantizer_recurrent", "quantizer_peers")
NAMES = (
    "board_timing",
    "uploads",
    "startup",
    "telemetry",
    "qemu",
    "recovery",
    "emulated_uploads",
    "overhead",
    "lowering",
    "performance_models",
    "metric_intervals",
    "simulations",
    "change_points",
    *QUANTIZER,
)
#: Names that stand for several.
GROUPS = {"quantizer": QUANTIZER}
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join((*NAMES, *GROUPS))}")
    parser.add_argument("--quick", action="store_true", help="a try-out in seconds; prints, publishes nothing")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of benchmarks.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES) - set(GROUPS))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join((*NAMES, *GROUPS))}")
    effort = Effort.quick() if arguments.quick else Effort()
    results: dict[str, Result] = {}
    wanted = [name for given in arguments.names or NAMES for name in GROUPS.get(given, (given,))]
    for name in dict.fromkeys(wanted):
        print(f"{name} …", flush=True)
        results[name] = importlib.import_module(f"benchmarks.{name}").run(effort)
        for row in results[name].rows:
            print(f"  {document.line(row)}", flush=True)
        for reason in results[name].skipped:
            print(f"  not measured: {reason}", flush=True)
    if not arguments.quick:
        document.write(arguments.docs, results, machine.describe(), dt.datetime.now(dt.UTC).date().isoformat())


if __name__ == "__main__":
    main()
