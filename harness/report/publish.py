"""Write a run's folder: five files, each complete or absent, never half of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.record.run import RunRecord
from harness.report.csvfile import comparison_csv
from harness.report.files import replace_all
from harness.report.junit import junit_xml
from harness.report.markdown import comparison_md
from harness.report.page import report_html
from harness.report.runjson import dump
from harness.report.terminal import render_terminal

__all__ = ["Published", "publish", "render_terminal"]


@dataclass(frozen=True, slots=True)
class Published:
    """Where the files of a run are."""

    folder: Path
    comparison_csv: Path
    comparison_md: Path
    report_html: Path
    run_json: Path
    junit_xml: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """All five."""
        return self.comparison_csv, self.comparison_md, self.report_html, self.run_json, self.junit_xml


def publish(record: RunRecord, out: Path) -> Published:
    """Write comparison.csv, comparison.md, report.html, run.json and junit.xml into `out`, replacing older ones.

    Every file is built and written under another name before the first one replaces its predecessor.

    Raises:
        UserError: the folder cannot be written.
    """
    published = Published(
        out,
        out / "comparison.csv",
        out / "comparison.md",
        out / "report.html",
        out / "run.json",
        out / "junit.xml",
    )
    contents = (comparison_csv(record), comparison_md(record), report_html(record), dump(record), junit_xml(record))
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_all(dict(zip(published.paths, contents, strict=True)))
    except OSError as error:
        msg = f"{out}: the report cannot be written there ({error.strerror or error}): choose another --out"
        raise UserError(msg) from error
    return published
