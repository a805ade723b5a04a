"""Moved to harness.runs.record (the function harness.run needs this name)."""
from harness.runs.record import *  # noqa: F403
