"""Judge: from stored outputs and blocks to figures with intervals."""
