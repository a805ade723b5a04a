"""decision.html: the verdict first, then the gates with their evidence, then figures, then where it all came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness._version import __version__
from harness.evidence.policy import Policy
from harness.judge.verdict import Verdict, verdict_of
from harness.record.run import RunRecord
from harness.report.flat import flatten
from harness.report.page import template
from harness.report.table import Table, build_table
from harness.report.text import MISSING, instant

_MEANING = {
    "pass": "Every gate passed: the whole 95 % interval of each figure is on the right side of its threshold.",
    "fail": "At least one gate failed: the whole 95 % interval of its figure is on the wrong side of the threshold.",
    "inconclusive": "No gate failed, and not every gate passed. This does not qualify a release.",
}


@dataclass(frozen=True, slots=True)
class _Section:
    """One run on the page."""

    number: int
    record: RunRecord
    table: Table
    facts: tuple[tuple[str, str], ...]
    boards: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    networks: tuple[tuple[str, str], ...]


def decision_html(policy: Policy, records: Sequence[RunRecord], created: str, signer: str) -> str:
    """The page's content: one file, no script, nothing asked of another host. The same inputs give the same page.

    Args:
        policy: what was asked.
        records: of its runs, with their gates decided.
        created: ISO 8601.
        signer: fingerprint of the key that signs the bundle.
    """
    verdict = overall(records)
    return template("decision.html.j2").render(
        policy=policy,
        verdict=verdict,
        meaning=_MEANING[verdict.outcome.value] if verdict.outcome is not None else "Nothing was asked.",
        sections=[_section(number, record) for number, record in enumerate(records, start=1)],
        created=instant(created),
        signer=signer,
        version=__version__,
        missing=MISSING,
    )


def overall(records: Sequence[RunRecord]) -> Verdict:
    """The worst of all gates of all runs."""
    names = dict.fromkeys(target.name for record in records for target in record.targets)
    return verdict_of(names, [gate for record in records for gate in record.gates])


def _section(number: int, record: RunRecord) -> _Section:
    networks = {record.model_digest: "float network"}
    for target in record.targets:
        if target.quantized is not None:
            networks.setdefault(target.quantized.digest, f"int8 network, rules of {target.environment}")
        if target.lowered is not None:
            networks.setdefault(target.lowered.digest, f"lowered to the arithmetic of {target.lowered.arithmetic}")
    return _Section(
        number=number,
        record=record,
        table=build_table(record),
        facts=tuple(flatten(record.host)),
        boards=tuple((target.name, tuple(flatten(target.description or {}))) for target in record.targets),
        networks=tuple((what, digest) for digest, what in networks.items()),
    )
