"""`quantrig estimate`: what a network would do on an FPGA that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json
from harness.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from harness.emulation.performance.estimate import Estimate
    from harness.emulation.performance.timing import LayerTiming

#: Terminals at least this wide see every column and the rule of each buffer; narrower than `_NARROW`, the least.
_WIDE, _NARROW = 110, 76


def estimate(
    model: Annotated[Path, typer.Argument(help="A float or Q/DQ network.", metavar="MODEL.onnx")],
    bitstream: Annotated[
        str | None,
        typer.Option("--bitstream", help="MathWorks: zcu102_single, zcu102_int8, arria10soc_single.", metavar="NAME"),
    ] = None,
    conv_threads: Annotated[
        int | None, typer.Option("--conv-threads", help="Of a custom processor; a square.", metavar="N")
    ] = None,
    fc_threads: Annotated[int | None, typer.Option("--fc-threads", help="Of a custom processor.", metavar="N")] = None,
    dpu: Annotated[str | None, typer.Option("--dpu", help="AMD DPUCZDX8G: B512 … B4096.", metavar="SIZE")] = None,
    cores: Annotated[int | None, typer.Option("--cores", help="Of the DPU. Default: the board's usual.")] = None,
    board: Annotated[
        str | None, typer.Option("--board", help="Of the DPU: zcu102, zcu104, kv260, ultra96.", metavar="BOARD")
    ] = None,
    clock_mhz: Annotated[
        float | None, typer.Option("--clock-mhz", help="Of the processor or the DPU. Default: the usual one.")
    ] = None,
    memory_gb_per_s: Annotated[
        float | None, typer.Option("--memory-gb-per-s", help="Of the DPU's board. Default: as fitted for it.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Print the compile log instead of the tables.")] = False,
    as_json: Json = False,
) -> int:
    """Cycles, time, memory and resources on one of MathWorks' bitstreams or on a DPU, with the error of the model."""
    from rich.console import Console

    from harness.emulation.performance.estimate import estimate as estimated

    found = estimated(
        model,
        bitstream=bitstream,
        conv_threads=conv_threads,
        fc_threads=fc_threads,
        dpu=dpu,
        cores=cores,
        board=board,
        clock_mhz=clock_mhz,
        memory_gb_per_s=memory_gb_per_s,
    )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    elif log:
        for line in found.compile_log:
            typer.echo(line)
    else:
        render(found, Console())
    return ExitCode.GOOD


def render(found: Estimate, console: Console) -> None:
    """Print it for a person."""
    from rich.console import Console
    from rich.text import Text

    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, 120))
    console.print(Text(f"{found.model} on {found.device}: modelled, not measured"))
    console.print(_layer_table(found, console.width))
    console.print(Text(_total(found)), style="bold")
    notes = _notes(found)
    for number, note in enumerate(notes, start=1):
        console.print(Text(f"[{number}] {note}"))
    if found.memory_map is not None:
        _print_memory(found, console)
    _print_resources(found, console)
    console.print(Text(f"\nError of the model: {found.error}."))
    console.print(Text(f"Fitted: {found.error.fitted}."))
    for remark in found.remarks:
        console.print(Text(f"Note: {remark}."))


def _layer_table(found: Estimate, width: int) -> object:
    from rich.table import Table
    from rich.text import Text

    from harness.report.text import shortened

    numbers = {note: number for number, note in enumerate(_notes(found), start=1)}
    wide, narrow = width >= _WIDE, width < _NARROW
    table = Table(box=None, pad_edge=False)
    for column in ("layer", *(() if narrow else ("type",)), "", *(("group",) if wide else ())):
        table.add_column(column, no_wrap=True)
    for column in ("cycles", "ms", *(("FPS",) if wide else ())):
        table.add_column(column, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("bound", no_wrap=True)
    table.add_column("util. %" if wide else "util.", justify="right", no_wrap=True)
    for layer in found.timing.layers:
        note = layer.reason or layer.note
        mark = f" [{numbers[note]}]" if note else ""
        length = (40 if wide else 20) - len(mark)
        cells = [layer.where, *([_text(layer.group)] if wide else [])]
        cells += [_cycles(layer), _number(None if layer.seconds is None else layer.seconds * 1e3)]
        cells += [_number(1 / layer.seconds if layer.seconds else None)] if wide else []
        use = "-" if layer.utilization is None else f"{100 * layer.utilization:.1f}"
        table.add_row(
            Text(shortened(layer.name, length) + mark),
            *(() if narrow else (Text(shortened(layer.op_type, 20 if wide else 12)),)),
            *cells,
            *(() if narrow else (layer.bound or "-",)),
            use,
        )
    return table


def _notes(found: Estimate) -> list[str]:
    """Each once, in the order of the layers."""
    notes = (layer.reason or layer.note for layer in found.timing.layers)
    return list(dict.fromkeys(note for note in notes if note))


def _total(found: Estimate) -> str:
    software = sum(layer.where == "SW" for layer in found.timing.layers)
    free = sum(layer.where == "HW" and not layer.cycles for layer in found.timing.layers)
    parts = [f"{len(found.timing.layers) - software - free} layers HW, {software} SW, {free} with nothing to compute"]
    if found.cycles is not None:
        parts.append(f"{found.cycles:,.0f} cycles at {found.clock_mhz:g} MHz")
    parts += [f"{found.seconds * 1e3:.4g} ms", f"{found.fps:.5g} FPS"]
    if found.fps_multi_thread is not None:
        parts.append(f"{found.fps_multi_thread:.5g} FPS with all cores busy")
    return f"Network: {', '.join(parts)}"


def _print_memory(found: Estimate, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    memory = found.memory_map
    assert memory is not None  # checked by the caller
    console.print(Text(f"\nExternal memory, pages of {memory.page_bytes // 1024} KiB ({memory.page_source})"))
    wide = console.width >= _WIDE
    table = Table("buffer", "offset", box=None, pad_edge=False)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("basis", overflow="fold")
    for buffer in memory.buffers:
        basis = f"{buffer.basis}: {buffer.note}" if wide else buffer.basis
        table.add_row(buffer.name, f"0x{buffer.offset_bytes:08x}", f"{buffer.size_bytes:,}", basis)
    table.add_row("end", f"0x{memory.total_bytes:08x}", f"{memory.total_bytes:,}", "")
    console.print(table)


def _print_resources(found: Estimate, console: Console) -> None:
    from rich.text import Text

    if not found.resources:
        return
    shares = (
        f"{share.name} {share.count:,.0f}" + ("" if share.percent is None else f" ({share.percent:.1f} %)")
        for share in found.resources
    )
    origins = ", ".join(dict.fromkeys(share.origin for share in found.resources))
    console.print(Text(f"\nResources, {origins}: {', '.join(shares)}"))
    for source in dict.fromkeys(share.source for share in found.resources):
        console.print(Text(f"  {source}"))


def _cycles(layer: LayerTiming) -> str:
    return "-" if layer.cycles is None else f"{layer.cycles:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}"


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
