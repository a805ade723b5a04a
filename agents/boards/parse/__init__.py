"""What the vendors' tools print, read by grammar: one module a format, text in, values out, nothing else."""
