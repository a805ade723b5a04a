"""The shipped default: a trained network, its held-out samples, a job and a lab that need nothing else."""

from __future__ import annotations

from pathlib import Path

#: What `quantrig demo` runs.
JOB = Path(__file__).with_name("job.yaml")
#: This machine, really measured, and a stand-in for each of three boards.
LAB = Path(__file__).with_name("targets.yaml")
