"""Whether a job file still says what a run recorded: a bundle must not show a job other than the one measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from harness.job import Job

#: Fields that every record with `data` has, and those that `Job.as_json` leaves out where nothing is asked. Gates judge
#: what was measured and change nothing of it; a sweep's settings stand with their targets.
_ALWAYS = ("data", "preprocess", "metrics")
_OPTIONAL = ("postprocess", "batch", "state", "quantize", "quantized")


def changed_fields(recorded: Mapping[str, Any], job: Job) -> list[str]:
    """Fields of the job that differ from those a run recorded; files are compared by their names.

    Args:
        recorded: `RunRecord.job`.
        job: as its file has it.
    """
    then, now = _by_name(recorded), _by_name(job.as_json())
    known = [name for name in _ALWAYS if name in then]
    known += _OPTIONAL if "data" in then else ()
    return [name for name in known if then.get(name) != now.get(name)]


def _by_name(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON has it, paths without their folders: those of another machine say nothing."""
    found: dict[str, Any] = json.loads(json.dumps(dict(plain)))
    data = found.get("data")
    if isinstance(data, dict) and isinstance(data.get("source"), str):
        data["source"] = PurePath(data["source"]).name
    if isinstance(found.get("quantized"), str):
        found["quantized"] = PurePath(found["quantized"]).name
    return found
