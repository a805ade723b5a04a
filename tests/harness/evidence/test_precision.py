"""Times that a budget cut short do not qualify a release, and nobody can state that they do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ExitCode
from harness.evidence.precision import cut_short
from harness.evidence.verify import verify_bundle
from harness.record.figure import Network
from harness.record.gates import Outcome
from harness.record.target import TargetRecord
from harness.record.timing import StoppingRule
from harness.report.runjson import load
from harness.runs.profile import QUICK, RELEASE
from tests.harness.evidence.release import RUN, Release, contents, make_release, resigned, run_json

TIMED = {"speedup", "latency_p90"}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Eight pairs that scatter by a tenth: ±3 % cannot be had of them."""
    rule = StoppingRule(5, QUICK.half_width, 8, 4.0)
    return make_release(tmp_path_factory.mktemp("hasty"), scatter=0.1, stopping=rule)


def test_gates_on_times_are_inconclusive_and_say_what_would_settle_them(hasty: Release) -> None:
    found = verify_bundle(hasty.bundle, hasty.key.public_key())
    assert found.intact, found.differences
    assert found.verdict is Outcome.INCONCLUSIVE
    assert found.exit_code(require_pass=True) is ExitCode.INCONCLUSIVE
    outcomes = {gate.gate: gate.outcome for gate in found.gates}
    assert outcomes.pop("speedup") is Outcome.INCONCLUSIVE
    del outcomes["latency_p90"]  # its own interval may not decide it either
    assert set(outcomes.values()) == {Outcome.PASS}
    (gate,) = [gate for gate in found.gates if gate.gate == "speedup"]
    assert gate.ci_low is not None
    assert gate.ci_low > gate.threshold  # the plain gate would have passed
    assert "cut short by --budget 4 s" in gate.detail
    assert "profile quick asks for ±3 %" in gate.detail
    assert "run it without a budget" in gate.detail


def test_the_page_and_the_record_say_so(hasty: Release) -> None:
    entries = contents(hasty.bundle)
    assert "timing was cut short by --budget 4 s" in entries["decision.html"].decode()
    (note,) = [note for note in load(entries[f"runs/{RUN}/run.json"].decode()).notes if "cut short" in note]
    assert note.startswith("rpi: ")


def test_a_pass_cannot_be_stated_in_its_place(hasty: Release, tmp_path: Path) -> None:
    entries = contents(hasty.bundle)
    record = run_json(entries)
    for gate in record["gates"]:  # type: ignore[attr-defined]
        gate["outcome"] = "pass"
    record["targets"][0]["stopping"] = None  # type: ignore[index]
    forged = entries | {f"runs/{RUN}/run.json": (json.dumps(record, indent=1) + "\n").encode()}
    found = verify_bundle(resigned(tmp_path / "forged.zip", forged, hasty.key))
    assert any("gate speedup: stated as pass, the figures say inconclusive" in line for line in found.differences)


def target_of(release: Release) -> TargetRecord:
    return load((release.run / "run.json").read_text()).targets[0]


def test_what_is_precise_enough_or_went_to_the_cap_is_not_cut(release: Release, hasty: Release) -> None:
    assert cut_short(target_of(release), QUICK) == ""
    assert cut_short(target_of(hasty), replace(QUICK, max_pairs=8)) == ""
    assert cut_short(target_of(hasty), replace(QUICK, max_pairs=10)) != ""
    assert "before its end" in cut_short(replace(target_of(hasty), stopping=None), RELEASE)


def test_too_few_pairs_for_an_interval_are_cut(hasty: Release) -> None:
    target = target_of(hasty)
    few = tuple(block for block in target.blocks if block.pair < 2)
    assert {block.network for block in few} == set(Network) - {Network.RATIO}
    assert "no interval after 2 pairs" in cut_short(replace(target, blocks=few), QUICK)
    assert cut_short(replace(target, blocks=()), QUICK) == ""


def test_the_pairs_that_are_missing_are_about_what_the_scatter_takes(hasty: Release) -> None:
    """Half the interval falls with the root of the rounds: by numpy alone, from the medians of the blocks."""
    target = target_of(hasty)
    medians = {(block.network, block.pair): float(np.median(block.latency_ns)) for block in target.blocks}
    pairs = [np.log(medians[Network.FLOAT, at] / medians[Network.QUANTIZED, at]) for at in range(8)]
    rounds = [(pairs[at] + pairs[at + 1]) / 2 for at in range(0, 8, 2)]
    needed = (1.96 * np.std(rounds, ddof=1) / 0.01) ** 2
    (more,) = re.findall(r"about (\d+) more pairs", cut_short(target, replace(RELEASE, max_pairs=100_000)))
    assert int(more) == pytest.approx(2 * needed - 8, abs=3)
    assert "about 32 more pairs" in cut_short(target, replace(RELEASE, max_pairs=40))  # never beyond the cap
