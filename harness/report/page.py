"""report.html: the whole run on one page. One file, no script, nothing asked of another host.

Verdict first, then float, int8 and what compares them, then plots, then each target in detail, then where it came from.
"""

from __future__ import annotations

import json

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from harness._version import __version__
from harness.record.figure import Source
from harness.record.run import RunRecord
from harness.report import text
from harness.report.chart import Chart, boards_of
from harness.report.charts import accuracy_charts, sweep_charts
from harness.report.charts_latency import latency_charts
from harness.report.charts_layers import layer_charts
from harness.report.charts_telemetry import telemetry_chart
from harness.report.flat import flatten
from harness.report.gates import GateRow
from harness.report.page_board import board_views, clock_rows
from harness.report.page_target import target_view
from harness.report.table import Table, build_table

#: Only these leave blocks worth a plot (a refused block may hold anything).
_STATUS_WITH_PLOT = ("done", "throttled")
#: With more gates than this, those that passed stand below the comparison: figures must not start on the third page.
_GATES_ON_TOP = 16
#: The details of more targets than this are folded on a screen; print has them all.
_MOST_OPEN_TARGETS = 6


def report_html(record: RunRecord) -> str:
    """The page's content. It depends on nothing but the record (and the version of quantrig that wrote it)."""
    table = build_table(record)
    top, passed = _gates(table)
    return template("report.html.j2").render(
        record=record,
        table=table,
        gates_on_top=top,
        gates_below=passed,
        undecided=[name for name, outcome in table.verdict.targets if outcome is None] if table.gates else [],
        emulated=[target.name for target in record.targets if target.source is Source.EMULATED],
        modelled=_modelled(record),
        charts=_charts(record),
        fold_targets=len(record.targets) > _MOST_OPEN_TARGETS,
        targets=[target_view(record, target, number) for number, target in enumerate(record.targets, start=1)],
        boards=board_views(record),
        clocks=clock_rows(record),
        host_facts=tuple(flatten(record.host)),
        job_json=json.dumps(record.job, indent=2, ensure_ascii=False, default=str).splitlines(),
        version=__version__,
        missing=text.MISSING,
    )


def _gates(table: Table) -> tuple[tuple[GateRow, ...], tuple[GateRow, ...]]:
    """(gates above the comparison, gates below it)."""
    if len(table.gates) <= _GATES_ON_TOP:
        return table.gates, ()
    open_ones = tuple(gate for gate in table.gates if gate.outcome != "pass")
    return open_ones, tuple(gate for gate in table.gates if gate.outcome == "pass")


def _charts(record: RunRecord) -> list[Chart]:
    """All plots, in the order of the page."""
    timed = [
        (name, [one for one in targets if one.source is Source.MEASURED and one.status in _STATUS_WITH_PLOT])
        for name, targets in boards_of(record.targets)
    ]
    found = [
        *(chart for number, (name, targets) in enumerate(timed, 1) for chart in latency_charts(name, targets, number)),
        *sweep_charts(record),
        *accuracy_charts(record),
        *layer_charts(record),
        *(telemetry_chart(name, targets, number) for number, (name, targets) in enumerate(timed, 1)),
    ]
    return [chart for chart in found if chart is not None]


def _modelled(record: RunRecord) -> list[str]:
    """Targets of which some time is a model's."""
    names = (figure.target for figure in record.figures if figure.source is Source.MODELLED and figure.metric == "fps")
    return list(dict.fromkeys(names))


def template(name: str) -> Template:
    """A template of this room; whatever it prints is escaped and made printable."""
    return _environment().get_template(name)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: object) -> object:
    """Every text that a template prints goes through `plain`; our own markup (the drawings) is already safe."""
    return text.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
