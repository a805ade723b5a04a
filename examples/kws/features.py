"""MLPerf Tiny's keyword-spotting features: 49 frames of 10 MFCC, stored as the bytes a microcontroller is fed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parents[3] / "shared/data/kws01"
#: Quantization of the stored bytes (README of the data): value = (byte - 83) * SCALE.
SCALE, ZERO_POINT = 0.5847029089927673, 83


def load() -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """All samples: ({"input_1": float32 [N, 49, 10, 1]}, int64 [N] of 12 words)."""
    with (FOLDER / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stored = np.stack([np.fromfile(FOLDER / "features" / row["filename"], np.int8) for row in rows])
    values = ((stored.astype(np.float32) - ZERO_POINT) * np.float32(SCALE)).reshape(-1, 49, 10, 1)
    return {"input_1": values}, np.array([int(row["label_index"]) for row in rows], np.int64)
