"""Report: a run's record as tables, a page and machine-readable files. Nothing is measured or judged here."""
