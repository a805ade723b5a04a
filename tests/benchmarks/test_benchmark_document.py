"""The published table: medians, ratios and verdicts from known numbers, and a page that keeps its words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import document
from benchmarks.figures import Goal, Result, Row

MACHINE: dict[str, object] = {
    "cpu": "Some CPU",
    "cores": 2,
    "features": ["avx2"],
    "memory_gb": 8,
    "system": "Linux 6",
    "python": "3.13.0",
    "packages": {"numpy": "2"},
}
PAGE = f"# Title\n\nBefore.\n\n{document.BEGIN}\nold\n{document.END}\n\nAfter.\n"
UPLOAD = Row("upload", "MB/s", (400.0, 200.0, 900.0), "sftp", (100.0, 100.0, 100.0), Goal("ratio", least=2.0))
MEMORY = Row("memory", "MB", (61.0, 59.0, 60.5), goal=Goal("ours", most=60.0))


def test_a_rows_ratio_is_the_geometric_mean_of_its_repetitions() -> None:
    assert UPLOAD.median == 400.0
    assert UPLOAD.ratio is not None
    assert math.isclose(UPLOAD.ratio.value, (4 * 2 * 9) ** (1 / 3))
    assert UPLOAD.met is True


def test_a_goal_missed_by_a_little_is_missed() -> None:
    assert MEMORY.median == 60.5
    assert MEMORY.met is False
    assert "**no**" in document.line(MEMORY)


def test_a_goal_on_a_ratio_says_nothing_without_a_peer() -> None:
    assert Row("upload", "MB/s", (400.0,), goal=Goal("ratio", least=2.0)).met is None


def test_repetitions_of_ours_and_the_peer_must_pair() -> None:
    with pytest.raises(ValueError, match="2 repetitions of ours, 1 of the peer"):
        Row("x", "s", (1.0, 2.0), "peer", (1.0,))


def test_writing_replaces_the_table_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(PAGE)

    document.write(tmp_path, {"uploads": Result((UPLOAD,))}, MACHINE, "2026-01-02")

    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("# Title\n\nBefore.\n\n")
    assert page.endswith("\n\nAfter.\n")
    assert "old" not in page
    assert "| upload | 400 MB/s | 100 MB/s: sftp | 4.16x (" in page


def test_a_benchmark_taken_alone_leaves_the_others_figures(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(PAGE)
    document.write(tmp_path, {"uploads": Result((UPLOAD,))}, MACHINE, "2026-01-02")

    document.write(tmp_path, {"startup": Result((MEMORY,), ("something: not here",))}, MACHINE, "2026-01-03")

    page = (tmp_path / "benchmarks.md").read_text()
    assert "| upload |" in page
    assert "| memory |" in page
    assert "Not measured: something: not here." in page
    content = json.loads((tmp_path / "benchmarks.json").read_text())
    assert document.rows_of(content, "uploads") == [UPLOAD]
    assert content["benchmarks"]["startup"]["rows"][0]["ours"] == [61.0, 59.0, 60.5]


def test_figures_of_two_machines_never_share_a_table(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(PAGE)
    document.write(tmp_path, {"uploads": Result((UPLOAD,))}, MACHINE, "2026-01-02")

    document.write(tmp_path, {"startup": Result((MEMORY,))}, {**MACHINE, "cpu": "Another"}, "2026-01-03")

    assert "| upload |" not in (tmp_path / "benchmarks.md").read_text()


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text("mine\n")

    with pytest.raises(ValueError, match="no place for the table"):
        document.write(tmp_path, {"uploads": Result((UPLOAD,))}, MACHINE, "2026-01-02")

    assert (tmp_path / "benchmarks.md").read_text() == "mine\n"
    assert not (tmp_path / "benchmarks.json").exists()
