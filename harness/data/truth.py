"""Labels that are no class numbers: a mask, boxes or a target for each sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness.data.batch import Array, DataSet, Labels
from harness.data.label_map import LabelMap
from harness.errors import UserError

Kind = Literal["masks", "boxes", "targets"]


class Truth(Protocol):
    """One array for each sample of a data set."""

    @property
    def kind(self) -> Kind:
        """masks: integers [H, W], a class for each pixel, 255 and negative numbers are not counted. boxes: float64
        [M, 6]: left, top, right, bottom (0…1 of the image), class, 1 for a crowd. targets: numbers of any shape.
        """  # noqa: D205 - one list

    def read(self, indices: Sequence[int]) -> list[Array]:
        """Of these samples.

        Raises:
            UserError: a file that cannot be read.
        """

    def digest(self) -> str:
        """sha256 of everything `read` depends on."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldTruth:
    """A `Truth` in memory.

    Args:
        kind: see `Truth.kind`.
        items: one array a sample.
    """

    kind: Kind
    items: Sequence[Array]

    def read(self, indices: Sequence[int]) -> list[Array]:
        """See `Truth.read`."""
        return [self.items[index] for index in indices]

    def digest(self) -> str:
        """See `Truth.digest`."""
        whole = hashlib.sha256(self.kind.encode())
        for item in self.items:
            whole.update(repr((item.dtype.str, item.shape)).encode())
            whole.update(np.ascontiguousarray(item).data)
        return whole.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class MaskFiles:
    """A `Truth` of masks that are decoded when they are read.

    Args:
        paths: one file a sample: an image of class numbers (8 or 16 bits, a palette's index counts), .npy, or .npz
            with one array.
        label_map: from what is stored to classes, or None.
    """

    paths: Sequence[Path]
    label_map: LabelMap | None

    @property
    def kind(self) -> Kind:
        """See `Truth.kind`."""
        return "masks"

    def read(self, indices: Sequence[int]) -> list[Array]:
        """See `Truth.read`."""
        masks = [_mask(self.paths[index]) for index in indices]
        return list(masks) if self.label_map is None else [self.label_map.apply(mask) for mask in masks]

    def digest(self) -> str:
        """See `Truth.digest`."""
        whole = hashlib.sha256(repr(self.label_map).encode())
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); restore or remove it") from None
        return whole.hexdigest()


def _mask(path: Path) -> npt.NDArray[np.integer[Any]]:
    from PIL import Image

    try:
        if path.suffix in {".npy", ".npz"}:
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.lib.npyio.NpzFile):
                with found:
                    if len(found.files) != 1:
                        raise UserError(f"{path}: holds {len(found.files)} arrays; a mask is one")
                    found = found[found.files[0]]
            mask = np.asarray(found)
        else:
            with Image.open(path) as image:
                mask = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a readable mask ({reason}); replace or remove it") from None
    if mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"{path}: {mask.dtype}{list(mask.shape)} is no mask; give one class number for each pixel")
    return mask


def label_kind(data: DataSet) -> Literal["classes", "masks", "boxes", "targets", ""]:
    """What the labels of a data set are; "" where it has none."""
    if data.truth is not None:
        return data.truth.kind
    return "" if data.labels is None else "classes"


def labels_at(data: DataSet, indices: Sequence[int]) -> Labels | list[Array] | None:
    """The labels of some samples: class numbers int64 [n], or one array a sample; None where the data has none."""
    if data.truth is not None:
        return data.truth.read(indices)
    return None if data.labels is None else data.labels[list(indices)]


def truth_of(labels: object, count: int, source: str) -> Truth | None:
    """Labels in memory that are no class numbers; None where they are none at all or look like class numbers.

    Args:
        labels: integers [N, H, W] or N masks [H, W]; N arrays of boxes, float [M, 5 or 6]; numbers [N, …] of float
            type: targets.
        count: samples.
        source: how messages name the data.

    Raises:
        UserError: another number of them, or arrays of several kinds.
    """
    if labels is None:
        return None
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        kind: Kind | None = None
        if labels.dtype.kind == "f" and labels.ndim > 1:
            kind = "targets"
        elif labels.dtype.kind in "iu" and labels.ndim == 3:
            kind = "masks"
        if kind is None:
            return None
        items: list[Array] = list(labels)
    else:
        if not isinstance(labels, Sequence | np.ndarray) or not len(labels) or np.ndim(labels[0]) == 0:
            return None
        items = [np.asarray(one) for one in labels]
        kind = _kind_of(items, source)
        if kind == "boxes":
            items = [_six_columns(one, f"{source}: boxes of sample {at}") for at, one in enumerate(items)]
    if len(items) != count:
        raise UserError(f"{source}: {len(items)} labels for {count} samples; give one for each")
    return HeldTruth(kind, items)


def _kind_of(items: Sequence[Array], source: str) -> Kind:
    if all(one.ndim == 2 and one.dtype.kind in "iu" and one.size for one in items):
        return "masks"
    if all(one.size == 0 or (one.ndim == 2 and one.shape[1] in {5, 6}) for one in items):
        return "boxes"
    if all(one.dtype.kind == "f" for one in items):
        return "targets"
    raise UserError(
        f"{source}: labels are neither class numbers [N], masks (integers [H, W]), boxes ([M, 5]) nor float targets"
    )


def _six_columns(boxes: Array, where: str) -> npt.NDArray[np.float64]:
    x = boxes.astype(np.float64).reshape(-1, boxes.shape[1] if boxes.ndim == 2 and boxes.size else 5)
    if x.shape[1] == 5:
        x = np.column_stack([x, np.zeros(len(x))])
    check_boxes(x, where)
    return x


def check_boxes(boxes: npt.NDArray[np.float64], where: str) -> None:
    """Refuse boxes that lie far outside the image, or end before they begin.

    Args:
        boxes: [M, 6], in 0…1 of the image.
        where: file or sample.
    """
    if not np.isfinite(boxes).all() or (boxes[:, :4] < -0.5).any() or (boxes[:, :4] > 1.5).any():
        raise UserError(f"{where}: coordinates must be fractions of the image, 0…1; divide by its width and height")
    if (boxes[:, 2] < boxes[:, 0]).any() or (boxes[:, 3] < boxes[:, 1]).any():
        raise UserError(f"{where}: a box ends before it begins; give left, top, right, bottom")
