"""docs/benchmarks.md and docs/benchmarks.json: rows become a table, everything else on the page stays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, Result, Row

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def merge(stored: dict[str, Any], results: dict[str, Result], machine: dict[str, object], taken: str) -> dict[str, Any]:
    """The JSON content with `results` in it; those of benchmarks not taken now stay if the machine is the same."""
    kept = stored.get("benchmarks", {}) if stored.get("machine") == machine else {}
    fresh = {
        name: {
            "taken": taken,
            "rows": [_row_json(row) for row in result.rows],
            "skipped": list(result.skipped),
        }
        for name, result in results.items()
    }
    return {"schema_version": 1, "machine": machine, "benchmarks": {**kept, **fresh}}


def _row_json(row: Row) -> dict[str, object]:
    ratio = row.ratio
    interval = ratio.interval if ratio else None
    return {
        **dataclasses.asdict(row),
        "median": row.median,
        "peer_median": row.peer_median,
        "ratio": ratio.value if ratio else None,
        "ratio_ci": [interval.low, interval.high] if interval else None,
        "met": row.met,
    }


def rows_of(content: dict[str, Any], name: str) -> list[Row]:
    """The rows of one benchmark, read back."""
    rows = []
    for stored in content["benchmarks"][name]["rows"]:
        fields = {field.name: stored[field.name] for field in dataclasses.fields(Row)}
        goal = fields["goal"]
        rows.append(
            Row(
                **{
                    **fields,
                    "ours": tuple(fields["ours"]),
                    "peer": tuple(fields["peer"]),
                    "goal": Goal(**goal) if goal else None,
                }
            )
        )
    return rows


def table(content: dict[str, Any]) -> str:
    """The part of the page between the markers."""
    machine = content["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['features'])}), {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}; {packages}.",
        "",
        "| figure | ours | peer | ratio, 95 % interval | goal | met |",
        "|-|-:|-:|-:|-:|-|",
    ]
    skipped = []
    for name, entry in sorted(content["benchmarks"].items()):
        lines += [line(row) for row in rows_of(content, name)]
        skipped += [f"Not measured: {reason}." for reason in entry["skipped"]]
    taken = ", ".join(f"{name} {entry['taken']}" for name, entry in sorted(content["benchmarks"].items()))
    return "\n".join([*lines, "", *skipped, f"Taken: {taken}. Every repetition is in `benchmarks.json`.", ""])


def line(row: Row) -> str:
    """One row of the table."""
    ratio = row.ratio
    interval = f" ({ratio.interval.low:.3g}-{ratio.interval.high:.3g})" if ratio and ratio.interval else ""
    peer = f"{number(row.peer_median)} {row.unit}: {row.peer_name}" if row.peer_median is not None else ""
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    figure = f"{row.figure}; {row.note}" if row.note else row.figure
    return (
        f"| {figure} | {number(row.median)} {row.unit} | {peer} | "
        f"{f'{ratio.value:.3g}x' if ratio else ''}{interval} | {row.goal.text(row.unit) if row.goal else ''} | {met} |"
    )


def number(value: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(folder: Path, results: dict[str, Result], machine: dict[str, object], taken: str) -> None:
    """Put the figures into `folder`/benchmarks.json and between the markers of `folder`/benchmarks.md.

    Raises:
        ValueError: the page has no markers.
    """
    data, page = folder / "benchmarks.json", folder / "benchmarks.md"
    stored = json.loads(data.read_text()) if data.exists() else {}
    content = merge(stored, results, machine, taken)
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"{page}: no place for the table; put {BEGIN} and {END} into it, each on a line"
        raise ValueError(message)
    data.write_text(json.dumps(content, indent=1) + "\n")
    page.write_text(f"{before}{BEGIN}\n\n{table(content)}\n{END}{after}")
