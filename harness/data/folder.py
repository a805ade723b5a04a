"""Folders of images: with labels.csv, one folder per class, or plain; decoded only when read."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from harness.data.batch import Batch, Labels
from harness.data.images import SUFFIXES, ImagePipeline
from harness.data.label_files import open_label_files
from harness.data.label_map import LabelMap
from harness.data.truth import Truth
from harness.errors import UserError
from harness.yamlfile import suggest

LABELS_FILE = "labels.csv"


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a folder, before any is opened.

    Args:
        ids: names as in labels.csv, or relative to the folder.
        paths: of the files.
        labels: int64 [N] or None.
        label_source: the file or folder that says so.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Labels | None
    label_source: str


class FolderDataSet:
    """A `DataSet` of image files. Nothing is kept of an image that was read.

    Args:
        folder: with the images; its name is the data set's.
        pipeline: from file to tensor.
        label_offset: added to every label.
        label_files: masks or boxes in files of their own (`label_files.open_label_files`), in place of classes; only
            images that have labels are samples.
        label_map: of those files.
    """

    def __init__(
        self,
        folder: Path,
        pipeline: ImagePipeline,
        label_offset: int = 0,
        label_files: Path | None = None,
        label_map: LabelMap | None = None,
    ) -> None:
        listing = list_folder(folder)
        self.truth: Truth | None = None
        if label_files is not None:
            if pipeline.preprocess.crop is not None:
                raise UserError("preprocess.crop: masks and boxes would no longer fit; use resize: [height, width]")
            kept, self.truth = open_label_files(label_files, listing.paths, label_map)
            ids, paths = (tuple(column[index] for index in kept) for column in (listing.ids, listing.paths))
            listing = Listing(ids, paths, None, str(label_files))  # type: ignore[arg-type]
        self.name = folder.resolve().name
        self.label_source = listing.label_source
        self.ids = listing.ids
        self.labels = None if listing.labels is None else listing.labels + label_offset
        self._paths = listing.paths
        self._pipeline = pipeline

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: Sequence[int]) -> Batch:
        """See `DataSet.read`."""
        ids = tuple(self.ids[index] for index in indices)
        names = [f"{self.name}/{name}" for name in ids]
        pixels = [self._pipeline.decode(self._paths[i], name) for i, name in zip(indices, names, strict=True)]
        inputs = {self._pipeline.spec.name: self._pipeline.finish(pixels, names)}
        return Batch(ids, inputs, None if self.labels is None else self.labels[list(indices)])

    @cached_property
    def _digest(self) -> str:
        whole = hashlib.sha256(repr((self._pipeline.preprocess, self._pipeline.spec)).encode())
        for index, path in enumerate(self._paths):
            label = None if self.labels is None else int(self.labels[index])
            whole.update(repr((self.ids[index], label)).encode())
            try:
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); restore or remove it") from None
        if self.truth is not None:
            whole.update(self.truth.digest().encode())
        return whole.hexdigest()

    def digest(self) -> str:
        """See `DataSet.digest`; reads every file once."""
        return self._digest


def list_folder(folder: Path) -> Listing:
    """Find the images of a folder and their labels.

    Raises:
        UserError: no images, or a labels.csv that cannot be used; names the line and the remedy.
    """
    table = folder / LABELS_FILE
    if table.is_file():
        return _from_table(folder, table)
    subfolder = folder / "images"
    if subfolder.is_dir() and _images_in(subfolder):
        return _unlabelled(folder, subfolder)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if any(_images_in(sub) for sub in classes):
        return _per_class(folder, classes)
    if _images_in(folder):
        return _unlabelled(folder, folder)
    raise UserError(
        f"{folder}: no {LABELS_FILE}, no images and no folders of images (one per class); put the data there"
    )


def _from_table(folder: Path, table: Path) -> Listing:
    rows = _read_rows(table)
    number, header = rows[0] if rows else (1, [])
    columns = [name.strip() for name in header]
    for column in ("filename", "label_index"):
        if column not in columns:
            hint = suggest(column, columns)
            raise UserError(
                f"{table}:{number}: no column '{column}' in the first line ({','.join(columns)[:80]})"
                f"{hint.replace('did you mean', 'rename')}"
                f"{'' if hint else '; it must start like filename,label_index'}"
            )
    at_name, at_label = columns.index("filename"), columns.index("label_index")
    ids: list[str] = []
    paths: list[Path] = []
    labels: list[int] = []
    seen: dict[str, int] = {}
    for number, row in rows[1:]:
        if len(row) <= max(at_name, at_label):
            raise UserError(f"{table}:{number}: {len(row)} of {len(columns)} columns; complete or remove the line")
        name = row[at_name].strip()
        if name in seen:
            raise UserError(f"{table}:{number}: {name} is listed already in line {seen[name]}; remove one")
        seen[name] = number
        ids.append(name)
        paths.append(_locate(folder, name, f"{table}:{number}"))
        labels.append(_whole(row[at_label], f"{table}:{number}", name))
    if not ids:
        raise UserError(f"{table}: lists no files; add lines such as cat.jpg,0")
    return Listing(tuple(ids), tuple(paths), np.array(labels, np.int64), str(table))


def _read_rows(table: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError:
        raise UserError(f"{table}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{table}: cannot be read ({error.strerror}); check its permissions") from None
    except csv.Error as error:
        raise UserError(f"{table}: not comma-separated text ({error}); save it as CSV") from None


def _locate(folder: Path, name: str, where: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise UserError(f"{where}: filename '{name}' is not a path inside the folder; write it relative to it")
    for path in (folder / name, folder / "images" / name):
        if path.is_file():
            return path
    raise UserError(f"{where}: {name} is neither in {folder} nor in its images/; restore it or remove the line")


def _whole(text: str, where: str, name: str) -> int:
    try:
        label = int(text)
    except ValueError:
        raise UserError(
            f"{where}: label_index '{text}' of {name} is not a whole number; write the class's number"
        ) from None
    if abs(label) > 2**31:
        raise UserError(f"{where}: label_index {text} of {name} is no class number; correct it")
    return label


def _per_class(folder: Path, classes: Sequence[Path]) -> Listing:
    paths: list[Path] = []
    labels: list[int] = []
    for index, sub in enumerate(classes):
        found = _images_in(sub)
        if not found:
            raise UserError(f"{sub}: a class folder without images would shift the class numbers; fill or remove it")
        paths += found
        labels += [index] * len(found)
    ids = tuple(path.relative_to(folder).as_posix() for path in paths)
    return Listing(ids, tuple(paths), np.array(labels, np.int64), str(folder))


def _unlabelled(folder: Path, where: Path) -> Listing:
    paths = _images_in(where)
    return Listing(tuple(path.relative_to(folder).as_posix() for path in paths), tuple(paths), None, str(folder))


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
