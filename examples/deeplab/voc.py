"""DeepLab's output as class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def classes(outputs: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Scores [N, 257, 257, 21] → the best class of each pixel, uint8 [N, 257, 257]."""
    (scores,) = outputs.values()
    best: NDArray[np.uint8] = scores.argmax(axis=-1).astype(np.uint8)
    return best
