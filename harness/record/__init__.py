"""What stays behind of a run, as values: the content of run.json, which journal and reports are built from."""
