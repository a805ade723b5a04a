"""What each sample contributed to the metrics of one network on one target, as one file of a run's folder.

`samples/<target>.<network>.npz` holds `ids`, `labels` (class numbers, where the data have them) and every metric's rows
as `<metric>/<column>`. Nothing in it is a Python object. `recompute_all` gives the published values back.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.judge.evaluate import Evaluation
from harness.judge.metrics import Rows, recompute
from harness.wholefile import write_whole

FOLDER = "samples"


@dataclass(frozen=True, slots=True, eq=False)
class KeptSamples:
    """The content of one file.

    Args:
        ids: of the samples.
        labels: int64 [N] where the labels are classes, else None.
        rows: by metric.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64] | None
    rows: Mapping[str, Rows]


def write_samples(
    folder: Path, target: str, evaluation: Evaluation, labels: NDArray[np.int64] | None
) -> tuple[str, str]:
    """Write the file of one network on one target.

    Args:
        folder: of the run.
        target: its name.
        evaluation: of the network.
        labels: class numbers in the order of the ids, where there are such.

    Returns:
        (path relative to `folder`, sha256). The same evaluation always gives the same bytes.

    Raises:
        UserError: the disk is full or read-only.
    """
    arrays: dict[str, NDArray[Any]] = {"ids": np.array(evaluation.ids, np.str_)}
    if labels is not None:
        arrays["labels"] = np.asarray(labels, np.int64)
    for result in evaluation.results:
        if result.rows is not None:
            arrays |= {f"{result.name}/{name}": column for name, column in result.rows.columns.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    relative = Path(FOLDER) / f"{target}.{evaluation.network.value}.npz"
    write_whole(folder / relative, content, "free some space and `quantrig resume`")
    return relative.as_posix(), hashlib.sha256(content).hexdigest()


def read_samples(source: Path | bytes) -> KeptSamples:
    """Read a file back.

    Raises:
        UserError: damaged, or not such a file.
    """
    name = "samples" if isinstance(source, bytes) else str(source)
    rows: dict[str, dict[str, NDArray[Any]]] = {}
    try:
        with np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False) as archive:
            ids = tuple(str(one) for one in archive["ids"])
            labels = archive["labels"] if "labels" in archive.files else None
            for key in archive.files:
                metric, slash, column = key.partition("/")
                if slash:
                    rows.setdefault(metric, {})[column] = archive[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{name}: not a readable file of samples ({error}); `quantrig resume` writes it again"
        raise UserError(msg) from error
    kept = {metric: Rows(columns) for metric, columns in rows.items()}
    for metric, one in kept.items():
        if (fault := one.fault(len(ids))) is not None:
            raise UserError(f"{name}: {metric}: {fault}; `quantrig resume` writes it again")
    if labels is not None and (labels.shape != (len(ids),) or labels.dtype.kind not in "iu"):
        raise UserError(f"{name}: labels are {labels.dtype}{list(labels.shape)} for {len(ids)} samples")
    return KeptSamples(ids, labels, kept)


def recompute_all(source: Path | bytes) -> dict[str, float]:
    """Metric → value, from a file alone.

    Raises:
        UserError: as `read_samples`, or rows of a metric that is not known here.
    """
    return {metric: recompute(metric, rows) for metric, rows in read_samples(source).rows.items()}
