"""What `quantrig inspect` does with samples or a session: calibrate, compare, rank, and show it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.api import Quantizer
from harness.cli.inspection import inspection
from harness.cli.model_data import ModelData, feeds_with_bar, job_state, open_model_data, samples_of
from harness.cli.precision import SQNR_SAMPLES, divide, layers_bar, print_ranking
from harness.errors import UserError
from harness.quantize import describe_own, details, layer_errors
from harness.quantize.dynamic_range import DynamicRange, Scheme
from harness.quantize.layer_ranges import LayerRanges, nearest
from harness.quantize.overview import Overview, overview
from harness.report.files import write_files
from harness.report.histogram_svg import layer_svg, number, power
from harness.report.histogram_text import bars, strip
from harness.report.layer_page import layers_html
from harness.report.text import MISSING, plain, shortened

#: Rows of ranges that a terminal shows; --json and --out have all.
_SHOWN = 200
#: A narrower terminal gets fewer columns, and names without their middle.
_WIDE = 148
_WIDE_NAME, _NARROW_NAME = 32, 24
_PAGE = "layers.html"


@dataclass(frozen=True)
class Request:
    """The command line, checked: options as `quantrig inspect --help` has them."""

    model: Path | None
    data: str | None
    job: Path | None
    session: Path | None
    samples: int
    environment: str | None
    quantized: Path | None
    sensitivity: bool
    journal: Path | None
    processes: int
    layer: str | None
    scheme: Scheme
    out: Path | None
    svg: Path | None
    as_json: bool


def look(request: Request) -> None:
    """Do what was asked, and print it.

    Raises:
        UserError: the network, samples, session or a name are unusable, or a file cannot be written.
    """
    quantizer = _open(request)
    sampled = _Samples(request, quantizer.model)
    if request.session is None and sampled.given:
        with sampled.feeds() as feeds:
            quantizer.calibrate(feeds, layers="all", method="histogram")
    if request.layer is not None:
        _check_layer(quantizer, request.layer, request.scheme)
    if request.quantized is not None:
        quantizer.quantized = describe_own(request.quantized)
    errors, error_samples = _errors(quantizer, sampled)
    ranking = quantizer.ranking
    if request.sensitivity:
        with layers_bar(quiet=request.as_json) as progress:
            ranking = quantizer.sensitivity(
                sampled.held, resume=request.journal, processes=request.processes, progress=progress
            )
    found = overview(quantizer, request.scheme, errors=errors, error_samples=error_samples, ranking=ranking)
    written = _write(found, request)
    if request.as_json:
        typer.echo(json.dumps(_as_json(quantizer, found, errors, ranking, written), indent=2))
        return
    console = Console()
    if request.layer is not None:
        _print_layer(found, request.layer)
    else:
        _print_all(found, console)
    if request.sensitivity and ranking is not None:
        print_ranking(ranking, None)
    for line in _summary(written):
        typer.echo(line)


def _open(request: Request) -> Quantizer:
    if request.model is not None and details(request.model).IsQuantized:
        raise UserError(
            f"{request.model}: int8 already; give the float network it was made from, and this one with --quantized"
        )
    if request.session is None:
        assert request.model is not None  # the command has checked it
        return Quantizer(request.model, request.environment or "cpu", job_state(request.job))
    loaded = Quantizer.load(request.session, model=request.model)
    if request.environment not in {None, loaded.environment}:
        raise UserError(
            f"{request.session}: a session for {loaded.environment}, not {request.environment}; leave --environment out"
        )
    if loaded.calibration is None:
        raise UserError(f"{request.session}: holds no calibration; give samples with --data DATA, without --session")
    return loaded


class _Samples:
    """The samples of a command, where it names some: those that ranges come from, and those that a ranking rests on."""

    def __init__(self, request: Request, model: Path) -> None:
        self.given = request.data is not None or request.job is not None
        self.held: list[Any] | None = None
        self._quiet = request.as_json
        self._all: ModelData | None = None
        self._calibration: ModelData | None = None
        if not self.given:
            return
        self._all = self._calibration = open_model_data(model, request.data, request.job, request.samples)
        if request.sensitivity:
            # A ranking on the samples that ranges come from would flatter: some are held back.
            divided = divide(model, request.data, request.job, request.samples, SQNR_SAMPLES)
            self._calibration, self.held = divided.calibration, divided.held

    def feeds(self) -> AbstractContextManager[Iterable[Any]]:
        """What ranges come from, with a progress bar on a terminal."""
        if self._calibration is None:
            return nullcontext(())
        return feeds_with_bar("calibrate", self._calibration, quiet=self._quiet)

    def every(self) -> tuple[Iterable[Any], int]:
        """All samples once more, and how many there are."""
        return ((), 0) if self._all is None else (samples_of(self._all), self._all.count)


def _errors(quantizer: Quantizer, sampled: _Samples) -> tuple[pd.DataFrame | None, int]:
    """Layer errors where there is an int8 network, on the samples given or else those that the session remembered."""
    if quantizer.quantized is None:
        return None, 0
    feeds, count = sampled.every()
    if not sampled.given:
        kept = [] if quantizer.calibration is None else list(quantizer.calibration.kept)
        if not kept:
            return None, 0
        feeds, count = kept, len(kept)
    return layer_errors(quantizer.model, quantizer.int8_network(), feeds), count


def _check_layer(quantizer: Quantizer, layer: str, scheme: Scheme) -> None:
    """Refuse a wrong name before an hour of measuring.

    Raises:
        UserError: with the nearest name.
    """
    found = quantizer.histograms(scheme)
    if any(name == layer for name, _ in found):
        return
    if quantizer.calibration is not None:
        quantizer.histogram(layer, scheme=scheme)
    names = LayerRanges(quantizer.model, None, quantizer.environment).layers
    if layer not in names:
        raise UserError(f"the network has no layer {layer!r}{nearest(layer, names)}")
    raise UserError(f"layer {layer!r}: nothing is known of it yet; give samples with --data DATA or --job JOB.yaml")


def _write(found: Overview, request: Request) -> list[Path]:
    files: dict[Path, str] = {}
    if request.out is not None:
        page = request.out if request.out.suffix.lower() in {".html", ".htm"} else request.out / _PAGE
        files[page] = layers_html(found)
    if request.svg is not None:
        digits = len(str(len(found.layers)))
        for index, view in enumerate(found.layers, start=1):
            if view.ranges:
                name = re.sub(r"[^\w.-]+", "_", view.name)[-80:].strip("._") or "layer"
                files[request.svg / f"{index:0{digits}}-{name}.svg"] = layer_svg(view.name, view.op_type, view.ranges)
    write_files(files)
    return list(files)


def _summary(written: Sequence[Path]) -> list[str]:
    pictures = [path for path in written if path.suffix == ".svg"]
    lines = [f"wrote {path}" for path in written if path.suffix != ".svg"]
    return [*lines, f"wrote {len(pictures)} pictures into {pictures[0].parent}"] if pictures else lines


def _as_json(
    quantizer: Quantizer,
    found: Overview,
    errors: pd.DataFrame | None,
    ranking: pd.DataFrame | None,
    written: Sequence[Path],
) -> dict[str, Any]:
    content = inspection(quantizer.model)
    content |= {
        "environment": found.environment,
        "scheme": found.scheme,
        "samples": found.samples,
        "ranges": None if quantizer.calibration is None else _records(quantizer.ranges()),
        "histograms": [
            {"layer": view.name, "parameter": what, **_range_json(known)}
            for view in found.layers
            for what, known in view.ranges.items()
        ],
        "quantized": None if found.quantized is None else str(found.quantized),
        "layer_errors": None if errors is None else {"samples": found.error_samples, "layers": _records(errors)},
        "sensitivity": None if ranking is None else {**ranking.attrs, "layers": _records(ranking)},
        "written": [str(path) for path in written],
    }
    return content


def _records(table: pd.DataFrame) -> Any:  # noqa: ANN401 (plain JSON)
    return json.loads(table.to_json(orient="records"))


def _range_json(found: DynamicRange) -> dict[str, Any]:
    return {
        "type": "uint8" if found.unsigned else "int8",
        "window": list(found.window),
        "scale": found.scale,
        "minimum": found.minimum,
        "maximum": found.maximum,
        "counts": {str(bit): count for bit, count in sorted(found.counts.items(), reverse=True)},
        "grey_bits": sorted((bit for bit in found.counts if found.is_grey(bit)), reverse=True),
        "zeros": found.zeros,
        "overflow": found.overflow,
        "underflow": found.underflow,
        "precision_loss": found.precision_loss,
    }


def _print_layer(found: Overview, layer: str) -> None:
    view = next(view for view in found.layers if view.name == layer)
    facts = [f"{view.learnables:,} learnables, {view.memory_bytes:,} bytes"] if view.learnables else []
    facts += [f"{view.macs:,} multiply-accumulates"] if view.macs else []
    typer.echo(f"{plain(view.name)} ({', '.join([view.op_type, *facts])})")
    for what, known in view.ranges.items():
        typer.echo("")
        for line in bars(what, known):
            typer.echo(line)
    if view.sqnr_db is not None:
        alone = "" if view.local_sqnr_db is None else f", alone {_db(view.local_sqnr_db)}"
        typer.echo(f"\nSQNR against float on {found.error_samples} samples: {_db(view.sqnr_db)} dB{alone} dB")
    if view.gain_db is not None:
        typer.echo(f"float in this layer alone gains {view.gain_db:+.2f} dB")


def _print_all(found: Overview, console: Console) -> None:
    rests = f"ranges from {found.samples} samples" if found.samples else "not calibrated, ranges of learnables only"
    typer.echo(f"{found.model}: {rests}; windows by {found.scheme}, in brackets; the highest bit is left")
    wide = console.width >= _WIDE or not console.is_terminal
    if not console.is_terminal:
        console = Console(width=max(console.width, _WIDE))
    errors = any(view.sqnr_db is not None for view in found.layers)
    table = Table(box=None, pad_edge=False)
    for column in ("layer", "of"):
        table.add_column(column, no_wrap=True)
    for column in ("min", "max", *(("top bit",) if wide else ())):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("bits", no_wrap=True)
    counted = ("overflow", "underflow", "precision loss") if wide else ("underflow",)
    for column in (*counted, *(("SQNR dB", "alone") if wide else ("SQNR",)) * errors):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [(view, what, known) for view in found.layers for what, known in view.ranges.items()]
    for view, what, known in rows[:_SHOWN]:
        counts = [known.overflow, known.underflow, known.precision_loss] if wide else [known.underflow]
        cells = ["not counted" if count is None else f"{count:,}" for count in counts]
        if errors:
            of_layer = (view.sqnr_db, view.local_sqnr_db) if wide else (view.sqnr_db,)
            cells += [_db(value) if what == "Activations" else "" for value in of_layer]
        table.add_row(
            Text(shortened(view.name, _WIDE_NAME if wide else _NARROW_NAME)),
            what if wide else what[0],
            number(known.minimum),
            number(known.maximum),
            *((power(max([known.window[0], *known.counts])),) if wide else ()),
            Text(strip(known, 24 if wide else 14)),
            *cells,
        )
    console.print(table)
    if len(rows) > _SHOWN:
        typer.echo(f"… and {len(rows) - _SHOWN} more rows; --out and --json have all")


def _db(value: float | None) -> str:
    if value is None:
        return MISSING
    return "exact" if value == float("inf") else f"{value:.1f}"
