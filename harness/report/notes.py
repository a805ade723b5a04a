"""What a reader must know beside the figures: how targets ended, caveats, and what each kind of source means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.judge.caveats import target_caveats
from harness.record.figure import Figure, Network, Source
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.report.headline import figure_index
from harness.report.text import plain

#: What each kind of source means, for the line under a table that uses it.
SOURCE_MEANING = {
    Source.MEASURED: "measured: on that device.",
    Source.EMULATED: (
        "emulated: no board was there. Its arithmetic was run by a stand-in: accuracy and agreement only, never time."
    ),
    Source.MODELLED: "modelled: computed by a performance model whose error stands beside it; no board was timed.",
    Source.PUBLISHED: "published: quoted, with its source (resources of an FPGA).",
}

MEMORY_NOTE = (
    "Memory is that of weights and biases, counted from their dtypes. An emulated network is not smaller: its file may "
    "hold the same int8 values in wider types."
)

#: Said of an artifact that was not sent because the board held it.
SKIPPED = "already on the board, skipped"
#: The same of a design and a network that the board's logic held.
LOADED = "already loaded into the logic, programming skipped"


@dataclass(frozen=True, slots=True)
class Note:
    """A note and whom it concerns; no target means all."""

    text: str
    targets: tuple[str, ...]

    @property
    def line(self) -> str:
        """The targets, then the text: `a, b: text`."""
        return f"{', '.join(self.targets)}: {self.text}" if self.targets else self.text


def target_notes(target: TargetRecord, index: Mapping[tuple[str, Network, str], Figure]) -> tuple[str, ...]:
    """What a reader must know about one target: how it ended, its own notes, a speed-up that did not settle."""
    notes: list[str] = []
    if target.status != "done":
        notes.append(f"{target.status}: {target.error}" if target.error else target.status)
    notes += [*target.notes, *target_caveats(target)]
    notes += _design_notes(target)
    speedup = index.get((target.name, Network.RATIO, "speedup"))
    if speedup is not None and speedup.value is not None:
        notes += [said for part in speedup.note.split("; ") if (said := _unsettled(part))]
    skipped = [shipment.network.value for shipment in target.shipments if shipment.skipped]
    if skipped:
        notes.append(f"{' and '.join(dict.fromkeys(skipped))} {SKIPPED}")
    loaded = [item.network.value for item in target.programming if item.network_skipped]
    if loaded:
        notes.append(f"{' and '.join(dict.fromkeys(loaded))} {LOADED}")
    return tuple(dict.fromkeys(plain(note) for note in notes))


def _unsettled(part: str) -> str:
    """What a part of the speed-up's note says of a goal that was missed; another word than a gate's verdict has."""
    if part.startswith("inconclusive: "):
        return f"speed-up less exact than asked: {part.removeprefix('inconclusive: ')}"
    return f"speed-up {part}" if part.startswith("too few pairs") else ""


def _design_notes(target: TargetRecord) -> list[str]:
    """How far the model of each design is from published figures; one note where one says what the other says."""
    notes = list(dict.fromkeys(design.note for design in target.designs if design.note))
    whole = [note for note in notes if not any(other != note and other.startswith(note) for other in notes)]
    said: list[str] = []
    for note in whole:
        names = [design.design for design in target.designs if design.note and note.startswith(design.note)]
        said.append(f"modelled times of {', '.join(names)}: {note}")
    return said


def notes_under_table(record: RunRecord) -> tuple[Note, ...]:
    """Every note once, with the targets it concerns: failures first, shipments last; then what the sources mean."""
    targets_of: dict[str, list[str]] = {}
    index = figure_index(record.figures)
    failed: set[str] = set()
    for target in record.targets:
        own = target_notes(target, index)
        for note in own:
            targets_of.setdefault(note, []).append(plain(target.name))
        if target.status != "done":
            failed.update(own[:1])
    ordered = sorted(targets_of, key=lambda text: (text not in failed, text.endswith((SKIPPED, LOADED))))
    everyone = len(record.targets) if len(record.targets) > 1 else None
    notes = [
        Note(text, ("all targets",) if len(targets_of[text]) == everyone else tuple(targets_of[text]))
        for text in ordered
    ]
    notes += [Note(plain(text), ()) for text in record.notes]
    used = {target.source for target in record.targets}
    used |= {figure.source for figure in record.figures if figure.value is not None}
    notes += [Note(SOURCE_MEANING[source], ()) for source in Source if source in used]
    if any("learnable_memory" in figure.metric and figure.value is not None for figure in record.figures):
        notes.append(Note(MEMORY_NOTE, ()))
    return tuple(notes)


def outcome(record: RunRecord) -> str:
    """How the run went, in one sentence."""
    total = len(record.targets)
    if not total:
        return "The run had no target."
    failed = [target for target in record.targets if target.status not in ("done", "pending")]
    pending = [target for target in record.targets if target.status == "pending"]
    if not failed and not pending:
        return f"All {total} targets finished." if total != 1 else "The target finished."
    parts = [f"{total - len(failed) - len(pending)} of {total} targets finished"]
    parts += [f"{plain(target.name)} {plain(target.status)}" for target in failed]
    if pending:
        parts.append(f"not reached: {', '.join(plain(target.name) for target in pending)}")
    return "; ".join(parts) + "."
