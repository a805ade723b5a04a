"""One of several processes that measure layers: `python -m harness.quantize.sensitivity_worker FILE`.

FILE is the recipe, pickled by the process that started this one. Each line on stdin is a layer's name as JSON, each
line on stdout its result; the end of stdin ends the process.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

from harness.errors import QuantrigError
from harness.quantize.sensitivity import measure_layer
from harness.quantize.variants import Recipe, Variants


def main(file: str) -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # What a metric or a library prints must not stand between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    recipe = pickle.loads(Path(file).read_bytes())  # noqa: S301 (our parent wrote it into a folder of its own)
    assert isinstance(recipe, Recipe), type(recipe)
    with Variants(recipe) as variants:
        for line in sys.stdin:
            try:
                answer: dict[str, object] = {"result": measure_layer(variants, json.loads(line))}
            except QuantrigError as error:
                answer = {"error": str(error)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
