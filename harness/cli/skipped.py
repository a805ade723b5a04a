"""What past runs left that this version cannot read: said, never passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from harness.store.nights import Nights

#: So many skipped records are named.
_NAMED = 3


def say_skipped(nights: Nights) -> None:
    """One line where a record could not be read: the run's figures are there, what they depended on is not."""
    skipped = nights.unreadable
    if skipped:
        from harness.report.text import plain

        few = ", ".join(f"run {run} on {target}" for run, target in skipped[:_NAMED])
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        what = "1 record was" if len(skipped) == 1 else f"{len(skipped)} records were"
        remedy = "another version of quantrig may read what these figures depended on"
        typer.echo(plain(f"{what} skipped, which this version cannot read: {few}{more}; {remedy}"), err=True)
