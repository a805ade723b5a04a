"""A job's `postprocess`: from what a network returns to what its metrics take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.data.functions import import_function, plugin_error
from harness.errors import UserError
from harness.job import Job
from harness.runs.samples import Array

#: Outputs of some samples by name → the same, decoded.
Decode = Callable[[dict[str, Array]], dict[str, Array]]


def as_they_are(outputs: dict[str, Array]) -> dict[str, Array]:
    """No postprocessing."""
    return outputs


def decode_of(job: Job) -> Decode:
    """The job's function, its failures one line each; `as_they_are` where it has none.

    Raises:
        UserError: it cannot be imported. What is returned raises it where the function fails.
    """
    spec = job.postprocess
    if spec is None:
        return as_they_are
    function = import_function(spec, job.base)

    def decode(outputs: dict[str, Array]) -> dict[str, Array]:
        try:
            result: Any = function(outputs)
        except Exception as error:
            raise plugin_error(spec, error) from error
        if isinstance(result, dict):
            return result
        if isinstance(result, np.ndarray):
            return {"output": result}
        message = f"{spec}: returned a {type(result).__name__}; return an array or a dict of arrays by name"
        raise UserError(message)

    return decode
