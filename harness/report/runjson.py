"""run.json: everything a run left behind, with a version; reads back as the same `RunRecord`."""

from __future__ import annotations

import dataclasses
import json
import math

from pydantic import TypeAdapter, ValidationError

from harness.errors import UserError
from harness.record.run import SCHEMA_VERSION, RunRecord
from harness.report.text import plain

_RECORD = TypeAdapter(RunRecord)


def dump(record: RunRecord) -> str:
    """The file's content: strict JSON in ASCII.

    JSON has no NaN or infinity: where a record holds one (a board may send anything), it is written as the text
    "NaN", "Infinity" or "-Infinity"; in a field typed as a number it reads back as that number.
    """
    return json.dumps(_strict(dataclasses.asdict(record)), indent=1, allow_nan=False) + "\n"


def load(text: str, name: str = "run.json") -> RunRecord:
    """Read a record back.

    Args:
        text: the file's content.
        name: what to call the file in an error.

    Raises:
        UserError: no JSON, another schema version, or a field that does not fit (the first one is named).
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        msg = f"{name}: this is no JSON ({error}); publish the run again with `quantrig resume`"
        raise UserError(msg) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        remedy = "update quantrig" if isinstance(version, int) and version > SCHEMA_VERSION else "is it a run.json?"
        msg = f"{name}: schema version {version!r}, this quantrig reads {SCHEMA_VERSION}: {remedy}"
        raise UserError(plain(msg))
    try:
        return _RECORD.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{name}: {where}: {first['msg']}; publish the run again with `quantrig resume`"
        raise UserError(plain(msg)) from error


def _strict(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
