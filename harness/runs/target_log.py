"""The record of one target while its part is done: each change goes into the journal at once, each word to the user."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.record.networks import Loading
from harness.record.target import TargetRecord
from harness.runs.observer import Observer
from harness.store import Store


@dataclass
class TargetLog:
    """What is known of one target so far.

    Args:
        run_id: of the run.
        record: as the journal holds it.
        store: the journal.
        observer: of the run.
    """

    run_id: str
    record: TargetRecord
    store: Store
    observer: Observer

    @property
    def name(self) -> str:
        """Of the target."""
        return self.record.name

    def save(self, **changes: object) -> None:
        """Change fields of the record."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        self.store.save_target(self.run_id, self.record)

    def save_loading(self, loading: Loading) -> None:
        """How a network became ready, in place of what was known of that network."""
        others = tuple(old for old in self.record.loadings if old.network != loading.network)
        self.save(loadings=(*others, loading))

    def note(self, *notes: str) -> None:
        """Add notes to the record, each once."""
        if notes:
            self.save(notes=tuple(dict.fromkeys((*self.record.notes, *notes))))

    def progress(self, phase: str, done: float, total: float | None) -> None:
        """How far a phase has come."""
        self.observer.progress(self.name, phase, done, total)

    def say(self, text: str) -> None:
        """One line for the user."""
        self.observer.message(self.name, text)
