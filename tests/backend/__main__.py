"""`python -m tests.backend [PART_OF_A_NAME]`: every network of the backend tests; of all, docs/robustness.md."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
from rich.progress import track

from tests.backend.cases import KINDS, all_cases
from tests.backend.sweep import ENVIRONMENTS, Outcome, Verdict, examine_named

PAGE = Path(__file__).parents[2] / "docs" / "robustness.md"


def main(part: str = "") -> int:
    """Run, print what went wrong, write the page; 1 when anything went wrong."""
    outcomes: list[Outcome] = []
    cases = [case for case in all_cases() if part in case.identity]
    names = [case.identity for case in cases]
    with multiprocessing.get_context("spawn").Pool() as pool:
        for found in track(pool.imap(examine_named, names, chunksize=8), "networks", total=len(names)):
            outcomes.extend(found)
    wrong = [outcome for outcome in outcomes if outcome.verdict is None]
    for outcome in wrong:
        sys.stdout.write(f"{outcome.case} {outcome.environment}: {outcome.reason}\n")
    kinds = Counter(case.kind for case in cases)
    text = page(outcomes, kinds)
    if part:
        sys.stdout.write(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
    return int(bool(wrong))


def page(outcomes: Sequence[Outcome], kinds: Counter[str]) -> str:
    """The published page."""
    made = [outcome for outcome in outcomes if outcome.environment in ENVIRONMENTS]
    counts = Counter((outcome.verdict, outcome.environment) for outcome in made)
    listed = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
    lines = [
        "# What happens to the networks people bring",
        "",
        f"Every network that the `onnx` package has for testing backends ({kinds.total()}:",
        f"{listed}) goes through",
        "prepare → calibrate → quantize for each environment. Float inputs are the test's own and random ones of the",
        "same shapes, all others the test's own. A result must load and run in ONNX Runtime; where something is int8",
        "it is finite wherever the float network is, where nothing is its outputs equal the float network's. Preparing",
        "twice gives the same bytes as preparing once, and the same outputs as the network as given.",
        "",
        f"Counted by `make test-backend` with onnx {onnx.__version__} and ONNX Runtime {onnxruntime.__version__}.",
        "One network in 24 runs in `make test`, all in `make test-slow`. The light ones have the structure of the",
        "classifiers that the package's `real` kind would download, and constants in place of their weights.",
        "",
        "| | " + " | ".join(ENVIRONMENTS) + " |",
        "|-|" + "-:|" * len(ENVIRONMENTS),
    ]
    for verdict in (*Verdict, None):
        row = [counts[verdict, environment] for environment in ENVIRONMENTS]
        if any(row) or verdict is None:
            name = verdict.value if verdict is not None else "crashed, wrong, or refused for another reason"
            lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    prepared = sum(outcome.environment == "prepare" for outcome in outcomes)
    lines += ["", f"Networks that preparing changed, or that it prepared differently a second time: {prepared}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
