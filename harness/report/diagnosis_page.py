"""Where boards depart from the reference: a page, pictures and JSON of a run's folder, and a table for a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness._version import __version__
from harness.emulation.diagnose.values import Diagnosis, LayerDifference
from harness.report import text
from harness.report.diagnosis_svg import STYLE, difference_file, difference_svg
from harness.report.files import write_files
from harness.report.page import template

#: Exported names run to hundreds of characters: longer ones lose their middle in tables.
_NAME = 48


@dataclass(frozen=True, slots=True)
class _Row:
    """A layer in the table."""

    layer: LayerDifference
    name: str
    number: int
    mean: str
    verdict: str


@dataclass(frozen=True, slots=True)
class _Section:
    """A board on the page."""

    number: int
    found: Diagnosis
    rows: tuple[_Row, ...]
    pictures: tuple[tuple[_Row, Markup], ...]


def diagnosis_html(title: str, found: Sequence[Diagnosis]) -> str:
    """The page's content; one file, no script, nothing asked of another host.

    Args:
        title: the job's or the network's name.
        found: one for each board.
    """
    return template("diagnosis.html.j2").render(
        title=title,
        sections=[_section(number, one) for number, one in enumerate(found, start=1)],
        style=Markup(STYLE),  # noqa: S704 (our own words)
        version=__version__,
    )


def publish_diagnosis(title: str, found: Sequence[Diagnosis], out: Path) -> tuple[Path, ...]:
    """Write diagnosis.html, diagnosis.json and a picture of each layer that differs.

    Args:
        title: the job's or the network's name.
        found: one for each board.
        out: the folder; pictures go to `diagnosis/` in it.

    Returns:
        the page, the JSON file, then the pictures.

    Raises:
        UserError: a place cannot be written.
    """
    page, data = out / "diagnosis.html", out / "diagnosis.json"
    files = {
        page: diagnosis_html(title, found),
        data: json.dumps([one.as_json() for one in found], indent=2, ensure_ascii=False) + "\n",
    }
    for one in found:
        for number, layer in enumerate(one.layers, start=1):
            if layer.differing:
                name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{one.target}.{number:03d}.{layer.layer}")[:120]
                files[out / "diagnosis" / f"{name}.svg"] = difference_file(layer)
    write_files(files)
    return tuple(files)


def render_diagnosis(found: Diagnosis, console: Console) -> None:
    """Print the table for a person.

    Args:
        found: of one board.
        console: where to.
    """
    console.print(Text(f"{found.target}: {found.summary}", style="bold"))
    console.print(Text(f"reference: {found.reference}; the board ran: {found.ran}", style="dim"))
    if found.first is not None:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("layer", overflow="fold")
        table.add_column("type", overflow="fold")
        for column in ("values", "differ-\ning", "sam-\nples", "max\nLSB", "mean\nLSB"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("verdict", overflow="fold", min_width=18)
        for row in _rows(found):
            layer = row.layer
            cells = (
                text.shortened(layer.layer, 32), layer.op_type, f"{layer.values:,}", f"{layer.differing:,}",
                f"{layer.differing_samples}", f"{layer.max_lsb:,}", row.mean, row.verdict,
            )  # fmt: skip
            style = "" if not layer.own else "red" if layer is found.first else "yellow"
            table.add_row(*(Text(cell) for cell in cells), style=style)
        console.print(table)
        if any(not row.layer.own for row in _rows(found) if row.layer.differing):
            console.print(Text("inherited: the layer is right about what it was given; only its inputs differ", "dim"))
    for notice in found.notices:
        console.print(Text(f"note: {notice}"))


def _section(number: int, found: Diagnosis) -> _Section:
    rows = _rows(found)
    pictures = tuple((row, difference_svg(row.layer)) for row in rows if row.layer.differing)
    return _Section(number, found, rows, pictures)


def _rows(found: Diagnosis) -> tuple[_Row, ...]:
    return tuple(
        _Row(
            layer,
            text.shortened(layer.layer, _NAME),
            number,
            text.significant(layer.mean_lsb) if layer.differing else text.MISSING,
            layer.verdict,
        )
        for number, layer in enumerate(found.layers, start=1)
    )
