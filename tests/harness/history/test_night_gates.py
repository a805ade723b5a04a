from __future__ import annotations

from typing import Any

from harness.history.gates import gate_line, gates_of, gates_text


def gate(name: str, outcome: str, detail: str = "") -> dict[str, str]:
    return {
        "target": "pi", "gate": name, "outcome": outcome, "claim": f"{name} at least 1.2x",
        "evidence": "1.10 [1.00, 1.30], n 12", "detail": detail,
    }  # fmt: skip


def test_failed_gates_of_all_jobs_come_first_and_old_nights_have_none() -> None:
    entries: list[dict[str, Any]] = [
        {"job": "a", "gates": [gate("speed", "inconclusive")]},
        {"job": "of an older version"},
        {"job": "c", "gates": [gate("size", "fail"), gate("heat", "inconclusive")]},
    ]
    found = gates_of(entries)
    assert [(one["job"], one["gate"]) for one in found] == [("c", "size"), ("a", "speed"), ("c", "heat")]
    assert gates_text(found) == "1 gate failed, 2 gates inconclusive"
    assert gates_text([]) == ""


def test_a_gate_is_one_line_with_its_evidence_and_its_remedy() -> None:
    asked = {"job": "kws"} | gate("speed", "inconclusive", "about 8 more pairs (power 80 %), 12 given")
    assert gate_line(asked) == (
        "kws / pi: gate speed inconclusive: speed at least 1.2x: "
        "1.10 [1.00, 1.30], n 12; about 8 more pairs (power 80 %), 12 given"
    )
    assert gate_line({"job": "kws"} | gate("speed", "fail")).endswith("n 12")
