"""scikit-learn's handwritten digits as the shipped network takes them, and the split that training respects.

The 1,797 8x8 images come with scikit-learn (Alpaydin and Kaynak, UCI Machine Learning Repository, "Optical
Recognition of Handwritten Digits", CC BY 4.0), so nothing is downloaded. `examples/digits/train.py` trains on
`training()`; every job that names `harness.demo.digits:held_out` sees the other samples only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Of the split. Raising it makes the committed network invalid: it would have seen held-out samples.
SPLIT_SEED = 20240
#: Kept away from training: 100 to calibrate with and 500 to validate on.
HELD_OUT_SAMPLES = 600
#: The 8x8 originals are enlarged this much, so that the convolutions have a board-sized load to carry.
UPSAMPLING = 4
#: Largest pixel value of the originals (a count of set pixels in a 4x4 block).
PIXEL_MAX = 16.0

Samples = tuple[dict[str, "NDArray[np.float32]"], "NDArray[np.int64]"]


def split(samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample numbers of the two parts, each sorted.

    Args:
        samples: size of the whole data set.

    Returns:
        (training, held out): together every number below `samples` exactly once.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(samples)
    return np.sort(order[HELD_OUT_SAMPLES:]), np.sort(order[:HELD_OUT_SAMPLES])


def enlarge(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bilinear enlargement by `UPSAMPLING` with half-pixel centres, edges repeated.

    Args:
        images: float32 [N, H, W].

    Returns:
        float32 [N, H x UPSAMPLING, W x UPSAMPLING]; weights are multiples of 1/8, so the sums are exact and the
        same on every machine.
    """
    rows, columns = (_interpolation(size) for size in images.shape[1:])
    return np.asarray(rows @ images @ columns.T, dtype=np.float32)


def _interpolation(size: int) -> NDArray[np.float32]:
    """Matrix [size x UPSAMPLING, size] whose rows mix the two nearest originals."""
    centres = np.clip((np.arange(size * UPSAMPLING) + 0.5) / UPSAMPLING - 0.5, 0, size - 1)
    lower = np.minimum(np.floor(centres).astype(int), size - 2)
    share = (centres - lower).astype(np.float32)
    matrix = np.zeros((len(centres), size), dtype=np.float32)
    each = np.arange(len(centres))
    matrix[each, lower] = 1 - share
    matrix[each, lower + 1] = share
    return matrix


def training() -> Samples:
    """What the shipped network was trained on: 1,197 samples, in the form of `held_out`."""
    return _part(0)


def held_out() -> Samples:
    """The 600 samples that training never saw.

    Returns:
        ({"image": float32 [600, 1, 32, 32], 0..1}, int64 [600] labels 0..9).

    Raises:
        UserError: scikit-learn is not installed.
    """
    return _part(1)


def _part(which: int) -> Samples:
    images, labels = _originals()
    chosen = split(len(images))[which]
    return {"image": enlarge(images[chosen] / np.float32(PIXEL_MAX))[:, np.newaxis]}, labels[chosen]


def _originals() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Float32 [1797, 8, 8] in 0..16 and int64 [1797]."""
    try:
        from sklearn.datasets import load_digits  # heavy, and needed by the demo alone
    except ModuleNotFoundError as error:
        message = "harness.demo.digits: scikit-learn is not installed; pip install scikit-learn"
        raise UserError(message) from error
    digits = load_digits()
    return digits.images.astype(np.float32), digits.target.astype(np.int64)
