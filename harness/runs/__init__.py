"""Runs: who runs what when, the journal of it, and how it resumes."""
